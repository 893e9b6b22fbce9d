"""The lock files: complete, exact, with hashes, and without the name of any host."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ["lock.txt", "lock-dev.txt", "uv.txt"]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    """tools/lock.py as a module."""
    path = Path(__file__).resolve().parents[3] / "tools" / "lock.py"
    spec = importlib.util.spec_from_file_location("burnish_tools_lock", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pinned(lock: ModuleType, path: Path) -> dict[str, list[Requirement]]:
    """Package name -> its pinned requirements (one for each marker)."""
    blocks = lock.split_lock(path.read_text(encoding="utf-8"))
    heads = {name: [Requirement(block.split("\\")[0].strip()) for block in parts] for name, parts in blocks.items()}
    return {canonicalize_name(name): requirements for name, requirements in heads.items()}


def declared(root: Path, extra: str | None = None) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        Requirement(line) for line in (project["optional-dependencies"][extra] if extra else project["dependencies"])
    ]


@pytest.mark.parametrize("name", [*LOCKS, "torch.txt", "pins.txt"])
def test_no_host_or_address_is_named(root: Path, name: str) -> None:
    text = (root / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(extra-)?index|--find-links|--trusted-host", text)
    assert not re.search(r"\b[\w-]+\.(org|com|net|io)\b", text)


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_exact_and_has_hashes(root: Path, lock: ModuleType, name: str) -> None:
    path = root / "requirements" / name
    blocks = lock.split_lock(path.read_text(encoding="utf-8"))
    assert blocks
    for parts in blocks.values():
        for block in parts:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
    for requirements in pinned(lock, path).values():
        for requirement in requirements:
            assert [spec.operator for spec in requirement.specifier] == ["=="], requirement


def test_every_declared_dependency_is_locked_at_a_version_it_admits(root: Path, lock: ModuleType) -> None:
    runtime = pinned(lock, root / "requirements" / "lock.txt")
    torch = Requirement((root / "requirements" / "torch.txt").read_text(encoding="utf-8").split("\n")[1])
    runtime["torch"] = [torch]
    everything = {**runtime, **pinned(lock, root / "requirements" / "lock-dev.txt")}
    for requirement in declared(root):
        check(requirement, runtime)
    for requirement in declared(root, "dev"):
        check(requirement, everything)


def check(requirement: Requirement, locked: dict[str, list[Requirement]]) -> None:
    name = canonicalize_name(requirement.name)
    assert name in locked, f"{name} is not locked: make lock"
    for entry in locked[name]:
        (spec,) = entry.specifier
        assert requirement.specifier.contains(spec.version), f"{entry} is outside {requirement}: make lock"


def test_what_builds_the_checkout_is_locked_so_that_no_index_is_asked(root: Path, lock: ModuleType) -> None:
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    runtime = pinned(lock, root / "requirements" / "lock.txt")
    for line in build:
        check(Requirement(line), runtime)


def test_versions_chosen_by_hand_are_the_locked_ones(root: Path, lock: ModuleType) -> None:
    runtime = pinned(lock, root / "requirements" / "lock.txt")
    for line in (root / "requirements" / "pins.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert [str(entry.specifier) for entry in runtime[canonicalize_name(requirement.name)]] == [
                str(requirement.specifier)
            ]


def test_torch_and_its_gpu_libraries_are_not_in_the_lock(root: Path, lock: ModuleType) -> None:
    names = [name for file in LOCKS for name in pinned(lock, root / "requirements" / file)]
    assert not [name for name in names if re.match(r"torch$|triton|nvidia|cuda", name)]


def test_the_two_layers_share_no_package(root: Path, lock: ModuleType) -> None:
    runtime, dev = (pinned(lock, root / "requirements" / name) for name in ("lock.txt", "lock-dev.txt"))
    assert not runtime.keys() & dev.keys()


def test_splitting_and_joining_keeps_every_block(lock: ModuleType) -> None:
    text = (
        "# made by hand\n"
        "b==2 ; sys_platform == 'win32' \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n"
        "a==1 \\\n    --hash=sha256:3\n"
        "b==3 ; sys_platform != 'win32' \\\n    --hash=sha256:4\n"
        "torch==2 \\\n    --hash=sha256:5\n"
        "nvidia-cublas==1 \\\n    --hash=sha256:6\n"
    )
    blocks = lock.runtime_blocks(text)
    assert {name: len(parts) for name, parts in blocks.items()} == {"b": 2, "a": 1}
    joined = lock.join_lock("# head\n", blocks)
    assert joined.splitlines()[1] == "a==1 \\"
    assert lock.split_lock(joined) == blocks
    assert lock.dev_blocks(text, {"a": []}).keys() == {"b"}


def test_hashes_can_be_dropped(lock: ModuleType) -> None:
    text = "a==1 \\\n    --hash=sha256:3 \\\n    --hash=sha256:4\nb==2 ; x \\\n    --hash=sha256:5\n"
    assert lock.without_hashes(text) == "a==1\nb==2 ; x\n"
