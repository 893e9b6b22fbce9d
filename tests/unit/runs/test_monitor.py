"""The system monitor: figures between two rows, a thread that ends, and the GPUs as the driver tells them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish.runs import gpus
from burnish.runs.monitor import FIGURES, SystemMonitor, is_system_figure


@contextmanager
def running(monitor: SystemMonitor) -> Iterator[SystemMonitor]:
    monitor.start()
    try:
        yield monitor
    finally:
        monitor.stop()


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_figures_of_this_machine(tmp_path: Path) -> None:
    with running(SystemMonitor(tmp_path / "absent", every_s=0.02, gpus=lambda: {"gpu_percent": 50.0})) as monitor:
        wait_for(lambda: len(monitor._samples) >= 2)
        figures = monitor.take()
    assert set(figures) == {
        "cpu_percent",
        "process_cpu_percent",
        "memory_used_mb",
        "disk_free_gb",
        "gpu_percent",
    }
    assert 0 <= figures["cpu_percent"] <= 100
    assert figures["memory_used_mb"] > 100
    assert figures["disk_free_gb"] > 0
    assert figures["gpu_percent"] == 50.0
    assert all(is_system_figure(name) for name in [*figures, "rss_mb"])
    assert not is_system_figure("loss")


def test_busy_work_shows_in_the_processor_figures(tmp_path: Path) -> None:
    monitor = SystemMonitor(tmp_path)
    monitor.sample()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    figures = monitor.sample()
    assert figures["process_cpu_percent"] > 5
    assert figures["cpu_percent"] > 0


def test_samples_become_means_maxima_and_last_values(tmp_path: Path) -> None:
    monitor = SystemMonitor(tmp_path)
    assert monitor.take() == {}
    monitor._samples = [
        {"cpu_percent": 10.0, "memory_used_mb": 300.0, "disk_free_gb": 9.0, "gpu_power_w": 100.0},
        {"cpu_percent": 20.0, "memory_used_mb": 100.0, "disk_free_gb": 8.0},
    ]
    expected = {"cpu_percent": 15.0, "memory_used_mb": 300.0, "disk_free_gb": 8.0, "gpu_power_w": 100.0}
    assert monitor.take() == expected
    assert monitor.take() == expected  # rows that come faster than samples
    assert list(FIGURES)[:2] == ["cpu_percent", "process_cpu_percent"]


def test_the_thread_ends_at_once(tmp_path: Path) -> None:
    def alive() -> bool:
        return any(thread.name == "burnish-monitor" for thread in threading.enumerate())

    started = time.monotonic()
    with running(SystemMonitor(tmp_path, every_s=60)):
        assert alive()
    assert time.monotonic() - started < 1.0
    assert not alive()
    SystemMonitor(tmp_path).stop()  # one that was never started


def test_a_driver_that_hangs_does_not_delay_the_end(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang() -> dict[str, float]:
        entered.set()
        release.wait(10)
        return {}

    with running(SystemMonitor(tmp_path, every_s=0.01, gpus=hang)) as monitor:
        assert entered.wait(5)
        started = time.monotonic()
    assert time.monotonic() - started < 1.0
    assert monitor._thread.daemon
    release.set()


def test_a_driver_that_fails_again_and_again_is_not_asked_for_ever(tmp_path: Path) -> None:
    calls = []

    def broken() -> dict[str, float]:
        calls.append(1)
        raise OSError("the driver is gone")

    monitor = SystemMonitor(tmp_path, every_s=0.01, gpus=broken, gpu_every_s=0.0)
    with running(monitor):
        wait_for(lambda: len(calls) == 3)
        time.sleep(0.05)
        assert len(calls) == 3
        wait_for(lambda: monitor.take())  # processor and memory are still looked at


SMI = """#!/bin/sh
[ "$1" = "--query-gpu=index,uuid,utilization.gpu,power.draw,memory.used,temperature.gpu" ] || exit 9
echo "0, GPU-aaaa, 80, 300.50, 40000, 60"
echo "1, GPU-bbbb, 40, 200.00, 10000, 70"
echo "2, GPU-cccc, [N/A], [N/A], 5, [N/A]"
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (60.0, 500.5, 40000.0, 70.0)),
        ("1", (40.0, 200.0, 10000.0, 70.0)),
        ("GPU-aa", (80.0, 300.5, 40000.0, 60.0)),
        ("MIG-x", (60.0, 500.5, 40000.0, 70.0)),
    ],
)
def test_gpus_through_nvidia_smi(
    smi: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: tuple[float, ...]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    read = gpus.gpu_reader()
    assert read is not None
    assert read() == dict(
        zip(("gpu_percent", "gpu_power_w", "gpu_memory_mb", "gpu_temperature_c"), expected, strict=True)
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert read() == {"gpu_memory_mb": 5.0}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read() == {}


def test_a_program_that_does_not_answer_is_an_error_for_the_monitor(smi: None, tmp_path: Path) -> None:
    read = gpus.gpu_reader()
    assert read is not None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(OSError, match="did not answer"):
        read()


def test_no_driver_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.gpu_reader() is None
    assert gpus.query(["name"]) == []


class NVMLError(Exception):
    """As in pynvml."""


def library(**changes: object) -> SimpleNamespace:
    """pynvml with one GPU."""

    def refuse(*_: object) -> None:
        raise NVMLError

    functions: dict[str, object] = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: f"handle {index}",
        "nvmlDeviceGetUUID": lambda handle: b"GPU-aaaa",
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=93, memory=10),
        "nvmlDeviceGetPowerUsage": lambda handle: 310_500,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3 * 1024**3),
        "nvmlDeviceGetTemperature": refuse,
    }
    return SimpleNamespace(**(functions | {name: value or refuse for name, value in changes.items()}))


def test_gpus_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", library())
    read = gpus.gpu_reader()
    assert read is not None
    assert read() == {"gpu_percent": 93.0, "gpu_power_w": 310.5, "gpu_memory_mb": 3072.0}
    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlInit=None))
    assert gpus.gpu_reader() is None
