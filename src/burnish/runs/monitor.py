"""What the machine does while a run goes on: processor, memory, disk and GPUs, sampled beside the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from burnish.runs.gpus import gpu_reader
from burnish.runs.preflight import free_bytes

_MB = 1024 * 1024

FIGURES: Mapping[str, str] = {
    "cpu_percent": "mean",
    "process_cpu_percent": "mean",
    "memory_used_mb": "max",
    "disk_free_gb": "last",
    "gpu_percent": "mean",
    "gpu_power_w": "mean",
    "gpu_memory_mb": "max",
    "gpu_temperature_c": "max",
}
"""The names in metrics.jsonl → how the samples since the last row become one value.

cpu_percent: of all cores of the machine; process_cpu_percent: of this process, 100 for one core kept busy;
memory_used_mb: of the machine, in MB of 1024 × 1024 bytes; disk_free_gb: on the run folder's disk, GB of 10^9.
Over the GPUs that this process may use: gpu_percent, the mean of their use; gpu_power_w, their power together in
watts; gpu_memory_mb, the most that is in use on one of them, by all processes; gpu_temperature_c, of the hottest.
"""

_GPU_FAILURES = 3  # times in a row that the driver may fail to answer before it is not asked any more
Reader = Callable[[], dict[str, float]]


def is_system_figure(key: str) -> bool:
    """Whether a column of metrics.jsonl is about the machine and not about the training."""
    return key in FIGURES or key == "rss_mb"


def mean_figures(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of a whole run from its rows: means of what is a mean, the most of the rest."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name in FIGURES:
            if isinstance(row.get(name), int | float):
                found.setdefault(name, []).append(float(row[name]))
    return {
        name: sum(values) / len(values) if FIGURES[name] == "mean" else max(values) for name, values in found.items()
    }


class SystemMonitor:
    """Samples the machine in a thread of its own, from `start` to `stop`; `take` gives the figures since the last call.

    Args:
        folder: whose disk is looked at.
        every_s: seconds between two samples of processor and memory.
        gpus: gives the GPU figures of the moment; by default NVIDIA's library or `nvidia-smi`, where there is one.
        gpu_every_s: seconds between two samples of the GPUs.
    """

    def __init__(
        self,
        folder: Path,
        every_s: float = 1.0,
        gpus: Reader | None = None,
        gpu_every_s: float = 2.0,
    ) -> None:
        self.folder, self.every_s, self.gpu_every_s = folder, every_s, gpu_every_s
        self._process = psutil.Process()
        self._times = psutil.cpu_times()
        self._gpus = gpus
        self._samples: list[dict[str, float]] = []
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="burnish-monitor", daemon=True)

    def start(self) -> None:
        """Start sampling."""
        self._times = psutil.cpu_times()
        self._process.cpu_percent()  # the first call has nothing to compare with
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a sample of a GPU that hangs is not waited for."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=0.2)

    def take(self) -> dict[str, float]:
        """The figures since the last call, by the names of `FIGURES`.

        Rows that follow each other faster than samples get the values of the last sample. Empty before the first.
        """
        with self._lock:
            samples, self._samples = self._samples, []
        if samples:
            self._last = _summed_up(samples)
        return dict(self._last)

    def sample(self) -> dict[str, float]:
        """Processor, memory and disk now; processor times count from the call before."""
        memory = psutil.virtual_memory()
        return {
            "cpu_percent": self._busy_percent(),
            "process_cpu_percent": self._process.cpu_percent(),
            "memory_used_mb": (memory.total - memory.available) / _MB,
            "disk_free_gb": free_bytes(self.folder) / 1e9,
        }

    def _busy_percent(self) -> float:
        """The share of all cores' time since the last call; psutil's own function counts from anyone's last call."""
        before, self._times = self._times, psutil.cpu_times()
        spent = {name: now - getattr(before, name) for name, now in self._times._asdict().items()}
        for guest in ("guest", "guest_nice"):  # Linux counts them within user and nice as well
            spent.pop(guest, None)
        idle, whole = spent.get("idle", 0.0) + spent.get("iowait", 0.0), sum(spent.values())
        return min(100.0, max(0.0, 100 * (1 - idle / whole))) if whole > 0 else 0.0

    def _watch(self) -> None:
        read_gpus = self._gpus or gpu_reader()
        gpu_failures, next_gpu = 0, 0.0
        while not self._stopped.wait(self.every_s):
            try:
                figures = self.sample()
            except (OSError, psutil.Error):  # a disk that is gone
                figures = {}
            if read_gpus is not None and time.monotonic() >= next_gpu:
                next_gpu = time.monotonic() + self.gpu_every_s
                try:
                    figures |= read_gpus()
                    gpu_failures = 0
                except (OSError, ValueError):  # a driver that restarts, or is gone for good
                    gpu_failures += 1
                    read_gpus = None if gpu_failures >= _GPU_FAILURES else read_gpus
            with self._lock:
                self._samples.append(figures)


def _summed_up(samples: list[dict[str, float]]) -> dict[str, float]:
    result: dict[str, Any] = {}
    for name, how in FIGURES.items():
        values = [sample[name] for sample in samples if name in sample]
        if values:
            value = {"mean": sum(values) / len(values), "max": max(values), "last": values[-1]}[how]
            result[name] = round(value, 1)
    return result
