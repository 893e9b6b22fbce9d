"""A run on a Ray cluster: Ray places the processes on its machines, which then work as under any other launcher."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from burnish import log
from burnish.config import Settings
from burnish.errors import BurnishError, Interrupted, MissingExtraError, OtherRankFailed
from burnish.train.interrupt import StopRequest, stop_on_signals
from burnish.train.parallel import read_config

_POLL_S = 0.5
_PASSED_ON = ("BURNISH_", "HF_", "NCCL_", "GLOO_", "DS_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")


def train_on_ray(settings: Settings) -> dict[str, Any]:
    """Train with `ray_num_workers` processes; returns what run.json holds.

    A running cluster is used where there is one (RAY_ADDRESS, or one started on this machine); else one is started
    here for the length of the run. On several machines output_dir and the data must lie on storage that all share.

    Raises:
        BurnishError: Ray is missing, or the cluster is too small.
        Interrupted: a signal asked the run to stop; a checkpoint was saved.
    """
    try:
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines that are alike are still lines
        import ray
    except ImportError as error:
        raise MissingExtraError("ray_num_workers", "ray") from error
    count = settings.distributed.ray_num_workers
    assert count is not None
    started_here = _connect(ray, settings, count)
    try:
        resources = _resources(ray, settings)
        log.say(f"Ray: {count} processes with {_words(resources)} each")
        group = _reserve(ray, resources, count, settings, started_here)
        try:
            return _run(ray, group, resources, count, settings)
        finally:
            ray.util.remove_placement_group(group)
    finally:
        if started_here:
            ray.shutdown()


def _connect(ray: Any, settings: Settings, count: int) -> bool:
    """Connect to a cluster, or start one; returns whether it was started here."""
    if ray.is_initialized():
        return False
    given = settings.distributed.ray_init_kwargs
    quiet = {"logging_level": "ERROR"}
    if given is not None:
        ray.init(**{**quiet, **read_config(given, "ray_init_kwargs")})
        return True
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        log.say("no Ray cluster is running here; starting one for this run")
        cores = os.cpu_count() or 1
        ray.init(num_cpus=max(cores, count), include_dashboard=False, **quiet)
        return True
    return False


def _resources(ray: Any, settings: Settings) -> dict[str, float]:
    asked = settings.distributed.resources_per_worker
    if asked:
        return {name: float(amount) for name, amount in asked.items()}
    gpus = ray.cluster_resources().get("GPU", 0) and not settings.training.use_cpu
    return {"GPU": 1.0} if gpus else {"CPU": 1.0}


def _words(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _reserve(ray: Any, resources: dict[str, float], count: int, settings: Settings, started_here: bool) -> Any:
    """Reserve places for all processes, so that none waits for another forever."""
    there = ray.cluster_resources()
    short = [name for name, amount in resources.items() if there.get(name, 0) < amount * count]
    if short and started_here:
        raise BurnishError(
            f"{count} processes with {_words(resources)} each need more {short[0]} than the {there.get(short[0], 0):g} "
            "there are",
            at="ray_num_workers",
            fix="set fewer ray_num_workers, or resources_per_worker",
        )
    if short:
        log.note(f"the cluster has too little {short[0]} now; waiting until it has grown")
    strategy = settings.distributed.placement_strategy
    group = ray.util.placement_group([resources] * count, strategy=strategy)
    ray.get(group.ready())
    return group


class Worker:
    """One process of the run, on some machine of the cluster."""

    def place(self) -> tuple[str, str, int, list[Any]]:
        """(machine id, address, process id, its GPUs)."""
        import ray

        context = ray.get_runtime_context()
        return context.get_node_id(), ray.util.get_node_ip_address(), os.getpid(), ray.get_gpu_ids()

    def free_port(self) -> int:
        """A port that nobody listens on."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def run(self, environ: dict[str, str], folder: str, settings: Settings) -> dict[str, Any] | str | None:
        """Train; returns run.json's content, or the checkpoint of a run that was interrupted."""
        os.environ.update(environ)
        with suppress(OSError):  # paths of settings are relative to where the run was started
            os.chdir(folder)
        from burnish.train.processes import end_processes
        from burnish.train.run import run_training

        try:
            record = run_training(settings)
        except Interrupted as stopped:
            return stopped.checkpoint
        end_processes()
        return record


def _run(ray: Any, group: Any, resources: dict[str, float], count: int, settings: Settings) -> dict[str, Any]:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    rest = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    made = [
        ray.remote(Worker)
        .options(
            num_cpus=resources.get("CPU", 0),
            num_gpus=resources.get("GPU", 0),
            resources=rest,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place),
        )
        .remote()
        for place in range(count)
    ]
    found = ray.get([worker.place.remote() for worker in made])
    order = sorted(range(count), key=lambda place: (found[place][0], place))  # the processes of a machine in a row
    workers, places = [made[place] for place in order], [found[place] for place in order]
    port = ray.get(workers[0].free_port.remote())
    environments = rank_environments(places, port)
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    pending = [
        worker.run.remote({**passed, **environment}, os.getcwd(), settings)
        for worker, environment in zip(workers, environments, strict=True)
    ]
    try:
        with stop_on_signals(quiet=lambda: True) as stop:  # the first process says it
            _wait(ray, pending, places, stop)
        return _outcome(ray, pending)
    finally:
        for worker in workers:
            ray.kill(worker)


def rank_environments(places: Sequence[tuple[str, str, int, list[Any]]], port: int) -> list[dict[str, str]]:
    """The environment variables of each process, as torchrun sets them.

    Args:
        places: (machine id, address, process id, GPUs) of each, those of a machine in a row.
        port: a free one on the first machine.
    """
    environments = []
    for rank, (machine, *_) in enumerate(places):
        beside = [place for place, other in enumerate(places) if other[0] == machine]
        values = {
            "RANK": rank,
            "WORLD_SIZE": len(places),
            "LOCAL_RANK": beside.index(rank),
            "LOCAL_WORLD_SIZE": len(beside),
            "MASTER_ADDR": places[0][1],
            "MASTER_PORT": port,
        }
        gpus = [str(gpu) for place in beside for gpu in places[place][3]]
        if gpus:  # Ray shows each process its own only; as elsewhere, the local rank picks one of the machine's
            values["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(gpus))
        environments.append({name: str(value) for name, value in values.items()})
    return environments


def _wait(ray: Any, pending: Sequence[Any], places: Sequence[Any], stop: StopRequest) -> None:
    """Wait until all processes have ended; a request to stop goes to them."""
    left, told = list(pending), False
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=_POLL_S)
        if stop and not told:
            told = True
            for machine, _, process, _ in places:
                _signal(ray, machine, process)


def _signal(ray: Any, machine: str, process: int) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(machine, soft=False)
    ray.get(ray.remote(os.kill).options(num_cpus=0, scheduling_strategy=there).remote(process, signal.SIGTERM))


def _outcome(ray: Any, pending: Sequence[Any]) -> dict[str, Any]:
    """What the first process returned. Raises the failure that came first, as it was."""
    results, failures = [], []
    for each in pending:
        try:
            results.append(ray.get(each))
        except ray.exceptions.RayTaskError as error:
            failures.append(getattr(error, "cause", None) or error)
        except ray.exceptions.RayError as error:  # the process or its machine is gone
            failures.append(error)
    own = [failure for failure in failures if not isinstance(failure, OtherRankFailed)]
    if failures:
        raise (own or failures)[0]
    if not isinstance(results[0], dict):
        raise Interrupted(results[0])
    return results[0]
