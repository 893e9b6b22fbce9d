"""What this machine has, for run.json, `burnish env` and bug reports: no user names, paths or tokens."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from burnish.runs import gpus
from burnish.runs.preflight import free_bytes

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy", "pyarrow", "gguf"),
    *("bitsandbytes", "flash-attn", "deepspeed", "ray", "liger-kernel", "triton", "trl", "lm-eval", "datasets"),
    *("tensorboard", "wandb", "swanlab", "mlflow", "trackio"),
)
FLAGS_THAT_MATTER = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve"),  # ARM
)
# Environment variables that change what Burnish or the libraries below it do.
VARIABLES = (
    *("BURNISH_CACHE", "BURNISH_ATTENTION", "BURNISH_DECODE", "BURNISH_ELEMENTWISE", "CC"),
    *("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "USE_MODELSCOPE_HUB"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "LD_PRELOAD"),
    *("FORCE_TORCHRUN", "NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "NCCL_DEBUG", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SOCKET_IFNAME"),
    *("API_HOST", "API_PORT", "API_KEY", "API_MODEL_NAME", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"),
    *("WANDB_MODE", "WANDB_PROJECT", "SWANLAB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"),
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")

_GB = 1e9
_TIMEOUT_S = 5.0
_GPU_FIELDS = ("name", "memory.total", "memory.free", "driver_version", "compute_cap")


def environment(folder: str | os.PathLike[str] = ".") -> dict[str, Any]:
    """Describe software and hardware without importing any of the packages or starting a GPU.

    Args:
        folder: whose disk to measure; the path itself is not recorded.
    Returns:
        burnish, python, platform: texts.
        cpu: model, physical_cores, logical_cores, usable_cores (what affinity and container leave), flags.
        memory: total_gb, free_gb, in GB of 10^9 bytes, a container's limit respected.
        disk_free_gb; packages: {name: version or None}.
        gpus: a list of name, memory_gb, free_gb, driver, compute_capability.
    """
    return {
        "burnish": _own_version(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "memory": _memory(),
        "disk_free_gb": round(free_bytes(folder) / _GB, 1),
        "packages": {name: _version(name) for name in PACKAGES},
        "gpus": _gpus(),
    }


def render_environment(facts: Mapping[str, Any]) -> str:
    """`environment()` as one block to paste into a bug report; parts that are missing are left out."""
    lines: list[tuple[str, str]] = [(name, str(facts[name])) for name in ("burnish", "python") if name in facts]
    if "platform" in facts:
        lines.append(("system", str(facts["platform"])))
    if cpu := facts.get("cpu"):
        lines.append(("cpu", str(cpu["model"])))
        counts = [f"{cpu[kind + '_cores']} {kind}" for kind in ("usable", "logical", "physical")]
        lines.append(("cores", ", ".join(counts)))
        lines.append(("cpu flags", " ".join(cpu["flags"]) or "none of those that matter, or unknown"))
    if memory := facts.get("memory"):
        lines.append(("memory", f"{memory['total_gb']} GB, {memory['free_gb']} GB free"))
    if "disk_free_gb" in facts:
        lines.append(("disk", f"{facts['disk_free_gb']} GB free"))
    if "gpus" in facts:
        lines += [("gpu", _gpu_text(gpu)) for gpu in facts["gpus"]] or [("gpu", "none found")]
    packages = facts.get("packages", {})
    lines += [(name, version) for name, version in packages.items() if version]
    if missing := [name for name, version in packages.items() if not version]:
        lines.append(("not installed", ", ".join(missing)))
    lines += facts.get("places", {}).items()
    lines += facts.get("variables", {}).items()
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def surroundings(cache: Path, compiler: str) -> dict[str, Any]:
    """Where things are on this machine, for the user's own eyes: not part of run.json.

    Args:
        cache: Burnish's cache folder.
        compiler: the C compiler's path, or a sentence that there is none.
    Returns:
        places: installed, interpreter and cache (with the space that is free there), the home folder written `~`.
        variables: those of `VARIABLES` that are set; what looks like a secret only as `(set, not shown)`.
    """
    return {
        "places": {
            "installed in": _short(str(Path(__file__).parents[1])),
            "interpreter": _short(sys.executable),
            "cache": f"{_short(str(cache))}, {free_bytes(cache) / _GB:.1f} GB free",
            "c compiler": compiler,
        },
        "variables": {name: _shown(name, os.environ[name]) for name in VARIABLES if name in os.environ},
    }


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path.removeprefix(home) if path == home or path.startswith(home + os.sep) else path


def _shown(name: str, value: str) -> str:
    if _SECRET.search(name):
        return "(set, not shown)"
    return _short(re.sub(r"//[^/@]*@", "//(login not shown)@", value)) or "(empty)"


def cpu_flags() -> set[str]:
    """The instruction sets that the processor offers, by the kernel's names; empty where it does not tell."""
    return set(_cpuinfo("flags").split()) or set(_cpuinfo("Features").split())


def usable_cores() -> int:
    """How many cores this process may use: affinity and a container's quota respected, at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    except OSError:
        allowed = os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)


def _own_version() -> str:
    # Looked up, not imported: the package's front door leads to rooms above this one.
    return str(getattr(sys.modules["burnish"], "__version__", "unknown"))


def _cpu() -> dict[str, Any]:
    import psutil

    flags = cpu_flags()
    return {
        "model": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "logical_cores": psutil.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "flags": [flag for flag in FLAGS_THAT_MATTER if flag in flags],
    }


def _cpu_model() -> str:
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or platform.machine()
    return _cpuinfo("model name") or platform.processor() or platform.machine() or "unknown"


def _memory() -> dict[str, float]:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, max(0, total - int(used))) if used.isdigit() else min(free, total)
    return {"total_gb": round(total / _GB, 1), "free_gb": round(free / _GB, 1)}


def _version(name: str) -> str | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return f"{found.version}{_built_for(found)}" if name == "torch" else found.version


def _built_for(torch: metadata.Distribution) -> str:
    """What torch was built for, from its version file; importing it would take seconds."""
    text = _read(str(torch.locate_file("torch/version.py")))
    built = re.findall(r"^(cuda|hip|xpu)\b.*?=\s*'([\d.]+)", text, flags=re.MULTILINE)
    return "".join(f" ({kind.upper()} {version})" for kind, version in built)


def _gpus() -> list[dict[str, Any]]:
    """What `nvidia-smi` lists; empty without it, or when it does not answer in time."""
    return [
        {
            "name": name,
            "memory_gb": _mib_as_gb(total),
            "free_gb": _mib_as_gb(free),
            "driver": driver,
            "compute_capability": capability,
        }
        for name, total, free, driver, capability in gpus.query(_GPU_FIELDS)
    ]


def _gpu_text(gpu: Mapping[str, Any]) -> str:
    known = gpu["memory_gb"] is not None
    memory = f"{gpu['memory_gb']} GB ({gpu['free_gb']} GB free)" if known else "memory unknown"
    return f"{gpu['name']}, {memory}, driver {gpu['driver']}, compute capability {gpu['compute_capability']}"


def _mib_as_gb(text: str) -> float | None:
    try:
        return round(float(text) * 1024 * 1024 / _GB, 1)
    except ValueError:
        return None  # `[N/A]` on chips that share the host's memory


def _output(command: list[str]) -> str:
    """What a command prints; empty when it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is none."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == key:
            return value.strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
