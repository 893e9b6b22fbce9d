"""Memory and machine facts: the right units, and nothing private."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import burnish
from burnish.runs import environment as module
from burnish.runs import gpus, memory
from burnish.runs.environment import cpu_flags, environment, render_environment, surroundings, usable_cores
from burnish.runs.memory import peak_rss_mb, rss_mb


def test_memory_is_in_mb_and_the_peak_is_not_below() -> None:
    now = rss_mb()
    assert now == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)
    assert peak_rss_mb() >= now * 0.95


@pytest.mark.skipif(sys.platform == "win32", reason="allocates through the C library")
def test_the_peak_remembers_what_was_freed() -> None:
    script = (
        "from burnish.runs.memory import peak_rss_mb, rss_mb\n"
        "held = bytearray(200 * 2**20)\nheld[::4096] = b'x' * len(held[::4096])\ndel held\n"
        "print(rss_mb(), peak_rss_mb())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    now, peak = map(float, done.stdout.split())
    assert now < 200 <= peak < now + 450


def test_the_high_water_mark_is_read_from_the_kernels_text(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  2048 kB\n")
    assert memory._high_water_kib(status) == 2048
    status.write_text("Name:\tpython\n")
    assert memory._high_water_kib(status) is None
    assert memory._high_water_kib(tmp_path / "absent") is None


def test_the_runs_room_loads_no_torch_and_no_matplotlib() -> None:
    script = (
        "import sys\n"
        "import burnish.runs.folder, burnish.runs.plots, burnish.runs.listing, burnish.runs.environment\n"
        "burnish.runs.environment.environment()\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_names_versions_and_hardware() -> None:
    facts = environment()
    assert facts["burnish"] == burnish.__version__
    assert facts["packages"]["safetensors"]
    assert set(facts["packages"]) >= {
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "bitsandbytes",
        "flash-attn",
    }
    assert 1 <= facts["cpu"]["usable_cores"] <= facts["cpu"]["logical_cores"]
    assert 0 < facts["memory"]["free_gb"] <= facts["memory"]["total_gb"]
    assert facts["disk_free_gb"] > 0
    assert set(facts["cpu"]["flags"]) <= cpu_flags()
    assert usable_cores() >= 1


def test_the_environment_is_not_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    text = render_environment(environment()) + str(environment())
    host = os.uname().nodename if hasattr(os, "uname") else "no-host"
    assert "hf_secret_token" not in text
    assert str(Path.home()) + os.sep not in text
    assert str(Path.cwd()) not in text
    if len(host) > 4:
        assert host not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


FACTS: dict[str, Any] = {
    "burnish": "0.1.0",
    "python": "CPython 3.11.7",
    "platform": "Linux 6.1 x86_64",
    "cpu": {
        "model": "A CPU",
        "usable_cores": 2,
        "logical_cores": 4,
        "physical_cores": 2,
        "flags": ["avx2", "amx_bf16"],
    },
    "memory": {"total_gb": 16.0, "free_gb": 9.5},
    "disk_free_gb": 80.1,
    "packages": {"torch": "2.9.0+cpu", "bitsandbytes": None},
    "gpus": [],
}


def test_the_block_to_paste() -> None:
    assert render_environment(FACTS) == (
        "burnish        0.1.0\n"
        "python         CPython 3.11.7\n"
        "system         Linux 6.1 x86_64\n"
        "cpu            A CPU\n"
        "cores          2 usable, 4 logical, 2 physical\n"
        "cpu flags      avx2 amx_bf16\n"
        "memory         16.0 GB, 9.5 GB free\n"
        "disk           80.1 GB free\n"
        "gpu            none found\n"
        "torch          2.9.0+cpu\n"
        "not installed  bitsandbytes"
    )
    assert render_environment({}) == ""


def test_gpus_come_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        text = "A GPU, 81559, 80000, 560.35, 9.0\nShared GPU, [N/A], [N/A], 560.35, 12.1\nan error\n"
        return subprocess.CompletedProcess(command, 0, text, "")

    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(gpus.subprocess, "run", answer)
    found = module._gpus()
    assert asked[0][0] == "/usr/bin/nvidia-smi"
    assert [gpu["name"] for gpu in found] == ["A GPU", "Shared GPU"]
    assert [gpu["memory_gb"] for gpu in found] == [85.5, None]
    block = render_environment({"gpus": found})
    assert "gpu  A GPU, 85.5 GB (83.9 GB free), driver 560.35, compute capability 9.0" in block
    assert "gpu  Shared GPU, memory unknown, driver 560.35" in block


@pytest.mark.parametrize(
    "error", [subprocess.TimeoutExpired("nvidia-smi", 5), subprocess.CalledProcessError(9, "x"), OSError()]
)
def test_a_broken_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(command: list[str], **options: object) -> None:
        raise error

    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(gpus.subprocess, "run", fail)
    assert module._gpus() == []


def test_a_containers_limits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
        "/sys/fs/cgroup/memory.max": "2000000000\n",
        "/sys/fs/cgroup/memory.current": "500000000\n",
    }
    monkeypatch.setattr(module, "_read", lambda path: texts.get(path, ""))
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores() == 2
    assert module._memory()["total_gb"] == 2.0
    assert module._memory()["free_gb"] <= 1.5
    assert cpu_flags() == set()


def test_flags_are_read_from_the_kernels_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_read", lambda path: "processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n")
    assert cpu_flags() == {"fpu", "avx2", "amx_bf16"}
    monkeypatch.setattr(module, "_read", lambda path: "processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert cpu_flags() == {"fp", "asimd", "bf16"}


def test_places_and_variables_are_for_the_user_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "someone"
    monkeypatch.setenv("HOME", str(home))
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    monkeypatch.setenv("API_KEY", "sk-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    facts = surroundings(home / ".cache" / "burnish", "/usr/bin/cc")
    assert facts["places"]["cache"].startswith("~/.cache/burnish, ")
    assert Path(facts["places"]["installed in"]).name == "burnish"
    assert facts["variables"] == {
        "HF_HOME": "~/hub",
        "HF_TOKEN": "(set, not shown)",
        "CUDA_VISIBLE_DEVICES": "(empty)",
        "API_KEY": "(set, not shown)",
        "HTTPS_PROXY": "http://(login not shown)@proxy:3128",
    }
    text = render_environment(facts)
    assert "secret" not in text
    assert "someone" not in text
    assert "HF_HOME               ~/hub" in text


def test_what_torch_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "__version__ = '2.9.0'\ndebug = False\ncuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n"
    monkeypatch.setattr(module, "_read", lambda path: text)
    assert str(module._version("torch")).endswith(" (CUDA 12.6)")
    monkeypatch.setattr(module, "_read", lambda path: text.replace("'12.6'", "None"))
    assert "(" not in str(module._version("torch"))
