"""Other machines than the one at hand: kernels for fewer instructions, and the number format that a CPU suits."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from burnish.kernels import native
from burnish.model import precision


def without_bf16() -> None:
    """Compute in float32 where nothing else is asked for, as a CPU without bf16 instructions does: alike everywhere."""
    precision.cpu_flags = set


@contextmanager
def with_bf16() -> Iterator[None]:
    """Compute in bfloat16 where nothing else is asked for, as on a CPU with such instructions."""
    before, precision.cpu_flags = precision.cpu_flags, lambda: {"amx_bf16"}
    try:
        yield
    finally:
        precision.cpu_flags = before


@contextmanager
def forgotten(*cached: Any) -> Iterator[None]:
    """Within the block these functions (`functools.cache`) find anew; what they find there is forgotten after it."""
    for function in cached:
        function.cache_clear()
    try:
        yield
    finally:
        for function in cached:
            function.cache_clear()


def has_compiler() -> bool:
    """Whether kernels can be compiled here."""
    try:
        native.compiler()
    except native.CannotCompile:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


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
