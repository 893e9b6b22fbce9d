"""lm-eval's tasks by name: ours, the user's, its own. Needs the extra `eval`."""

from __future__ import annotations

import fnmatch
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from burnish import log
from burnish.cache import cache_folder
from burnish.errors import BurnishError, DataError, MissingExtraError
from burnish.evaluate.data_files import find_data
from burnish.registry import did_you_mean, nearest

OWN = Path(__file__).parent / "tasks"
_LOCAL = re.compile(r"^dataset_path: *['\"]?(json|csv|parquet|text)\b", re.MULTILINE)
_NAMING = "`burnish eval --list PATTERN` lists what there is"


def require_lm_eval() -> None:
    """Raises MissingExtraError where lm-eval is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("burnish eval", "eval") from error
    import logging

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what it warns of is said in our own words


def task_names(pattern: str | None, include: Sequence[str] = ()) -> list[str]:
    """All names of tasks, groups and tags that hold a text or fit a pattern with * in it."""
    names = _manager([_builtin(), *_folders(include)]).all_tasks
    if not pattern:
        return list(names)
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [name for name in names if fnmatch.fnmatch(name.lower(), wanted.lower())]


def load_tasks(names: Sequence[str], *, include: Sequence[str] = (), data: Sequence[str] = ()) -> dict[str, Any]:
    """The tasks with their data, as lm-eval's `evaluate` takes them.

    Args:
        names: tasks, groups or tags, patterns with *, or paths of YAML files.
        include: folders with the user's own task files; they go before lm-eval's of the same name.
        data: `PATH`, or `TASK=PATH`: local data that takes the place of a task's own.
    Raises:
        BurnishError: an unknown name, data that is missing or cannot be fetched.
    """
    folders = _folders(include)
    for name in names:
        _refuse_lost_file(name)
    manager = _manager_for(names, folders)
    found = _matched(names, manager)
    places = _data_of(found, data)
    with tempfile.TemporaryDirectory(prefix="burnish-tasks-") as written:
        try:
            return _loaded(manager, [_spec(name, places.get(name), manager, Path(written)) for name in found])
        except KeyError as error:  # a group that names tasks of other folders
            if "registered" not in str(error):
                raise _not_ready(found, error) from error
            manager = _manager([_builtin(), *folders])
            return _loaded(manager, [_spec(name, places.get(name), manager, Path(written)) for name in found])


def task_of(entry: str, names: Sequence[str]) -> str | None:
    """The task that `TASK=PATH` of --data is for: one of `names`, or a file among them by its bare name; else None."""
    wanted = entry.partition("=")[0]
    of_files = {Path(name).stem: name for name in names if _names_a_file(name)}
    return wanted if wanted in names else of_files.get(wanted)


def _names_a_file(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


def _refuse_lost_file(name: str) -> None:
    """Raise where a file is named that is not there: no name of lm-eval's is meant."""
    if _names_a_file(name) and not Path(name).is_file():
        folder = Path(name).parent
        beside = [str(each) for each in folder.glob("*.y*ml")] if folder.is_dir() else []
        fix = f"{did_you_mean(name, beside)} A task's name stands without .yaml"
        raise DataError("there is no such task file", at=f"--tasks {name}", fix=fix)


def _manager_for(names: Sequence[str], folders: Sequence[Path]) -> Any:
    """lm-eval's manager with as few of its own files as the names allow: reading all takes half a minute."""
    manager = _manager(folders)
    missing = _missing(names, manager)
    if not missing:
        return manager
    named = _folders_that_name(missing)
    if not named and not any(set(name) & set("*?[") for name in missing) and nearest(missing[0], manager.all_tasks):
        raise _unknown(missing[0], manager.all_tasks)  # none of its files holds the name: it is a slip
    manager = _manager([*named, *folders])
    if not _missing(names, manager):
        return manager
    log.say("reading the list of lm-eval's tasks …")
    return _manager([_builtin(), *folders])


def _missing(names: Sequence[str], manager: Any) -> list[str]:
    return [name for name in names if name not in manager.all_tasks and not Path(name).is_file()]


def _builtin() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def _folders(include: Sequence[str]) -> list[Path]:
    for folder in include:
        if not Path(folder).expanduser().is_dir():
            raise DataError("there is no such folder", at=f"--include-path {folder}", fix="name a folder with tasks")
    return [OWN, *(Path(folder).expanduser() for folder in include)]


def _manager(folders: Sequence[Path]) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)


def _folders_that_name(names: Sequence[str]) -> list[Path]:
    """The folders of lm-eval in which a file holds one of the names."""
    wanted = [name.encode() for name in names]
    found = set()
    for file in _builtin().rglob("*.yaml"):
        content = file.read_bytes()
        if any(name in content for name in wanted):
            found.add(_builtin() / file.relative_to(_builtin()).parts[0])
    return sorted(folder for folder in found if folder.is_dir())


def _matched(names: Sequence[str], manager: Any) -> list[str]:
    found: list[str] = []
    for name in names:
        known = [name] if name in manager.all_tasks or Path(name).is_file() else []
        known = known or fnmatch.filter(manager.all_tasks, name)
        if not known:
            raise _unknown(name, manager.all_tasks)
        found += [each for each in known if each not in found]
    return found


def _unknown(name: str, known: Sequence[str]) -> BurnishError:
    return BurnishError(f"there is no task '{name}'", at="--tasks", fix=f"{did_you_mean(name, known)} {_NAMING}")


def _data_of(names: Sequence[str], data: Sequence[str]) -> dict[str, str]:
    """Where the local data of each task is."""
    places: dict[str, str] = {}
    ours = {file.stem for file in OWN.glob("*.yaml")}
    for entry in data:
        name, equals, path = entry.partition("=")
        if equals:
            task = task_of(entry, names)
            if task is None:
                fix = did_you_mean(name, names)
                raise BurnishError(f"--data names '{name}', no task of this call", at=entry, fix=fix)
            places[task] = path
            continue
        takers = [each for each in names if each in ours] or (list(names) if len(names) == 1 else [])
        if not takers:
            raise BurnishError("which task is this data for?", at=f"--data {entry}", fix=f"--data TASK={entry}")
        places |= dict.fromkeys(takers, entry)
    return places


def _spec(name: str, path: str | None, manager: Any, written: Path) -> str:
    """A task's name, or a file that includes its own one and names other data."""
    file = Path(name) if Path(name).is_file() else getattr(manager.task_index.get(name), "yaml_path", None)
    texts = [each.read_text(encoding="utf-8") for each in (file, *_included(file))] if file else []
    if path is None:
        if any(_LOCAL.search(text) for text in texts) and not any("data_files" in text for text in texts):
            raise DataError(
                f"task {name} reads local files, and none are named",
                at=f"--tasks {name}",
                fix=f"--data {name}=FOLDER, with test.jsonl in it, and train.jsonl for examples",
            )
        return name
    if file is None:
        raise BurnishError(f"'{name}' is no single task: its data cannot be replaced", at=f"--data {path}")
    takes = any("fewshot_split" in text for text in texts)
    changes = find_data(path).overrides(cache_folder() / "datasets", takes_examples=takes)
    own = {"include": str(Path(file).resolve()), "task": Path(name).stem if Path(name).is_file() else name, **changes}
    target = written / f"{own['task']}.yaml"
    target.write_text(json.dumps(own), encoding="utf-8")  # JSON is YAML
    return str(target)


def _included(file: Path) -> list[Path]:
    """The file that a task file includes, and those that it includes in turn."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("include:"):
            below = file.parent / line.removeprefix("include:").strip().strip("'\"")
            return [below, *_included(below)] if below.is_file() else []
    return []


def _loaded(manager: Any, specs: Sequence[str]) -> dict[str, Any]:
    from datasets.exceptions import DatasetsError

    try:
        with redirect_stderr(StringIO()):
            return dict(manager.load(list(specs)))
    except ImportError as error:
        raise MissingExtraError(f"a task of {', '.join(specs)}", packages=[error.name or "lm-eval[…]"]) from error
    except (OSError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError, DatasetsError) as error:
        raise _not_ready(specs, error) from error


def _not_ready(specs: Iterable[str], error: Exception) -> DataError:
    first = (f"{type(error).__name__}: {error}" if str(error).strip() else type(error).__name__).splitlines()[0][:300]
    names = ", ".join(Path(spec).stem if spec.endswith(".yaml") else spec for spec in specs)
    return DataError(
        f"a task cannot be made ready: {first}",
        at=f"--tasks {names}",
        fix="data on the hub needs a connection (HF_ENDPOINT names a mirror); for local files: --data TASK=PATH; "
        "look also at the task's own file",
    )
