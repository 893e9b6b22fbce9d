"""One process at a time in a run folder; the lock goes with its process, however that dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from burnish.errors import RunFolderError
from burnish.runs.folder import RunFolder
from burnish.runs.lock import hold, is_held


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    assert is_held(tmp_path) is False
    with hold(tmp_path):
        assert is_held(tmp_path) is True
        with pytest.raises(RunFolderError, match="another process"), hold(tmp_path):
            pass
        with pytest.raises(RunFolderError, match="another process"):
            RunFolder.open_for_training(tmp_path, overwrite=True)
    assert is_held(tmp_path) is False
    assert list(tmp_path.iterdir()) == []
    assert is_held(tmp_path / "absent") is None


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from burnish.runs.lock import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert is_held(tmp_path) is True
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert is_held(tmp_path) is False
