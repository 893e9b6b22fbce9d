"""Compiles the C files of this room for the machine at hand, once, and loads them.

What is compiled is kept in the cache folder under a name made of the source, the compiler's options and the processor:
a folder shared by different machines holds one file for each.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from burnish.cache import cache_folder

_OPTIONS = ("-O3", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno")
_SECONDS = 120


class CannotCompile(Exception):
    """Why there is no native code here, in a few words."""


@cache
def native(name: str) -> ctypes.CDLL:
    """The functions of `kernels/NAME.c`, compiled at the first call on this machine (a few seconds).

    Raises:
        CannotCompile: there is no C compiler, or it refused, or what it made cannot be loaded.
    """
    source = Path(__file__).with_name(f"{name}.c")
    text = b"".join(file.read_bytes() for file in sorted((source, *source.parent.glob("*.h"))))
    options = (*_OPTIONS, "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native")
    found = compiler()
    mark = hashlib.sha256(b"\0".join([text, repr(options).encode(), _processor().encode()])).hexdigest()[:16]
    kept = cache_folder() / "native" / f"{name}-{mark}.so"
    if not kept.exists():
        _compile(found, options, source, kept)
    try:
        return ctypes.CDLL(str(kept))
    except OSError as error:
        raise CannotCompile(f"{kept.name} cannot be loaded: {error}") from error


def compiler() -> str:
    """The C compiler: that of `CC`, or the first of cc, gcc and clang.

    Raises:
        CannotCompile: there is none.
    """
    if sys.platform == "win32":
        raise CannotCompile("Windows has no C compiler that is called as on other systems")
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise CannotCompile("no C compiler (cc, gcc or clang) was found")


def compiler_in_words() -> str:
    """The compiler's path, or why there is none and what follows."""
    try:
        return compiler()
    except CannotCompile as reason:
        return f"none: {reason}; attention, layers and tokens are computed without its kernels"


def _compile(name: str, options: tuple[str, ...], source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            command = [name, *options, str(source), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            if done.returncode:
                said = done.stderr.strip().splitlines()
                raise CannotCompile(f"{Path(name).name} failed: {said[0] if said else done.returncode}")
            os.replace(made, target)  # whole or not at all, for processes that look at the same time
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"compiling failed: {error}") from error


def _processor() -> str:
    """What the compiled code is bound to: the processor's kind and its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
