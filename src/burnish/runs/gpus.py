"""The GPUs of this machine as NVIDIA's driver tells: through `pynvml` where it is installed, else `nvidia-smi`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

TIMEOUT_S = 5.0
_MB = 1024 * 1024
_COLUMNS = ("index", "uuid", "utilization.gpu", "power.draw", "memory.used", "temperature.gpu")
_NAMES = ("gpu_percent", "gpu_power_w", "gpu_memory_mb", "gpu_temperature_c")

Row = tuple[int, str, list[float | None]]  # index, uuid, then the values of _NAMES


def gpu_reader() -> Callable[[], dict[str, float]] | None:
    """What gives the figures of the GPUs that this process may use; None where no driver tells.

    The reader raises OSError or ValueError when the driver does not answer.
    """
    try:
        import pynvml  # the package nvidia-ml-py

        pynvml.nvmlInit()
    except ImportError:
        program = shutil.which("nvidia-smi")
        return (lambda: _figures(_from_program(program))) if program else None
    except pynvml.NVMLError:
        return None
    return lambda: _figures(_from_library(pynvml))


def query(fields: Sequence[str], program: str | None = None) -> list[list[str]]:
    """What `nvidia-smi` says about each GPU: one list of texts a GPU; empty without it or without an answer."""
    program = program or shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def visible(rows: Sequence[Row], wanted: str | None) -> list[Row]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves, by index or by the beginning of their uuid; all where it is None."""
    if wanted is None:
        return list(rows)
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if any(name.startswith("MIG") for name in names):
        return list(rows)  # a part of a GPU has a uuid of its own, which the whole one does not tell
    return [row for row in rows if any(str(row[0]) == name or row[1].startswith(name) for name in names)]


def _figures(rows: Sequence[Row]) -> dict[str, float]:
    """Several GPUs in one value each: mean use, power together, the fullest memory, the hottest."""
    rows = visible(rows, os.environ.get("CUDA_VISIBLE_DEVICES"))
    figures: dict[str, float] = {}
    for place, name in enumerate(_NAMES):
        values = [value for _, _, cells in rows if (value := cells[place]) is not None]
        if values:
            together = {"gpu_percent": sum(values) / len(values), "gpu_power_w": sum(values)}
            figures[name] = together.get(name, max(values))
    return figures


def _from_program(program: str) -> list[Row]:
    rows = query(_COLUMNS, program)
    if not rows:
        raise OSError("nvidia-smi did not answer")
    return [(int(row[0]), row[1], [_number(text) for text in row[2:]]) for row in rows]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # `[N/A]` where the chip does not tell


def _from_library(nvml: Any) -> list[Row]:
    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except nvml.NVMLError:
            return None  # not every chip tells everything

    rows: list[Row] = []
    for index in range(ask(nvml.nvmlDeviceGetCount) or 0):
        handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        uuid = ask(nvml.nvmlDeviceGetUUID, handle) or ""
        rates = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = ask(nvml.nvmlDeviceGetPowerUsage, handle)  # milliwatts
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        heat = ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        cells = [
            None if rates is None else float(rates.gpu),
            None if power is None else power / 1000,
            None if memory is None else memory.used / _MB,
            None if heat is None else float(heat),
        ]
        rows.append((index, uuid.decode() if isinstance(uuid, bytes) else str(uuid), cells))
    return rows
