"""What the set-up remembers about .venv, and how it mends one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from bootstrap import environment, progress
from bootstrap.environment import State

STEPS = ["packages", "torch", "burnish"]


@pytest.fixture
def checkout(tmp_path: Path, root: Path) -> Path:
    """A copy of the files that the stamp depends on, in a folder with a space and Chinese characters."""
    folder = tmp_path / "路径 with 空格"
    shutil.copytree(root / "requirements", folder / "requirements")
    shutil.copy(root / "pyproject.toml", folder)
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    folder.mkdir(parents=True)
    return folder


def install(packages: Path, name: str, files: dict[str, str]) -> Path:
    """Lay a package down as pip does, with a RECORD of paths and sizes."""
    metadata = packages / f"{name}.dist-info"
    metadata.mkdir()
    rows = []
    for path, text in files.items():
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        (packages / path).write_text(text, encoding="utf-8")
        rows.append(f"{path},sha256=x,{len(text.encode())}")
    rows.append(f"{metadata.name}/RECORD,,")
    (metadata / "RECORD").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return metadata


def changed(checkout: Path, edit: str) -> list[str]:
    """The steps whose stamp is another one after an edit."""
    before = environment.wanted(checkout, "3.11", dev=True)
    path = checkout / edit
    if path.name == "pyproject.toml":
        path.write_text(path.read_text(encoding="utf-8").replace("line-length = 110", "line-length = 100"))
    else:
        path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    after = environment.wanted(checkout, "3.11", dev=True)
    return [name for name in before if before[name] != after[name]]


def test_the_steps_and_their_order(checkout: Path) -> None:
    assert list(environment.wanted(checkout, "3.11", dev=False)) == STEPS
    assert list(environment.wanted(checkout, "3.11", dev=True)) == [*STEPS, "dev tools"]


def test_the_developer_layer_leaves_the_other_stamps_as_they_are(checkout: Path) -> None:
    plain, dev = (environment.wanted(checkout, "3.11", dev=dev) for dev in (False, True))
    assert {name: dev[name] for name in STEPS} == plain


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("requirements/lock.txt", ["packages"]),
        ("requirements/lock-dev.txt", ["dev tools"]),
        ("requirements/torch.txt", ["torch"]),
        ("requirements/pins.txt", []),
        ("pyproject.toml", []),
    ],
)
def test_a_changed_file_asks_for_its_step_only(checkout: Path, edit: str, expected: list[str]) -> None:
    assert changed(checkout, edit) == expected


def test_a_changed_dependency_asks_for_the_checkout_to_be_installed_again(checkout: Path) -> None:
    before = environment.wanted(checkout, "3.11", dev=True)
    path = checkout / "pyproject.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('"rich>=14"', '"rich>=15"'), encoding="utf-8")
    after = environment.wanted(checkout, "3.11", dev=True)
    assert [name for name in before if before[name] != after[name]] == ["burnish"]


def test_another_python_asks_for_everything(checkout: Path) -> None:
    old, new = (environment.wanted(checkout, version, dev=True) for version in ("3.11", "3.12"))
    assert all(old[name] != new[name] for name in old)


def test_moving_bytes_between_parts_changes_the_fingerprint() -> None:
    assert environment.fingerprint(b"ab", b"c") != environment.fingerprint(b"a", b"bc")


def test_the_state_survives_writing_and_reading(tmp_path: Path) -> None:
    state = State("/路径/burnish", "3.11", {"packages": "1"}, "torch", {"version": "2.13.0+cpu", "gpu_seen": False})
    environment.write_state(tmp_path, state)
    assert environment.read_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [environment.STATE_NAME]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "unknown": 2}', '{"root": "/a"}'])
def test_an_unreadable_state_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / environment.STATE_NAME).write_text(text, encoding="utf-8")
    assert environment.read_state(tmp_path) == State()


def test_a_folder_is_an_environment_only_with_its_interpreter(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.4\n", encoding="utf-8")
    assert environment.made_with(tmp_path) == ""
    python = environment.interpreter(tmp_path)
    python.parent.mkdir()
    python.symlink_to(tmp_path / "gone")
    assert environment.made_with(tmp_path) == ""
    python.unlink()
    python.write_text("")
    assert environment.made_with(tmp_path) == "3.12"


def test_the_installed_version_is_read_from_the_metadata(packages: Path) -> None:
    install(packages, "torch-2.13.0+cpu", {"torch/__init__.py": "1"})
    install(packages, "torch_extras-1.0", {"torch_extras.py": "1"})
    assert environment.installed_version(packages, "torch") == "2.13.0+cpu"
    assert environment.installed_version(packages, "numpy") is None


def test_mending_forgets_half_installed_packages_and_keeps_whole_ones(packages: Path) -> None:
    whole = install(packages, "whole-1.0", {"whole/a.py": "text", "../../../bin/whole": "路"})
    missing = install(packages, "missing-1.0", {"missing/a.py": "text", "missing/b.py": "text"})
    (packages / "missing/b.py").unlink()
    cut = install(packages, "cut-1.0", {"cut/a.py": "a longer text"})
    (packages / "cut/a.py").write_text("a lon")
    unfinished = packages / "unfinished-1.0.dist-info"
    unfinished.mkdir()
    leftover = packages / "~umpy"
    leftover.mkdir()

    assert environment.mend(packages) == ["cut-1.0", "missing-1.0", "unfinished-1.0"]
    assert whole.exists()
    assert not any(path.exists() for path in (missing, cut, unfinished, leftover))
    assert environment.mend(packages) == []


def test_compiled_files_may_be_missing(packages: Path) -> None:
    metadata = install(packages, "one-1.0", {"one.py": "1"})
    with open(metadata / "RECORD", "a", encoding="utf-8") as file:
        file.write("__pycache__/one.cpython-311.pyc,,\n")
    assert environment.is_whole(metadata)


def test_the_sources_are_named_by_a_relative_ascii_path(tmp_path: Path) -> None:
    root = tmp_path / "路径 with 空格"
    packages = root / ".venv" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (root / "src").mkdir()
    absolute = str(root / "src") + "\n"
    metadata = install(packages, "burnish-0.1.0", {"__editable__.burnish-0.1.0.pth": absolute})

    environment.point_to_sources(root / ".venv", root)

    written = (packages / "__editable__.burnish-0.1.0.pth").read_bytes()
    assert written.isascii()
    assert os.path.samefile(packages / written.decode().strip(), root / "src")
    assert environment.is_whole(metadata)


def test_a_missing_editable_installation_is_an_error(packages: Path) -> None:
    with pytest.raises(FileNotFoundError):
        environment.point_to_sources(packages.parents[2], packages.parents[3])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Collecting numpy==2.4.6 (from -r requirements/lock.txt (line 7))", "numpy"),
        ("  Downloading torch-2.13.0-cp311-linux.whl (191.8 MB)", "fetching torch, 191.8 MB"),
        (
            "Processing /wheels/jinja2-3.1.6-py3-none-any.whl (from -r requirements/lock.txt (line 9))",
            "jinja2",
        ),
        ("Installing collected packages: a, b, c", "unpacking 3 packages"),
        ("Prepared 12 packages in 1.2s", "prepared 12 packages"),
        ("WARNING: something", ""),
    ],
)
def test_a_line_of_pips_output_in_a_few_words(line: str, expected: str) -> None:
    assert progress.activity(line) == expected


def test_times_and_widths() -> None:
    assert [progress.clock(seconds) for seconds in (0.2, 59.6, 65, 3600)] == ["0:00", "1:00", "1:05", "60:00"]
    assert progress.fit("路径 ab", 5) == "路径 "
    assert progress.fit("short", 80) == "short"


def run(command: list[str], tmp_path: Path) -> str:
    log = tmp_path / "install.log"
    progress.run(command, title="t", log=log, cwd=tmp_path, env=dict(os.environ), screen=progress.Screen())
    return log.read_text(encoding="utf-8")


def test_a_steps_output_goes_to_the_log(tmp_path: Path) -> None:
    log = run([shutil.which("sh") or "sh", "-c", "echo 路径; echo error >&2"], tmp_path)
    assert "路径" in log
    assert "error" in log
    assert "[exit status 0" in log


def test_a_failed_step_carries_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(progress.StepFailed) as caught:
        run(["sh", "-c", "seq 100; echo the end; exit 3"], tmp_path)
    assert caught.value.tail[-1] == "the end"
    assert len(caught.value.tail) == 12
    assert "[exit status 3" in (tmp_path / "install.log").read_text(encoding="utf-8")


def test_a_program_that_is_not_there_is_a_failed_step(tmp_path: Path) -> None:
    with pytest.raises(progress.StepFailed, match="no-such-program"):
        run(["no-such-program"], tmp_path)
