"""The set-up's own modules are found in tools/, as they are when tools/install.py runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT / "tools") not in sys.path:
    sys.path.append(str(ROOT / "tools"))


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT
