"""Where the answers come from that a judge gets: files of predictions, or models that are asked now."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from burnish import log
from burnish.cli.eval import BASE
from burnish.cli.judge_options import JudgeOptions
from burnish.errors import BurnishError, DataError, ModelError
from burnish.runs.preflight import SUMMARY

if TYPE_CHECKING:
    from burnish.cli.eval_judge import JudgeCall
    from burnish.config import Settings
    from burnish.data.records import Sample
    from burnish.evaluate.judging.report import Case
    from burnish.evaluate.judging.rows import Row
    from burnish.generate.chat import ChatModel
    from burnish.generate.remote import RemoteModel

_MODEL_FILES = ("config.json", "adapter_config.json", SUMMARY)
_PREDICTIONS = "predictions.jsonl"


def gather(call: JudgeCall, *, graded: bool, compared: bool, options: JudgeOptions) -> tuple[Case, Path]:
    """The answers to judge, question by question, and the folder of the results.

    Args:
        options: a dry run makes no answers; where there are none yet, they are taken to be as long as the data's own.
    Raises:
        BurnishError: there is nothing to judge, or the two models were not asked the same.
    """
    from burnish.evaluate.judging.report import Case
    from burnish.evaluate.judging.rows import pair_rows, read_rows

    file, other_file = predictions_of(call.model), predictions_of(call.compare) if call.compare else None
    _check(call, file, other_file)
    if file:
        folder = results_folder(call, file.parent)
        new, name = read_rows(file), _made_by(file)
        old, other = (read_rows(other_file), _made_by(other_file)) if other_file else ([], "")
    else:
        settings, name = _understood(call)
        folder = results_folder(call, _home(name, call.served))
        new, old, name, other = _asked(call, settings, name, folder, other_file, options)
    if call.compare is None:
        return Case(new[: _count(call.limit, len(new))] if file else new, [], name, "", graded, compared), folder
    pairs, alone = pair_rows(new, old)
    pairs = pairs[: _count(call.limit, len(pairs))] if file else pairs
    if alone and (file or call.limit is None):
        log.note(f"{alone} answers to questions that only one of the two was asked are left out")
    if name == other:
        name, other = f"{name} (new)", f"{other} (old)"
    return Case([one for one, _ in pairs], [one for _, one in pairs], name, other, graded, compared), folder


def predictions_of(name: str) -> Path | None:
    """The file of predictions that a name means: itself, or that of a folder which holds no model."""
    path = Path(name).expanduser()
    if path.suffix == ".jsonl":
        return path
    if (path / _PREDICTIONS).is_file() and not any((path / each).exists() for each in _MODEL_FILES):
        return path / _PREDICTIONS
    return None


def results_folder(call: JudgeCall, home: Path) -> Path:
    """Where the results go: --output, or where the answers are at home."""
    return Path(call.output).expanduser() if call.output else home


def _home(model: str, served: str | None) -> Path:
    """The run folder that a model is; for others a folder of their own."""
    from burnish.generate.remote import is_url

    if is_url(model):
        from burnish.cli.served_answers import slug

        return Path(f"runs/judge-{slug('-'.join([urlsplit(model).netloc.rpartition('@')[2], served or '']))}")
    run = Path(model).expanduser()
    return run if (run / SUMMARY).is_file() else Path(f"runs/judge-{run.stem}")


def _understood(call: JudgeCall) -> tuple[Settings, str]:
    """The settings of the answers, and the model's name.

    Raises:
        BurnishError: a setting has no effect here.
    """
    from burnish.cli.predict import understand

    named = [f"eval_dataset={','.join(call.data)}"] if call.data else []
    settings, name = understand(call.model, None, [*call.overrides, *named])
    for key, fix in (("output_dir", "use --output"), ("overwrite_output_dir", "leave it out")):
        if settings.origins.get(key) == "command line":
            raise BurnishError(f"'{key}' has no effect with --judge", at="command line", fix=fix)
    _refuse_of_models_here(call, settings)
    return settings, name


def _refuse_of_models_here(call: JudgeCall, settings: Settings) -> None:
    """Raise for settings that a server decides: of loading, where no model is loaded, and those it has no name for."""
    from burnish.cli.chat import LOADS
    from burnish.cli.served_answers import NO_NAME, refuse_idle
    from burnish.generate.remote import is_url

    served = [is_url(name) for name in (call.model, *([call.compare] if call.compare is not None else []))]
    idle = set(NO_NAME) if any(served) else set()
    if served[0] and (len(served) == 1 or served[1] or (call.compare and predictions_of(call.compare))):
        idle |= LOADS | {"per_device_eval_batch_size"}
    refuse_idle(settings, idle)


def _check(call: JudgeCall, file: Path | None, other_file: Path | None) -> None:
    from burnish.generate.remote import is_url

    if is_url(call.model) and call.compare == BASE:
        raise BurnishError(
            "what a served model was tuned from is not known",
            at="--compare-base",
            fix="name it: --compare OTHER, or --compare URL --compare-model NAME",
        )
    if file is None:
        return
    if call.compare == BASE:
        raise BurnishError(
            "a file of predictions has no base that could be asked", at="--compare-base", fix="--compare OTHER.jsonl"
        )
    if call.compare and other_file is None:
        raise BurnishError(
            "a file of predictions is compared with another one",
            at=f"--compare {call.compare}",
            fix="make it with: burnish predict … output_dir=…",
        )
    for given, at in ((call.data, "--data"), (call.overrides, " ".join(call.overrides))):
        if given:
            raise BurnishError("predictions are there already: this has no effect", at=at, fix="leave it out")


def _count(limit: float | None, rows: int) -> int:
    if limit is None:
        return rows
    return int(limit) if limit >= 1 else math.ceil(limit * rows)


def _made_by(file: Path) -> str:
    """What a file of predictions is called: the model that its predict.json names, or itself."""
    from burnish.evaluate.prediction_files import read_results

    found = (read_results(file.parent) or {}).get("model") if file.name == _PREDICTIONS else None
    return str(found or file)


def _asked(
    call: JudgeCall, settings: Settings, name: str, folder: Path, other_file: Path | None, options: JudgeOptions
) -> tuple[list[Row], list[Row], str, str]:
    """Answers of models: (new, old, name, name of the other)."""
    from burnish.api import load_base, predicted_samples, refuse_several_processes
    from burnish.cli.served_answers import load_served
    from burnish.evaluate.judging.rows import read_rows
    from burnish.generate.remote import is_url

    refuse_several_processes()
    samples = list(predicted_samples(settings, call.limit))
    if not samples:
        raise DataError(
            "there is no question to judge answers to", at="eval_dataset", fix="burnish data stats shows the data"
        )
    if options.dry_run:
        assumed = _assumed(samples, settings)
        other = other_file or call.compare
        old = read_rows(other_file) if other_file else [replace(row, answer=f"{row.answer} .") for row in assumed]
        return assumed, old, name, "its base" if call.compare == BASE else str(other)
    # Servers are looked for before hours are spent on answers.
    with_server = call.compare is not None and is_url(call.compare)
    served = load_served(settings, str(call.compare), call.compare_served, "--compare-model") if with_server else None
    if is_url(name):
        remote, tuned = load_served(settings, name, call.served), None
        new, named = _answers(settings, remote, folder, samples, options), _name(remote)
    else:
        tuned = _load(settings, name)
        if call.compare == BASE:
            _check_base(tuned)
        new, named = _answers(settings, tuned, folder, samples, options), tuned.name
    if call.compare is None:
        return new, [], named, ""
    if other_file:
        return new, read_rows(other_file), named, _made_by(other_file)
    if tuned is not None:
        tuned.model = None  # two models need not be in memory at once
    before = tuned if call.compare == BASE else None
    other_model = served or (load_base(settings, before) if before else _load(settings, call.compare, others=True))
    return new, _answers(settings, other_model, folder, samples, options), named, _name(other_model)


def _load(settings: Settings, name: str, *, others: bool = False) -> ChatModel:
    """A model to predict; another one than the settings are about has its own template."""
    from burnish.api import load_predictor

    own: dict[str, Any] = {"adapters": (), "template": None, "default_system": None} if others else {}
    return load_predictor(settings, name, **own)


def _check_base(tuned: ChatModel) -> None:
    """Look where the base of a run lies before hours are spent on answers. Raises ModelError."""
    from burnish.model.source import trained_from

    assert tuned.source is not None
    try:
        trained_from(tuned.source, log.say)
    except ModelError as error:
        raise ModelError(error.what, at=error.at, fix="name what to compare with: --compare OTHER") from error


def _answers(
    settings: Settings, model: ChatModel | RemoteModel, folder: Path, samples: Sequence[Sample], options: JudgeOptions
) -> list[Row]:
    """A model's answers to the data, in a folder of their own below the results; gone on with after a kill."""
    from burnish.api import answer_data
    from burnish.cli.served_answers import answer_data_served, slug
    from burnish.evaluate.judging.rows import read_rows
    from burnish.generate.remote import RemoteModel

    log.say(f"\nanswers of {_name(model)}")
    if isinstance(model, RemoteModel):
        own = folder / "judge" / f"answers-{slug(model.model)}-{_short(f'{model.name} {model.model}')}"
        fresh, at_once = options.judge_fresh, options.judge_concurrency
        answer_data_served(settings, model, own, samples, at_once=at_once, overwrite=fresh, renew=True)
    else:
        own = folder / "judge" / f"answers-{Path(model.name).stem}-{_short(model.name)}"
        answer_data(settings, model, own, samples=samples, renew=True)
    return read_rows(own / _PREDICTIONS)[: len(samples)]


def _name(model: ChatModel | RemoteModel) -> str:
    """What a model is called in the results; a served one with its address."""
    from burnish.generate.remote import RemoteModel, shown_url

    return f"{model.model} at {shown_url(model.name)}" if isinstance(model, RemoteModel) else model.name


def _short(name: str) -> str:
    path = Path(name).expanduser()
    return hashlib.sha256(str(path.resolve() if path.exists() else name).encode()).hexdigest()[:6]


def _assumed(samples: Sequence[Any], settings: Settings) -> list[Row]:
    """Rows for an estimate: each answer as long as the data's own, or as max_new_tokens allows."""
    from burnish.data.export import openai_messages
    from burnish.evaluate.judging.rows import row_of
    from burnish.evaluate.predict import question_of

    longest = "word " * settings.generating.max_new_tokens
    rows: list[Row] = []
    without = 0
    for sample in samples:
        question, answer = question_of(sample.record, sample)
        without += answer is None
        said = answer.content if answer is not None else longest
        line: dict[str, Any] = {"messages": openai_messages(question.turns), "prediction": said}
        line |= {"dataset": sample.dataset, "row": sample.row, "reference": said if answer is not None else None}
        rows.append(row_of(line, "the data", 0))
    as_long = "as long as the data's own" + (f", {without} without one of max_new_tokens" if without else "")
    log.say(f"no answer is made in a dry run: they are taken to be {as_long}")
    return rows
