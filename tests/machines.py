"""Kernels compiled for machines with narrower vectors than the one at hand."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from burnish.kernels import native


def compiled_for(machine: str, name: str, folder: Path) -> ctypes.CDLL:
    """The functions of `kernels/NAME.c` for a machine of GCC's names; skips the test where they cannot run."""
    made = folder / f"{name}.so"
    source = Path(native.__file__).with_name(f"{name}.c")
    options = ["-O2", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=fast", f"-march={machine}"]
    done = subprocess.run(["cc", *options, str(source), "-o", str(made), "-lm"], capture_output=True, check=False)
    flags = Path("/proc/cpuinfo")
    needed = {"x86-64-v3": " avx2 ", "x86-64-v4": " avx512vl "}.get(machine, "")
    if done.returncode or (needed and not (flags.exists() and needed in flags.read_text())):
        pytest.skip("this machine is none of that kind")
    return ctypes.CDLL(str(made))
