"""Write requirements/lock.txt and requirements/lock-dev.txt from pyproject.toml.

    make lock                 keep the versions that are locked, add or drop what pyproject.toml asks for
    make lock ARGS=--upgrade  take the newest of everything but requirements/pins.txt

The lock holds exact versions with the hashes of every file of a release, so that one lock serves all
platforms. torch and the GPU libraries that only it needs are left out: tools/install.py picks torch's build
for the machine. torch's own plain dependencies stay in. lock-dev.txt holds only what the developer tools add.

Resolving is uv's work; where uv is missing it is fetched into a throw-away environment. Which index answers
is the business of this machine's uv settings: no index is named here, nor written to the lock.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
OLDEST_PYTHON = "3.11"
LEFT_OUT = re.compile(r"^(torch|triton|pytorch-triton.*|nvidia-.*|cuda-.*)$")

RUNTIME_HEADER = """\
# What Burnish runs on: exact versions with hashes, for all platforms. Written by `make lock`; do not edit.
# torch is not here: requirements/torch.txt names it, tools/install.py picks its build.
"""
UV_HEADER = """\
# The uv that tools/install.py fetches where it needs one. Written by `make lock`; do not edit.
"""
DEV_HEADER = """\
# What the developer tools add to lock.txt. Written by `make lock`; do not edit.
"""


def split_lock(text: str) -> dict[str, list[str]]:
    """Split a compiled requirements text into blocks, by package name.

    A block is a pinned line with its hash lines; a package has one block for each marker.
    """
    blocks: dict[str, list[str]] = {}
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", text, flags=re.MULTILINE):
        name = re.split(r"[=<>!~;\[ @]", block, maxsplit=1)[0].lower()
        blocks.setdefault(name, []).append(block)
    return blocks


def join_lock(header: str, blocks: dict[str, list[str]]) -> str:
    """Put a header and the blocks, sorted by name, into one text."""
    return header + "".join(block + "\n" for name in sorted(blocks) for block in blocks[name])


def without_hashes(compiled: str) -> str:
    """Drop the hash lines, for a use as constraints."""
    return re.sub(r" \\\n[ \t]+--hash=\S+", "", compiled)


def runtime_blocks(compiled: str) -> dict[str, list[str]]:
    """Keep everything but torch and the GPU libraries that only torch needs."""
    return {name: parts for name, parts in split_lock(compiled).items() if not LEFT_OUT.match(name)}


def dev_blocks(compiled: str, runtime: dict[str, list[str]]) -> dict[str, list[str]]:
    """Keep what is neither in the runtime lock nor left out of it."""
    return {name: parts for name, parts in runtime_blocks(compiled).items() if name not in runtime}


def find_uv(scratch: Path) -> str:
    """Return the uv to use, fetched into `scratch` if this machine has none."""
    found = shutil.which("uv")
    if found:
        return found
    print("uv is not on PATH; fetching it into a throw-away environment", flush=True)
    venv.create(scratch / "uv", with_pip=True)
    binaries = scratch / "uv" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(binaries / "uv")


def compile_lock(
    uv: str, scratch: Path, *, source: str = "pyproject.toml", extra: str = "", keep: str, pins: list[Path]
) -> str:
    """Resolve requirements with uv; `keep` is an earlier result whose versions are preferred."""
    output = scratch / "compiled.txt"
    output.write_text(keep, encoding="utf-8")
    command = [uv, "pip", "compile", source, "--output-file", str(output), "--quiet"]
    command += ["--universal", "--python-version", OLDEST_PYTHON, "--fork-strategy", "fewest"]
    command += ["--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--extra", extra] if extra else []
    for pin in pins:
        command += ["--constraint", str(pin)]
    subprocess.run(command, cwd=ROOT, check=True)
    return output.read_text(encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write requirements/lock.txt and lock-dev.txt.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, but for pins.txt")
    options = parser.parse_args()
    paths = {name: REQUIREMENTS / f"{name}.txt" for name in ("lock", "lock-dev", "uv")}
    keep = dict.fromkeys(paths, "")
    if not options.upgrade:
        keep |= {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
    pins = [REQUIREMENTS / "pins.txt", REQUIREMENTS / "torch.txt"]
    with tempfile.TemporaryDirectory(prefix="burnish-lock-") as folder:
        scratch = Path(folder)
        uv = find_uv(scratch)
        compiled = compile_lock(uv, scratch, keep=keep["lock"], pins=pins)
        runtime = runtime_blocks(compiled)
        resolved = scratch / "resolved.txt"
        resolved.write_text(without_hashes(compiled), encoding="utf-8")
        pins.append(resolved)
        dev = dev_blocks(compile_lock(uv, scratch, extra="dev", keep=keep["lock-dev"], pins=pins), runtime)
        asked = scratch / "uv.in"
        asked.write_text("uv\n", encoding="utf-8")
        fetched = split_lock(compile_lock(uv, scratch, source=str(asked), keep=keep["uv"], pins=[]))
    paths["lock"].write_text(join_lock(RUNTIME_HEADER, runtime), encoding="utf-8")
    paths["lock-dev"].write_text(join_lock(DEV_HEADER, dev), encoding="utf-8")
    paths["uv"].write_text(join_lock(UV_HEADER, fetched), encoding="utf-8")
    print(f"{len(runtime)} packages in requirements/lock.txt, {len(dev)} more in requirements/lock-dev.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
