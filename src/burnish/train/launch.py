"""Start the processes of a run on this machine, through torchrun, for people who did not use a launcher themselves."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import psutil

from burnish.errors import EXIT_DEFECT, BurnishError
from burnish.runs.environment import usable_cores

_ON = ("1", "true", "yes", "on")


def wants_launch(environ: Mapping[str, str], *, use_cpu: bool) -> bool:
    """Whether this process should start others to do the run: asked for, or several GPUs and no launcher.

    FORCE_TORCHRUN=1 asks for it. CUDA_VISIBLE_DEVICES=0 trains on one of several GPUs.
    """
    if "RANK" in environ or "LOCAL_RANK" in environ:
        return False
    if environ.get("FORCE_TORCHRUN", "").lower() in _ON:
        return True
    if use_cpu or "ACCELERATE_MIXED_PRECISION" in environ:  # accelerate was told to start one process
        return False
    import torch

    return torch.cuda.device_count() > 1


def launch(arguments: Sequence[str], *, use_cpu: bool) -> int:
    """Run `python -m burnish ARGUMENTS` in several processes; returns their exit status when all have ended.

    NPROC_PER_NODE says how many on this machine: by default its GPUs, one on a CPU. For several machines, NNODES,
    NODE_RANK, MASTER_ADDR and MASTER_PORT say who they are, on each of them.

    Raises:
        BurnishError: one of these variables is missing or no number.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = launcher_arguments(os.environ, _devices(use_cpu))
    options = run.get_args_parser().parse_args([*words, "-m", "burnish", *arguments])
    if hasattr(options, "signals_to_handle"):  # the workers stop by themselves, after their step and a checkpoint
        options.signals_to_handle = "SIGHUP,SIGQUIT"
    count = int(options.nproc_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    os.environ.pop("FORCE_TORCHRUN", None)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failed rank says what happened
    with _signals_passed_on():
        try:
            run.run(options)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return _status(rank, failure.exitcode)
    return 0


def launcher_arguments(environ: Mapping[str, str], devices: int) -> list[str]:
    """torchrun's arguments for the machines that the environment describes.

    Args:
        devices: processes on this machine where NPROC_PER_NODE does not say.
    """
    machines = _number(environ, "NNODES", 1)
    words = ["--nproc_per_node", str(_number(environ, "NPROC_PER_NODE", devices)), "--nnodes", str(machines)]
    if machines > 1:
        for name in ("NODE_RANK", "MASTER_ADDR"):
            if not environ.get(name):
                fix = f"set {name} on each machine; MASTER_ADDR is the address of the machine with NODE_RANK=0"
                raise BurnishError(f"NNODES={machines} needs {name}", at="environment", fix=fix)
        words += ["--node_rank", str(_number(environ, "NODE_RANK", 0)), "--master_addr", environ["MASTER_ADDR"]]
        words += ["--master_port", str(_number(environ, "MASTER_PORT", 29500))]
    elif environ.get("MASTER_PORT"):
        words += ["--master_addr", environ.get("MASTER_ADDR", "127.0.0.1")]
        words += ["--master_port", str(_number(environ, "MASTER_PORT", 29500))]
    return words


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "") or str(default)
    if not text.isdigit() or (int(text) == 0 and name != "NODE_RANK"):
        raise BurnishError(f"{name} must be a whole number, not '{text}'", at="environment", fix=f"set {name}=2")
    return int(text)


def _devices(use_cpu: bool) -> int:
    import torch

    return 1 if use_cpu else max(1, torch.cuda.device_count())


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM go to the workers, which are not in this terminal's group."""

    def pass_on(number: int, _: object) -> None:
        for worker in psutil.Process().children():
            worker.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _status(rank: int, code: int) -> int:
    """The exit status of a failed process as ours; a process that was killed could not speak for itself."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    print(f"error: rank {rank} was killed by {name}{hint}", file=sys.stderr)
    return EXIT_DEFECT
