"""What to run for each step of the set-up. Only decisions: no files, no processes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

UV = "uv"
PIP = "pip"
GET_UV = "get-uv"


@dataclass(frozen=True)
class Machine:
    """What the plan depends on.

    Attributes:
        system: "Linux", "Darwin" or "Windows".
        gpu: an NVIDIA GPU is there.
        uv: path of uv, or None.
        own_index: pip is set to an index of its own, which uv would not know of.
        cpu_build_listed: pip's index offers the pinned torch as a build marked "+cpu"; None: not asked.
    """

    system: str
    gpu: bool
    uv: str | None
    own_index: bool = False
    cpu_build_listed: bool | None = None


@dataclass(frozen=True)
class Attempt:
    """One way to do a step; the next attempt is tried when it fails.

    Attributes:
        tool: PIP, UV, or GET_UV (pip fetches uv into .venv, then as UV).
        args: what follows `pip install` or `uv pip install`.
        label: what is shown.
        notice: shown before it starts, or empty.
    """

    tool: str
    args: tuple[str, ...]
    label: str
    notice: str = ""


@dataclass(frozen=True)
class Installed:
    """The torch that .venv holds, and how it got there.

    Attributes:
        version: as in its metadata, such as "2.13.0+cpu"; None: there is no torch.
        override: the value of BURNISH_TORCH it was installed with, or empty.
        gpu_seen: a GPU was there when it was installed.
    """

    version: str | None
    override: str = ""
    gpu_seen: bool = False


def uses_uv(machine: Machine) -> bool:
    """Say whether uv may fetch packages: it is here, and it sees the index that pip sees."""
    return machine.uv is not None and not machine.own_index


def locked_attempts(machine: Machine, lock: str) -> list[Attempt]:
    """Install a lock file: uv where it is, else pip."""
    args = ("--no-deps", "--require-hashes", "-r", lock)
    attempts = [Attempt(UV, args, "uv")] if uses_uv(machine) else []
    return [*attempts, Attempt(PIP, args, "pip")]


def editable_attempts() -> list[Attempt]:
    """Install the checkout itself. setuptools comes from the lock, so no index is asked."""
    return [Attempt(PIP, ("--no-deps", "--no-build-isolation", "--no-index", "-e", "."), "this checkout")]


def torch_is_right(installed: Installed, pin: str, *, gpu: bool, override: str) -> bool:
    """Say whether the installed torch can stay.

    A GPU build serves a machine without a GPU too; a CPU build stays on a machine with a GPU only where it
    was asked for, or where nothing better was found when the GPU was already there.
    """
    if installed.version is None:
        return False
    if override:
        return installed.override == override
    if installed.override:
        return True
    if base_version(installed.version) != pinned_version(pin):
        return False
    return not (gpu and "+cpu" in installed.version) or installed.gpu_seen


def torch_attempts(machine: Machine, pin: str, override: str = "") -> list[Attempt]:
    """Choose the build of torch.

    Where there is no GPU, a CPU build is wanted, and an index's plain torch may be a GPU build of several
    GB. In order: what BURNISH_TORCH says; the build marked "+cpu" if pip's index offers one; uv, which knows
    where the CPU builds are; uv fetched for this; and only then the index's own build, with its size said
    beforehand. pip's dry run is not used to find out: it downloads the whole files that it reports on.

    Args:
        machine: what is here.
        pin: such as "torch==2.13.0".
        override: the value of BURNISH_TORCH, normalised by `override_arguments`; empty if it is not set.
    """
    if override:
        return [Attempt(PIP, tuple(shlex.split(override)), "as BURNISH_TORCH says, pip")]
    version = pinned_version(pin)
    plain = Attempt(PIP, (pin,), "pip")
    if machine.system != "Linux":
        return [*([Attempt(UV, (pin,), "uv")] if uses_uv(machine) else []), plain]
    if machine.gpu:
        exact = f"torch==={version}"  # '===' leaves out builds with a mark, such as +cpu
        notice = "a GPU is here: fetching the GPU build, several GB"
        attempts = [Attempt(UV, (pin,), "GPU build, uv", notice)] if uses_uv(machine) else []
        return [*attempts, Attempt(PIP, (exact,), "GPU build, pip", "" if attempts else notice), plain]
    if machine.cpu_build_listed:
        return [Attempt(PIP, (f"torch=={version}+cpu",), "CPU build, pip"), plain]
    cpu = ("--torch-backend", "cpu", pin)
    last = Attempt(PIP, (pin,), "pip", "no CPU build found: taking the index's torch; it can be 3 GB or more")
    if machine.uv is not None:
        return [Attempt(UV, cpu, "CPU build, uv"), last]
    return [Attempt(GET_UV, cpu, "CPU build, uv (fetched for this)"), last]


def override_arguments(value: str, is_path: bool) -> str:
    """Normalise BURNISH_TORCH: a path is one argument, anything else is read by the shell's rules."""
    return shlex.quote(value) if is_path else shlex.join(shlex.split(value))


def pinned_version(pin: str) -> str:
    """Return "2.13.0" of "torch==2.13.0"."""
    match = re.fullmatch(r"torch==([0-9][0-9A-Za-z.]*)", pin)
    if not match:
        raise ValueError(f"requirements/torch.txt must say torch==VERSION, not {pin!r}")
    return match[1]


def base_version(version: str) -> str:
    """Return "2.13.0" of "2.13.0+cpu"."""
    return version.split("+", 1)[0]


def read_pin(text: str) -> str:
    """Return the one requirement in requirements/torch.txt."""
    lines = [line.strip() for line in text.splitlines()]
    return next(line for line in lines if line and not line.startswith("#"))


def lists_cpu_build(index_versions: str, version: str) -> bool:
    """Read the output of `pip index versions torch`: is there a build of `version` marked "+cpu"?"""
    return re.search(rf"(?<![\w.]){re.escape(version)}\+cpu(?![\w.])", index_versions) is not None


def has_own_index(pip_config: Iterable[str], environment: Iterable[str]) -> bool:
    """Say whether pip is set to an index that uv is not set to.

    Args:
        pip_config: lines of `pip config list`, such as "global.index-url='...'"; it includes PIP_* variables.
        environment: names of the environment's variables.
    """
    keys = {line.split("=", 1)[0].strip().rsplit(".", 1)[-1] for line in pip_config}
    uv_is_told = any(name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_CONFIG_FILE") for name in environment)
    return bool(keys & {"index-url", "no-index"}) and not uv_is_told


ADVICE = (
    (("No space left", "Disk quota exceeded"), "free some space on this disk and call again"),
    (
        ("DO NOT MATCH THE HASHES", "Hash mismatch"),
        "the index served other files than the locked ones: ask who runs it",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "invalid peer certificate"),
        "the index's certificate is not trusted here: set PIP_CERT to your network's certificate file",
    ),
    (
        (
            "Connection",
            "name resolution",
            "Name or service not known",
            "timed out",
            "Max retries",
            "dns error",
        ),
        "the package index did not answer: check network, proxy (HTTPS_PROXY) and pip's settings; call again",
    ),
    (
        ("(from versions: none)",),
        "the index did not answer, or has nothing for this Python: check network and pip's settings",
    ),
    (
        ("No matching distribution", "Could not find a version", "No solution found"),
        "the index has no such file for this Python and system: try make clean install PYTHON=python3.11",
    ),
    (("Permission denied", "Read-only file system"), "the checkout must be writable by you"),
)


def reason(output: str) -> str:
    """Return the line that says most about a failure, cut to a readable length."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    line = (errors or lines[-1:] or ["no output"])[-1]
    return line if len(line) <= 100 else line[:99] + "…"


def advice(output: str) -> str:
    """Return what to try after a failure, from what pip or uv printed."""
    for signs, text in ADVICE:
        if any(sign in output for sign in signs):
            return text
    return "read the log; then call again: finished steps are kept"
