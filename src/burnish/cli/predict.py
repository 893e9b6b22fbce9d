"""`burnish predict`: answers to a dataset, or a reward model's scores of it, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish import log
from burnish.cli.chat import LOADS, STEERS
from burnish.cli.data_target import SETTINGS_ENDINGS
from burnish.config import Settings, load_settings
from burnish.config.remarks import EVALUATION_UNUSED
from burnish.errors import BurnishError

_DATA = {"dataset", "eval_dataset", "dataset_dir", "max_samples", "val_size", "on_bad_row", "max_files", "data_seed"}
_DATA |= {"stage", "streaming", "ms_hub_token"}
_OUTPUT = {"output_dir", "overwrite_output_dir", "per_device_eval_batch_size", "model_name_or_path"}
_OUTPUT |= {"do_predict", "predict_with_generate", "overwrite_cache"}
_OF_ANSWERS = STEERS - {"seed"} | {"skip_special_tokens"}


def run_predict(source: str, model: str | None, overrides: Sequence[str]) -> None:
    """Read the settings, choose the model, answer."""
    from burnish.generate.remote import is_url

    if is_url(source):
        _predict_served(source, model, overrides)
        return
    if model and is_url(model):
        raise BurnishError(
            "--model names a model that is here, or one of a server's models",
            at="--model",
            fix=f"burnish predict {model} --model NAME eval_dataset=FILE",
        )
    settings, name = understand(source, model, overrides)
    for line in settings.notes:
        if line not in EVALUATION_UNUSED:  # it is predicted
            log.note(line)
    from burnish.api import predict_with

    predict_with(settings, name)


def _predict_served(url: str, served: str | None, overrides: Sequence[str]) -> None:
    """Let a server answer: it has weights, template and sampler, so that settings of those are errors."""
    from burnish.api import predicted_samples, refuse_several_processes
    from burnish.cli.served_answers import NO_NAME, answer_data_served, load_served, refuse_idle, slug

    settings, _ = understand(url, None, overrides)
    refuse_idle(settings, LOADS | NO_NAME | {"val_size", "model_name_or_path"})
    refuse_several_processes()
    remote = load_served(settings, url, served)
    answer_data_served(
        settings,
        remote,
        Path(settings.training.output_dir or f"runs/predict-{slug(remote.model)}").expanduser(),
        predicted_samples(settings),
        at_once=settings.training.per_device_eval_batch_size,
        overwrite=settings.training.overwrite_output_dir,
        renew=False,
    )


def understand(source: str, model: str | None, overrides: Sequence[str]) -> tuple[Settings, str]:
    """The settings and the model's name: of a settings file, of a run folder, or of a plain model.

    Raises:
        BurnishError: a setting of the command line has no effect here, or there is no such model.
    """
    from burnish.api import trained_model

    if Path(source).suffix.lower() in SETTINGS_ENDINGS:
        settings = load_settings(source, list(overrides))
        name = model or trained_model(settings)
    else:
        settings, name = load_settings(settings_of_a_run(source, overrides), list(overrides)), model or source
    for key in sorted(settings.given - _DATA - _OUTPUT - STEERS - LOADS):
        if settings.origins.get(key) == "command line":
            fix = (
                "leave it out; max_length limits prompt and answer together" if key == "cutoff_len" else "leave it out"
            )
            raise BurnishError(f"'{key}' has no effect on predictions", at="command line", fix=fix)
    _refuse_sampling(settings, name)
    return settings, name


def _refuse_sampling(settings: Settings, name: str) -> None:
    """A reward model samples nothing: settings of the sampler are errors, or in a file worth a note."""
    from burnish.generate.remote import is_url

    idle = sorted(settings.given & _OF_ANSWERS)
    if not idle or is_url(name):
        return
    from burnish.model.reward import head_folder
    from burnish.model.source import find_model

    if head_folder(find_model(name)) is None:
        return
    for key in idle:
        if settings.origins.get(key) == "command line":
            raise BurnishError(
                f"'{key}' has no effect on a reward model's scores", at="command line", fix="leave it out"
            )
    if settings.source_path:  # else they are all that the run was trained with
        log.note(f"{', '.join(idle)}: no effect here, as a reward model scores answers and writes none")


def settings_of_a_run(folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that a run was trained with, as far as they tell how to ask its model; none for another model.

    The model is the run itself, with the template and so on that its folder holds, and predictions go there.
    """
    path = Path(folder).expanduser()
    run = path.parent if path.name.startswith("checkpoint-") else path
    if not (run / "run.json").is_file():
        return {"model_name_or_path": folder}
    from burnish.runs.folder import read_summary

    held = dict(read_summary(run).get("settings") or {})
    output = run if run == path else run / f"predict-{path.name}"
    own = {"resume_from_checkpoint": None, "overwrite_output_dir": None, "output_dir": str(output)}
    if any(word.replace("--", "").startswith("eval_dataset") for word in overrides):
        own["val_size"] = None
    return {**held, **own, "adapter_name_or_path": None}
