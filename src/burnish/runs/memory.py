"""How much memory this process holds, in MB of 1024 × 1024 bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

_MB = 1024 * 1024


def rss_mb() -> float:
    """The resident memory of this process now, in MB."""
    return psutil.Process().memory_info().rss / _MB


def peak_rss_mb() -> float:
    """The most resident memory that this process has held so far, in MB.

    Linux's `getrusage` starts from the peak of the process that launched this one, so the kernel's own
    high-water mark is read there instead.
    """
    if sys.platform == "linux":
        kib = _high_water_kib(Path("/proc/self/status"))
        if kib:
            return kib / 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / _MB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MB if sys.platform == "darwin" else peak / 1024  # bytes on macOS, KiB elsewhere


def _high_water_kib(status: Path) -> int | None:
    """`VmHWM` of a /proc status file, in KiB; None where the kernel does not tell."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith("VmHWM:")), [])
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
