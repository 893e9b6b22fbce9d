"""Experiment trackers (TensorBoard, wandb, SwanLab, MLflow, trackio …) through accelerate's classes.

The run folder stays the record of a run; a tracker gets the same rows beside it. What is wrong at the start is an
error before the model is loaded; what goes wrong later (a network that is away) is said once and stops nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish import log
from burnish.errors import BurnishError, MissingExtraError
from burnish.runs.files import write_atomically
from burnish.runs.monitor import is_system_figure
from burnish.runs.preflight import TRACKER_IDS

_PATIENCE = 3  # rows in a row that a tracker may fail to take before it gets no more


@dataclass(frozen=True)
class Place:
    """What the trackers of one run are told about it.

    Attributes:
        folder: the run folder; all that a tracker writes goes below it or below `logging_dir`.
        logging_dir: the user's folder for tracker files; None for the run folder.
        run_name: shown by the tracker.
        cache: Burnish's cache folder.
    """

    folder: Path
    logging_dir: Path | None
    run_name: str
    cache: Path

    @property
    def files(self) -> Path:
        return self.logging_dir or self.folder


@dataclass(frozen=True)
class Kind:
    """One tracker: how it is installed, named and started.

    Attributes:
        package: what is imported, which shows whether it is installed.
        install: what `pip install` takes.
        options: place, id of the run that is gone on with (or None), first step to come → keyword arguments.
        project: environment variables that name the project; the first that is set wins over `burnish`.
        identify: the started tracker → the id under which it can be gone on with; None where it cannot.
        offline: what to set where there is no login or no network.
        fail: closes a started tracker as a run that failed, where it knows such a thing.
        purges: whether it drops by itself what an earlier session sent of steps that come again.
    """

    package: str
    install: str
    options: Callable[[Place, str | None, int], dict[str, Any]]
    project: tuple[str, ...] = ()
    identify: Callable[[Any], str | None] = lambda _: None
    offline: str = ""
    fail: Callable[[Any], object] | None = None
    purges: bool = False


def _tensorboard(place: Place, _: str | None, step: int) -> dict[str, Any]:
    # The class writes into logging_dir/run_name; a folder that several runs share keeps each under its name.
    shared = place.logging_dir is not None
    options: dict[str, Any] = {"logging_dir": str(place.files)}
    options["first"] = place.run_name if shared else "tensorboard"
    return options if step <= 1 else options | {"purge_step": step}


def _wandb(place: Place, before: str | None, _: int) -> dict[str, Any]:
    os.environ.setdefault("WANDB_CACHE_DIR", str(place.cache / "wandb"))
    options: dict[str, Any] = {"name": place.run_name, "dir": str(place.files)}
    return options | ({"id": before, "resume": "allow"} if before else {})


def _swanlab(place: Place, before: str | None, _: int) -> dict[str, Any]:
    options: dict[str, Any] = {"name": place.run_name, "log_dir": str(place.files / "swanlab")}
    return options | ({"id": before, "resume": "allow"} if before else {})


def _mlflow(place: Place, before: str | None, _: int) -> dict[str, Any]:
    options: dict[str, Any] = {"run_name": place.run_name}
    if not os.environ.get("MLFLOW_TRACKING_URI"):  # its own default would be the current folder
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        store = place.files.resolve()
        whole = importlib.util.find_spec("sqlalchemy") is not None  # mlflow-skinny comes without its database
        mlflow.set_tracking_uri(f"sqlite:///{store / 'mlflow.db'}" if whole else (store / "mlruns").as_uri())
        options["logging_dir"] = str(store / "mlruns")
    return options | ({"run_id": before} if before else {})


def _trackio(place: Place, before: str | None, _: int) -> dict[str, Any]:
    # trackio reads the variable once, when it is imported; its dashboard shows all runs of one folder.
    os.environ.setdefault("TRACKIO_DIR", str(place.cache / "trackio"))
    return {"name": before or place.run_name, "resume": "allow" if before else "never", "embed": False}


def _aim(place: Place, before: str | None, _: int) -> dict[str, Any]:
    return {"first": place.run_name, "logging_dir": str(place.files)} | ({"run_hash": before} if before else {})


TRACKERS: dict[str, Kind] = {
    "tensorboard": Kind("tensorboard", "tensorboard", _tensorboard, purges=True),
    "wandb": Kind(
        "wandb",
        "wandb",
        _wandb,
        ("WANDB_PROJECT",),
        lambda run: run.id,
        "run `wandb login`, or set WANDB_MODE=offline in the environment and `wandb sync` the folder later",
        lambda run: run.finish(exit_code=1),
    ),
    "swanlab": Kind(
        "swanlab",
        "swanlab",
        _swanlab,
        ("SWANLAB_PROJECT", "SWANLAB_PROJ_NAME"),
        lambda run: str(run.id),
        "run `swanlab login`, or set SWANLAB_MODE=offline (or local) in the environment",
    ),
    "mlflow": Kind(
        "mlflow",
        "mlflow",
        _mlflow,
        ("MLFLOW_EXPERIMENT_NAME",),
        lambda run: str(run.info.run_id),
        "check MLFLOW_TRACKING_URI; without it the run is kept in mlflow.db in the output folder",
        lambda _: importlib.import_module("mlflow").end_run(status="FAILED"),
    ),
    "trackio": Kind("trackio", "trackio", _trackio, ("TRACKIO_PROJECT",), lambda run: str(run.name)),
    "comet_ml": Kind(
        "comet_ml",
        "comet-ml",
        lambda place, before, _: {"experiment_key": before} if before else {},
        ("COMET_PROJECT_NAME",),
        lambda run: str(run.get_key()),
        "run `comet login`, or set COMET_API_KEY",
    ),
    "clearml": Kind(
        "clearml",
        "clearml",
        lambda place, before, _: (
            {"task_name": os.environ.get("CLEARML_TASK", place.run_name)}
            | ({"continue_last_task": before} if before else {})
        ),
        ("CLEARML_PROJECT",),
        lambda task: str(task.id),
        "run `clearml-init`",
    ),
    "aim": Kind("aim", "aim", _aim, identify=lambda run: str(run.hash)),
    "dvclive": Kind(
        "dvclive", "dvclive", lambda place, before, _: {"dir": str(place.files / "dvclive"), "resume": bool(before)}
    ),
}
"""Names for `report_to`; accelerate's own names for them."""


@dataclass
class _Open:
    """A tracker in use."""

    name: str
    tracker: Any
    taken_before: int  # steps up to here were sent by an earlier session of the same run
    failures: int = 0
    told: bool = False


class Trackers:
    """The trackers of one run: start, go_on_after, log for every row of metrics.jsonl, finish.

    Args:
        names: of `TRACKERS`, or `all` for every one that is installed; `none` for nobody.
        place: what the trackers are told about the run.
        settings: what the run was started with, without secrets.
        resumes: whether this session goes on with the run in the folder.
        last_step: the last step whose row an earlier session wrote; -1 for a new run.
    Raises:
        MissingExtraError: a tracker is not installed.
    """

    def __init__(
        self,
        names: Iterable[str],
        place: Place,
        settings: Mapping[str, Any],
        *,
        resumes: bool = False,
        last_step: int = -1,
    ) -> None:
        names = [name for name in names if name != "none"]
        self.forgiving = "all" in names
        self.names = installed() if self.forgiving else list(dict.fromkeys(names))
        self.place, self.settings, self.last_step = place, settings, last_step
        self.before = _read_ids(place.folder) if resumes else {}
        self.open: list[_Open] = []
        for name in self.names:
            if not _is_installed(TRACKERS[name]):
                raise MissingExtraError(f"report_to: {name}", packages=[TRACKERS[name].install])

    def start(self) -> None:
        """Start the trackers that talk to a server, so that a missing login is known before the model is loaded.

        With `report_to: all`, one that cannot start is left out with a note.

        Raises:
            BurnishError: a tracker that was asked for by name could not start; its own words and what to do.
        """
        if self.names and self.place.logging_dir:
            self.place.logging_dir.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            if not TRACKERS[name].purges:
                self._start(name, 0)

    def go_on_after(self, step: int) -> None:
        """Start the trackers that must know where a resumed run goes on, to drop what was sent of later steps."""
        for name in self.names:
            if TRACKERS[name].purges:
                self._start(name, step + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Send the finite numbers of one row. What a tracker raises is told once and stops nothing."""
        step, figures = int(row["step"]), _figures(row)
        for one in self.open:
            if step <= one.taken_before or one.failures >= _PATIENCE or not figures:
                continue
            try:
                one.tracker.log(figures, step=step)
                one.failures = 0
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the training goes on
                self._failed(one, step, error)

    def finish(self, failed: bool = False) -> None:
        """Close all trackers, as a run that failed where they can tell; what one raises is said and stops nothing."""
        while self.open:
            one = self.open.pop()
            fail = TRACKERS[one.name].fail
            try:
                if failed and fail is not None:
                    fail(one.tracker.tracker)
                else:
                    one.tracker.finish()
            except Exception as error:  # noqa: BLE001 - the run itself is over and saved
                log.note(f"{one.name} did not close well: {_words(error)}")

    def _start(self, name: str, step: int) -> None:
        kind, before = TRACKERS[name], self.before.get(name)
        try:
            tracker = _make(name, kind, kind.options(self.place, before, step))
            tracker.start()
            run_id = kind.identify(tracker.tracker)
            if before is None and step <= 1:
                _store_settings(name, tracker, self.settings)
        except Exception as error:  # each package has its own errors for a login that is missing
            problem = f"{name} could not start: {_words(error)}"
            if not self.forgiving:
                fix = f"{kind.offline}; or leave it out of report_to".removeprefix("; or ")
                raise BurnishError(problem, at=f"report_to: {name}", fix=fix) from error
            log.note(f"{problem}; the others go on (report_to: all)")
            return
        if run_id is not None and run_id != before:
            _write_ids(self.place.folder, {**_read_ids(self.place.folder), name: run_id})
        again = before is not None and not kind.purges
        self.open.append(_Open(name, tracker, self.last_step if again else -1))

    def _failed(self, one: _Open, step: int, error: Exception) -> None:
        one.failures += 1
        if not one.told:
            one.told = True
            log.note(f"{one.name} did not take the row of step {step}: {_words(error)}; the training goes on")
        if one.failures >= _PATIENCE:
            log.note(f"{one.name} gets no more rows of this run; metrics.jsonl has them all")


def installed() -> list[str]:
    """The names of the trackers whose packages are here."""
    return [name for name, kind in TRACKERS.items() if _is_installed(kind)]


def _is_installed(kind: Kind) -> bool:
    try:
        return importlib.util.find_spec(kind.package) is not None
    except ValueError:  # a module that was put into sys.modules by hand
        return True


def _make(name: str, kind: Kind, options: dict[str, Any]) -> Any:
    """An accelerate tracker, not started. Its first argument is the project; for some it is the run, option `first`."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    project = next((os.environ[key] for key in kind.project if os.environ.get(key)), "burnish")
    return LOGGER_TYPE_TO_CLASS[name](options.pop("first", project), **options)


def _store_settings(name: str, tracker: Any, settings: Mapping[str, Any]) -> None:
    plain = {key: _plain(value) for key, value in settings.items() if value is not None}
    if name == "tensorboard":  # its hyperparameters would add two empty runs beside the real one
        table = "\n".join(f"| {key} | {value} |" for key, value in plain.items())
        tracker.log({"settings": f"| setting | value |\n|---|---|\n{table}"}, step=0)
    else:
        tracker.store_init_configuration(plain)


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row in groups: `train/loss`, `eval/loss`, `system/cpu_percent`."""
    figures = {}
    for key, value in row.items():
        if key == "step" or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if key.startswith("eval_"):
            figures[f"eval/{key.removeprefix('eval_')}"] = value
        else:
            figures[f"{'system' if is_system_figure(key) else 'train'}/{key}"] = value
    return figures


def _words(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _read_ids(folder: Path) -> dict[str, str]:
    """The ids under which trackers know the run in a folder; empty where none are kept or they cannot be read."""
    try:
        ids = json.loads((folder / TRACKER_IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in ids.items()} if isinstance(ids, dict) else {}


def _write_ids(folder: Path, ids: Mapping[str, str]) -> None:
    write_atomically(folder / TRACKER_IDS, json.dumps(ids, indent=1).encode("utf-8"))
