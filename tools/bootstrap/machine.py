"""Look at this machine. Every answer that a plan depends on is read here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from bootstrap import plan

NVIDIA_DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")


def has_gpu() -> bool:
    """Say whether an NVIDIA GPU can be seen. Cheap where there is no NVIDIA driver."""
    try:
        if any(NVIDIA_DRIVER_GPUS.iterdir()):
            return True
    except OSError:
        pass
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU " in answer.stdout


def child_environment() -> dict[str, str]:
    """Return the environment for pip and uv: the user's, less what would lead them out of .venv."""
    environment = dict(os.environ)
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "VIRTUAL_ENV"):
        environment.pop(name, None)
    utf8 = "en_US.UTF-8" if platform.system() == "Darwin" else "C.UTF-8"  # paths may need more than ASCII
    environment.update(
        LC_ALL=utf8,
        PYTHONUTF8="1",
        PYTHONNOUSERSITE="1",
        PYTHONUNBUFFERED="1",
        PIP_USER="0",
        PIP_NO_INPUT="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_PROGRESS_BAR="off",
        PIP_ROOT_USER_ACTION="ignore",
        NO_COLOR="1",
    )
    return environment


def ask(command: list[str]) -> str:
    """Run a short question and return what it printed, or nothing if it failed."""
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
            env=child_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def look(python: Path, pin: str, *, gpu: bool, ask_index: bool) -> plan.Machine:
    """Read what the plan depends on.

    Args:
        python: the interpreter in .venv, which has pip.
        pin: torch's requirement.
        gpu: a GPU was seen.
        ask_index: ask pip's index for torch's builds (a second or two).
    """
    pip = [str(python), "-m", "pip"]
    listed = None
    if ask_index and platform.system() == "Linux" and not gpu:
        listed = plan.lists_cpu_build(ask([*pip, "index", "versions", "torch"]), plan.pinned_version(pin))
    return plan.Machine(
        system=platform.system(),
        gpu=gpu,
        uv=shutil.which("uv"),
        own_index=plan.has_own_index(ask([*pip, "config", "list"]).splitlines(), os.environ),
        cpu_build_listed=listed,
    )
