"""Make .venv and install Burnish from this checkout into it, with the locked packages.

    make install                 what Burnish runs on
    python3 tools/install.py     the same without make
    … --dev                      and the developer tools (make test, make check)

Called again it does nothing, or only what has changed. Interrupted, it goes on where it stopped. The log is
.venv/install.log. Environment:

    BURNISH_TORCH   another torch: a requirement, a wheel's path, or pip arguments
    PIP_*, UV_*     and their settings files are respected

Standard library only. What to do is decided in bootstrap/plan.py; this file carries it out.
"""

# The version is checked before anything that an older Python cannot read.
# ruff: noqa: UP031, UP036

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Burnish needs Python 3.11 or newer; this is Python %d.%d\n" % sys.version_info[:2]
        + "  at: %s\n" % sys.executable
        + "  fix: install Python 3.11, then: make install PYTHON=/path/to/python3.11"
    )

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bootstrap import environment, machine, plan, progress
from bootstrap.environment import State

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
LOG = FOLDER / "install.log"
NEEDED_GB = {False: 3, True: 12}  # with a GPU or without; packages, and their downloads on the way
IMPORTS = """
import burnish.train.run, burnish.generate.chat, burnish.cli.main, burnish.runs.plots
import torch._dynamo, transformers.modeling_utils, matplotlib.figure, matplotlib.backends.backend_agg
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from burnish.model.compat import import_peft
import_peft()
"""


class Trouble(Exception):
    """The set-up cannot go on; the text says what, where and how to mend it."""


class Setup:
    """One run of the set-up: what is there, what is wanted, and the screen to show it on."""

    def __init__(self, *, dev: bool) -> None:
        self.dev = dev
        self.screen = progress.Screen()
        self.python = environment.interpreter(FOLDER)
        self.pin = plan.read_pin((ROOT / "requirements" / "torch.txt").read_text(encoding="utf-8"))
        self.gpu = machine.has_gpu()
        value = os.environ.get("BURNISH_TORCH", "").strip()
        self.override = plan.override_arguments(value, Path(value).exists()) if value else ""
        self.state = State()

    def pending(self) -> list[str]:
        """Return the steps that remain, reading the state anew. "environment" stands for making .venv."""
        self.state = environment.read_state(FOLDER)
        python = environment.made_with(FOLDER)
        moved = self.state.root not in ("", environment.portable(ROOT))
        if not python or tuple(map(int, python.split("."))) < (3, 11) or moved:
            here = f"{sys.version_info.major}.{sys.version_info.minor}"
            return ["environment", *environment.wanted(ROOT, here, dev=self.dev)]
        steps = environment.wanted(ROOT, python, dev=self.dev)
        done = {name for name, value in steps.items() if self.state.done.get(name) == value}
        if not self.torch_is_right():
            done.discard("torch")
        if not (environment.binaries(FOLDER) / ("burnish.exe" if os.name == "nt" else "burnish")).exists():
            done.discard("burnish")
        remaining = [name for name in steps if name not in done]
        if self.state.running or (remaining and not self.state.done):
            return ["environment", *steps]  # cut off, or made by other hands: look everything over
        return remaining

    def installed_torch(self) -> plan.Installed:
        version = environment.installed_version(environment.site_packages(FOLDER), "torch")
        known = self.state.torch
        return plan.Installed(version, known.get("override", ""), known.get("gpu_seen", False))

    def torch_is_right(self) -> bool:
        return plan.torch_is_right(self.installed_torch(), self.pin, gpu=self.gpu, override=self.override)

    def note(self, **changes: object) -> None:
        """Record what is under way or finished."""
        for name, value in changes.items():
            setattr(self.state, name, value)
        environment.write_state(FOLDER, self.state)

    # The steps. Each returns what to show when it is done.

    def make_environment(self) -> str:
        """Make .venv, or look over the one that is there; then see that it has pip."""
        moved = self.state.root not in ("", environment.portable(ROOT))
        whole = bool(environment.made_with(FOLDER)) and not moved
        mended: list[str] = []
        if whole:
            if self.state.running:
                mended = environment.mend(environment.site_packages(FOLDER))
                self.state.done = {}
        else:
            if FOLDER.exists():
                if not (FOLDER / "pyvenv.cfg").exists() and any(FOLDER.iterdir()) and not LOG.exists():
                    raise Trouble(f".venv is no Python environment\n  at: {FOLDER}\n  fix: move it away")
                shutil.rmtree(FOLDER)
            self.state = State()
            FOLDER.mkdir()
            base = getattr(sys, "_base_executable", None) or sys.executable
            # Without pip at first: a Python whose ensurepip was split off by its system gets this far too.
            self.run([base, "-m", "venv", "--without-pip", str(FOLDER)], "environment")
        self.ensure_pip()
        self.state.python = environment.made_with(FOLDER)
        self.note(root=environment.portable(ROOT), running="")
        if mended:
            return f"mended after an interruption, half-installed: {', '.join(mended)}"
        return "an earlier .venv, looked over" if whole else f"Python {self.state.python}, new .venv"

    def ensure_pip(self) -> None:
        """Give .venv a whole pip: Python's own, else the one that uv or the system's pip brings."""
        packages = environment.site_packages(FOLDER)
        version = environment.installed_version(packages, "pip")
        if version and environment.is_whole(packages / f"pip-{version}.dist-info"):
            return
        for leftover in packages.glob("pip-*.dist-info"):
            shutil.rmtree(leftover)
        base = getattr(sys, "_base_executable", None) or sys.executable
        ways = [[str(self.python), "-m", "ensurepip", "--upgrade", "--default-pip"]]
        uv = shutil.which("uv")
        if uv:
            ways.append([uv, "pip", "install", "--python", str(self.python), "pip"])
        ways.append([base, "-m", "pip", "--python", str(self.python), "install", "pip"])
        for command in ways:
            with contextlib.suppress(progress.StepFailed):
                self.run(command, "environment")
                return
        raise Trouble(
            f"this Python comes without pip and ensurepip\n  at: {base}\n"
            "  fix: install its venv package (Debian, Ubuntu: apt install python3-venv), then call again"
        )

    def install_packages(self) -> str:
        return self.install_lock("packages", "requirements/lock.txt")

    def install_dev_tools(self) -> str:
        return self.install_lock("dev tools", "requirements/lock-dev.txt")

    def install_lock(self, step: str, lock: str) -> str:
        lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
        count = sum(not line.startswith(("#", " ")) for line in lines)
        here = machine.look(self.python, self.pin, gpu=self.gpu, ask_index=False)
        way = self.try_in_turn(plan.locked_attempts(here, lock), step)
        return f"{count} locked, {way}"

    def install_torch(self) -> str:
        known = self.installed_torch()
        if not self.torch_is_right():
            here = machine.look(self.python, self.pin, gpu=self.gpu, ask_index=not self.override)
            way = self.try_in_turn(plan.torch_attempts(here, self.pin, self.override), "torch")
            override = self.override
        else:
            way, override = "already there", known.override
        self.state.torch = {"override": override, "gpu_seen": self.gpu}
        probe = "import torch; print(torch.__version__, torch.cuda.is_available())"
        answer = subprocess.run(
            [str(self.python), "-c", probe],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=machine.child_environment(),
        )
        if answer.returncode != 0:
            raise Trouble(
                f"torch is installed but cannot be loaded: {plan.reason(answer.stderr)}"
                f"\n  at: {environment.site_packages(FOLDER)}"
                "\n  fix: choose another build, such as BURNISH_TORCH='torch==2.12.1' make install"
            )
        version, cuda = answer.stdout.split()[-2:]
        self.state.torch["version"] = version
        if self.gpu and cuda != "True":
            return (
                f"{version}, {way}\n"
                "       note: a GPU is here, but this torch cannot use it. Its driver may be too old, or\n"
                "       the index has CPU builds only. BURNISH_TORCH chooses another build."
            )
        return f"{version}, {way}"

    def install_burnish(self) -> str:
        way = self.try_in_turn(plan.editable_attempts(), "burnish")
        environment.point_to_sources(FOLDER, ROOT)
        self.compile_imports()
        return f"{way}, editable"

    def compile_imports(self) -> None:
        """Compile what training imports, where Python is told to keep nothing of what it compiles.

        Under PYTHONDONTWRITEBYTECODE, which many container images set, each command would compile four thousand files
        anew. Elsewhere the first command keeps what it compiles. It saves time only: a failure stops nothing.
        """
        if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
            return
        child = machine.child_environment()
        del child["PYTHONDONTWRITEBYTECODE"]
        subprocess.run([str(self.python), "-c", IMPORTS], capture_output=True, check=False, cwd=ROOT, env=child)

    # Carrying them out.

    def run(self, command: list[str], title: str) -> None:
        progress.run(
            command,
            title=title,
            log=LOG,
            cwd=ROOT,
            env=machine.child_environment(),
            screen=self.screen,
        )

    def try_in_turn(self, attempts: list[plan.Attempt], title: str) -> str:
        """Run the first attempt that works and return its label.

        Raises:
            StepFailed: of the last attempt.
        """
        for number, attempt in enumerate(attempts, start=1):
            if attempt.notice:
                self.screen.line(f"       {attempt.notice}")
            try:
                for command in self.commands(attempt):
                    self.run(command, title)
                return attempt.label
            except progress.StepFailed as failure:
                if number == len(attempts):
                    raise
                self.screen.line(f"       {attempt.label} failed: {plan.reason(failure.output)}")
                self.screen.line(f"       trying another way: {attempts[number].label}")
        raise AssertionError("a step has at least one attempt")

    def commands(self, attempt: plan.Attempt) -> list[list[str]]:
        """Return the command lines of an attempt."""
        # Python compiles what is imported anyway; compiling all 24,000 files first takes pip two minutes.
        pip = [str(self.python), "-m", "pip", "install", "--no-compile"]
        if attempt.tool == plan.PIP:
            return [[*pip, *attempt.args]]
        fetch, uv = [], shutil.which("uv")
        if attempt.tool == plan.GET_UV or uv is None:
            fetch = [[*pip, "--no-deps", "--require-hashes", "-r", "requirements/uv.txt"]]
            uv = str(environment.binaries(FOLDER) / "uv")
        return [*fetch, [uv, "pip", "install", "--python", str(self.python), *attempt.args]]

    def carry_out(self, steps: list[str]) -> None:
        """Do the steps in order; each is recorded when it is finished."""
        work = {
            "environment": self.make_environment,
            "packages": self.install_packages,
            "torch": self.install_torch,
            "burnish": self.install_burnish,
            "dev tools": self.install_dev_tools,
        }
        self.greet(steps)
        total = len(steps)
        for number, name in enumerate(steps, start=1):
            began = time.monotonic()
            if name != "environment":
                self.note(running=name)
            shown = work[name]()
            if name != "environment":
                mark = environment.wanted(ROOT, self.state.python, dev=self.dev)[name]
                self.note(running="", done={**self.state.done, name: mark})
            text, _, rest = shown.partition("\n")
            took = progress.clock(time.monotonic() - began)
            self.screen.line(f"  {number}/{total}  {name:<12} {took:>5}  {text}")
            if rest:
                self.screen.line(rest)

    def greet(self, steps: list[str]) -> None:
        if "torch" not in steps or self.installed_torch().version:
            return
        size = "several GB with GPU libraries" if self.gpu else "1.3 GB"
        self.screen.line(f"Setting up Burnish in .venv: {size}, a few minutes the first time only.")
        free = shutil.disk_usage(ROOT).free / 1e9
        needed = NEEDED_GB[self.gpu]
        if free < needed:
            self.screen.line(f"  note: {free:.1f} GB are free on this disk; about {needed} GB are needed")


@contextlib.contextmanager
def alone(screen: progress.Screen) -> Iterator[None]:
    """Let one set-up of this checkout run at a time; a second one waits."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    place = ROOT / ".install"
    place.mkdir(exist_ok=True)
    with open(place / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            screen.line("Another set-up of this checkout is running; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make .venv and install Burnish from this checkout.")
    parser.add_argument("--dev", action="store_true", help="also the developer tools (tests, linters)")
    setup = Setup(dev=parser.parse_args(arguments).dev)
    if not setup.pending():
        print(f"Burnish is set up: .venv, torch {setup.state.torch.get('version', '')}", flush=True)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone(setup.screen):
            steps = setup.pending()
            setup.carry_out(steps)
    except progress.StepFailed as failure:
        tell_failure(failure)
        return 1
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    except PermissionError as error:
        fix = plan.advice("Permission denied")
        print(f"error: no right to write\n  at: {error.filename}\n  fix: {fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    took = progress.clock(time.monotonic() - setup.screen.started)
    setup.screen.line(f"Burnish is set up in {took}: .venv/bin/burnish   (log: .venv/install.log)")
    return 0


def tell_failure(failure: progress.StepFailed) -> None:
    """Print the end of what the step printed, and what to try."""
    print("\n".join("    | " + line for line in failure.tail), file=sys.stderr)
    print("error: the set-up stopped", file=sys.stderr)
    print(f"  at: {LOG.relative_to(ROOT)}", file=sys.stderr)
    print(f"  fix: {plan.advice(failure.output)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
