"""The .venv folder: what it holds, what was finished in it, and how a damaged one is mended."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import shutil
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATE_NAME = "burnish-install.json"
SCHEMA = 1


@dataclass
class State:
    """What was finished in a .venv.

    Attributes:
        root: the checkout it was made for; scripts in a .venv hold this path.
        python: "3.11", of the interpreter it was made with.
        done: step name -> fingerprint of what the step read.
        running: the step that was under way when this was written; it was cut off if it still stands here.
        torch: version, override and gpu_seen of the installed torch.
    """

    root: str = ""
    python: str = ""
    done: dict[str, str] = field(default_factory=dict)
    running: str = ""
    torch: dict[str, Any] = field(default_factory=dict)


def read_state(folder: Path) -> State:
    """Read the state of a .venv; an absent or unreadable one is an empty state."""
    try:
        raw = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            return State()
        return State(**raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()


def write_state(folder: Path, state: State) -> None:
    """Write the state aside and rename it, so that it is never half there."""
    aside = folder / (STATE_NAME + ".new")
    text = json.dumps({"schema": SCHEMA, **vars(state)}, indent=1, ensure_ascii=False)
    aside.write_text(text + "\n", encoding="utf-8")
    os.replace(aside, folder / STATE_NAME)


def fingerprint(*parts: bytes) -> str:
    """Hash parts so that moving bytes from one to the next changes the result."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(len(part)).encode() + b":" + part)
    return digest.hexdigest()


def wanted(root: Path, python: str, *, dev: bool) -> dict[str, str]:
    """Return step name -> fingerprint, in the order of the steps, for what the checkout asks for now.

    Of pyproject.toml only what an installation depends on counts, not the settings of the linters.
    """
    requirements = root / "requirements"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    tables = [project.get("build-system"), project.get("project"), project.get("tool", {}).get("setuptools")]
    version = python.encode()
    steps = {
        "packages": fingerprint(version, (requirements / "lock.txt").read_bytes()),
        "torch": fingerprint(version, (requirements / "torch.txt").read_bytes()),
        "burnish": fingerprint(version, json.dumps(tables, sort_keys=True).encode()),
    }
    if dev:
        steps["dev tools"] = fingerprint(version, (requirements / "lock-dev.txt").read_bytes())
    return steps


def binaries(folder: Path) -> Path:
    """Return the folder of a .venv's programs."""
    return folder / ("Scripts" if os.name == "nt" else "bin")


def interpreter(folder: Path) -> Path:
    """Return a .venv's Python."""
    return binaries(folder) / ("python.exe" if os.name == "nt" else "python")


def made_with(folder: Path) -> str:
    """Return "3.11" for a .venv made with 3.11.x; empty if the folder is no whole .venv."""
    try:
        lines = (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    values = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    version = values.get("version") or values.get("version_info") or ""
    if not interpreter(folder).exists():
        return ""
    return ".".join(version.split(".")[:2])


def site_packages(folder: Path) -> Path:
    """Return the folder that packages are installed to."""
    if os.name == "nt":
        return folder / "Lib" / "site-packages"
    found = sorted(folder.glob("lib/python3*/site-packages"))
    return found[-1] if found else folder / "lib" / "site-packages"


def installed_version(packages: Path, name: str) -> str | None:
    """Return a package's version from the name of its metadata folder, or None."""
    for folder in packages.glob(f"{name}-*.dist-info"):
        return folder.name[len(name) + 1 : -len(".dist-info")]
    return None


def point_to_sources(folder: Path, root: Path) -> None:
    """Make the editable installation name the sources by a relative path.

    setuptools writes an absolute path in the encoding of its locale, and Python reads it in that of its own:
    a checkout under a folder named 路径 would be found in one locale and not in another. A relative path is
    plain ASCII.

    Raises:
        FileNotFoundError: Burnish is not installed as editable.
    """
    packages = site_packages(folder)
    found = sorted(packages.glob("__editable__.burnish-*.pth"))
    if not found:
        raise FileNotFoundError(packages / "__editable__.burnish-*.pth")
    content = (os.path.relpath(root / "src", packages) + "\n").encode()
    found[0].write_bytes(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    for record in packages.glob("burnish-*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines()
        mine = f"{found[0].name},sha256={digest},{len(content)}"
        lines = [mine if line.startswith(found[0].name + ",") else line for line in lines]
        record.write_text("\n".join(lines) + "\n", encoding="utf-8")


def portable(path: Path) -> str:
    """Return a path as text that is the same in every locale."""
    return os.fsencode(path).decode("utf-8", "replace")


def is_whole(metadata: Path) -> bool:
    """Say whether every file that a package's RECORD lists is there in its full size."""
    try:
        with open(metadata / "RECORD", newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    for row in rows:
        if not row or row[0].endswith(".pyc"):
            continue
        path = metadata.parent / row[0]
        if not path.exists():
            return False
        if len(row) > 2 and row[2].isdigit() and path.stat().st_size != int(row[2]):
            return False
    return True


def mend(packages: Path) -> list[str]:
    """Forget the packages that an interrupted installation left half there, so that they are installed again.

    Returns:
        Their names with versions. Only metadata is removed; the next installation overwrites the files.
    """
    mended = []
    for leftover in packages.glob("~*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for metadata in sorted(packages.glob("*.dist-info")):
        if not is_whole(metadata):
            shutil.rmtree(metadata)
            mended.append(metadata.name.removesuffix(".dist-info"))
    return mended
