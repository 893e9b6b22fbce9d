"""Burnish from Python: `burnish.train({...})` and `burnish.load(run_dir).chat("…")`."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.config import Settings, load_settings
from burnish.errors import BurnishError, ModelError

_WEIGHTS = ("adapter_config.json", "config.json")

if TYPE_CHECKING:
    from burnish.data.records import Sample
    from burnish.generate.chat import ChatModel
    from burnish.generate.request import Sampling
    from burnish.model.source import ModelSource


def train(
    settings: Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train, evaluate and predict, whichever the settings ask for, and return what run.json holds.

    A call that only predicts returns what predict.json holds.

    Args:
        settings: a dict with the keys of a YAML file, or the path of one.
        overrides: `key=value` strings that win over the file.
        callbacks: functions that get every row of metrics.jsonl, or `Callback` objects, which can also stop, save and
            evaluate.
    Raises:
        BurnishError: anything the user can mend; its text says what, where and how.
    """
    return run(load_settings(settings, overrides, require=("model_name_or_path", "dataset")), callbacks)


def run(settings: Settings, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """`train` with settings that are read already."""
    training = settings.training
    record: dict[str, Any] = {}
    if training.do_train or training.do_eval or not training.do_predict:
        from burnish.train.run import run_training

        record = run_training(settings, callbacks)
    if not training.do_predict:
        return record
    if os.environ.get("RANK", "0") != "0":  # rows are answered in one process; the others are done
        return record
    if not record:
        for line in settings.notes:
            log.note(line)
    gc.collect()  # the trained model goes before it is loaded again
    predicted = predict_with(settings, trained_model(settings), after_training=training.do_train)
    return record | {"predict": predicted["metrics"]} if record else predicted


def predict(
    settings: Mapping[str, Any] | str | Path, overrides: Sequence[str] = (), *, model: str | None = None
) -> dict[str, Any]:
    """Answer a dataset and compare with its answers; returns what predict.json holds.

    Args:
        settings: a dict with the keys of a YAML file, or the path of one; `eval_dataset` is answered.
        overrides: `key=value` strings that win over the file.
        model: a model or run folder; by default what the settings have trained, or name.
    """
    read = load_settings(settings, overrides)
    return predict_with(read, model or trained_model(read))


def predict_with(settings: Settings, model: str, *, after_training: bool = False) -> dict[str, Any]:
    """`predict` with settings that are read already; `after_training` replaces the predictions of an earlier model."""
    from burnish.model.reward import head_folder
    from burnish.model.source import find_model, with_adapters

    refuse_several_processes(after_training)
    predicted_data(settings)  # an error there needs no model
    source = with_adapters(find_model(model, log.say), _predicts_with(settings, model)["adapters"])
    folder = Path(settings.training.output_dir or f"runs/predict-{Path(model).stem}").expanduser()
    overwrite = after_training or settings.training.overwrite_output_dir
    if head_folder(source):
        results = _score_data(settings, model, folder, overwrite=overwrite)
    else:
        results = answer_data(settings, load_predictor(settings, model), folder, overwrite=overwrite)
    if (folder / "run.json").is_file():
        from burnish.runs.folder import RunFolder

        RunFolder(folder).update(predict=results["metrics"])
    return results


def refuse_several_processes(after_training: bool = False) -> None:
    """Raise where a launcher has started several processes to predict; after a training the first one does it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not after_training:
        raise BurnishError(
            "predictions are made in one process",
            at=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
            fix="start it without torchrun; per_device_eval_batch_size sets how many rows run at a time",
        )


def load_predictor(settings: Settings, model: str, **options: Any) -> ChatModel:
    """The model that predicts, as the settings want it loaded and sampled from; `options` win over them."""
    from burnish.generate.chat import load_chat_model

    predicted_data(settings)  # an error there needs no model
    sampling = replace(sampling_of(settings), seed=None)
    return load_chat_model(model, say=log.say, sampling=sampling, **(_predicts_with(settings, model) | options))


def load_base(settings: Settings, tuned: ChatModel) -> ChatModel:
    """What a tuned model was trained from, loaded as the settings want it. Raises ModelError where it is not known."""
    from burnish.generate.chat import load_base_of

    return load_base_of(
        tuned,
        use_cpu=settings.training.use_cpu,
        trust_remote_code=settings.model.trust_remote_code,
        infer_dtype=settings.model.infer_dtype,
        say=log.say,
    )


def _predicts_with(settings: Settings, model: str) -> dict[str, Any]:
    """The loading options of a model that predicts; adapters belong to the base that the settings name."""
    options = loading_options(settings)
    return options if model == settings.model.model_name_or_path else options | {"adapters": ()}


def answer_data(
    settings: Settings,
    chat: ChatModel,
    folder: Path,
    *,
    samples: Sequence[Sample] | None = None,
    overwrite: bool = False,
    renew: bool = False,
) -> dict[str, Any]:
    """Answer what the settings name with a loaded model; returns what predict.json holds.

    Args:
        samples: rows of `predicted_samples` that were read already; None reads all.
        overwrite, renew: as in `burnish.evaluate.predict.predict`.
    """
    from burnish.evaluate.predict import predict as answer

    names, held_out = predicted_data(settings)
    assert chat.source is not None
    seed, template = settings.training.seed, chat.template
    how = [asdict(chat.sampling), template.saved_source, _predicts_with(settings, chat.name), seed]
    if chat.sampling.do_sample:
        log.say(
            f"drawn with temperature {chat.sampling.temperature:g} and seed {seed}; do_sample: false takes no chance"
        )
    return answer(
        chat,
        predicted_samples(settings) if samples is None else samples,
        folder,
        about={
            "model": chat.name,
            "datasets": list(names),
            "held_out": held_out,
            "template": template.name,
            "sampling": asdict(chat.sampling) | {"seed": seed},
        },
        fingerprints={**_fingerprints(settings, chat.source), "settings": digest(how)},
        batch_size=settings.training.per_device_eval_batch_size,
        seed=seed,
        overwrite=overwrite,
        renew=renew,
    )


def _score_data(settings: Settings, model: str, folder: Path, *, overwrite: bool) -> dict[str, Any]:
    """A reward model's scores of what the settings name; returns what predict.json holds."""
    from burnish.evaluate.predict_scores import predict_scores
    from burnish.generate.reward import load_reward_model as load_scorer

    names, held_out = predicted_data(settings)
    options = _predicts_with(settings, model)
    del options["skip_special_tokens"]  # of shown answers
    scorer = load_scorer(model, say=log.say, **options)
    assert scorer.source is not None
    batch_size = settings.training.per_device_eval_batch_size
    how = [scorer.template.saved_source, options, batch_size]
    return predict_scores(
        scorer,
        predicted_samples(settings),
        folder,
        about={"model": model, "datasets": list(names), "held_out": held_out, "template": scorer.template.name},
        fingerprints={**_fingerprints(settings, scorer.source), "settings": digest(how)},
        batch_size=batch_size,
        overwrite=overwrite,
    )


def _fingerprints(settings: Settings, source: ModelSource) -> dict[str, str]:
    """What predictions depend on besides how they are made: the weights and the rows."""
    from burnish.evaluate.prediction_files import weights_digest

    return {"weights": weights_digest(source), "data": data_fingerprint(settings)}


def data_fingerprint(settings: Settings) -> str:
    """A digest of the rows that are predicted, and of which of them are."""
    from burnish.data.load import source_fingerprint
    from burnish.train.sets import data_folder, reading

    names, held_out = predicted_data(settings)
    rows = source_fingerprint(names, data_folder(settings), **reading(settings))
    return digest([rows, settings.data.val_size if held_out else None])


def predicted_samples(settings: Settings, limit: float | None = None) -> Iterator[Sample]:
    """The rows that are predicted, in the order of the data.

    Args:
        limit: rows from the beginning, or below 1 a share of them; None for all.
    """
    from burnish.data.load import iter_samples
    from burnish.train.sets import data_folder, reading

    names, held_out = predicted_data(settings)
    kept = _held_out_rows(settings) if held_out else None
    found = iter_samples(names, data_folder(settings), on_bad_row=settings.data.on_bad_row, **reading(settings))
    samples = (one for one in found if kept is None or (one.dataset, one.file, one.row) in kept)
    if limit is not None and limit < 1:
        every = list(samples)
        return iter(every[: math.ceil(limit * len(every))])
    return samples if limit is None else islice(samples, int(limit))


def digest(value: Any) -> str:
    """Of anything that JSON can show."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def predicted_data(settings: Settings) -> tuple[tuple[str, ...], bool]:
    """Which datasets are answered, and whether only the rows that training holds out of them.

    A `dataset` of the command line wins over the file's `eval_dataset`. Raises BurnishError where none is named.
    """
    data = settings.data
    asked = [key for key in ("eval_dataset", "dataset") if settings.origins.get(key) == "command line"]
    if asked == ["dataset"]:
        return data.dataset, False
    if data.eval_dataset:
        return data.eval_dataset, False
    if data.val_size and data.dataset:
        return data.dataset, True
    raise BurnishError(
        "no data is named to predict on",
        at="eval_dataset",
        fix="add eval_dataset=FILE, or dataset=FILE for the data of the training",
    )


def _held_out_rows(settings: Settings) -> set[tuple[str, str, int]]:
    """The dataset, file and row of everything that `val_size` keeps out of training."""
    from burnish.train.data import build_data, build_template
    from burnish.train.origin import model_source
    from burnish.train.stages import STAGES

    template = build_template(settings, model_source(settings))
    held = build_data(settings, template, STAGES.get(settings.tuning.stage)).eval.values()
    return {part.origin(number) for part in held for number in range(len(part))}


def load(name: str, **options: Any) -> Any:
    """A model to talk to: `load("runs/quickstart").chat("…")`.

    Args:
        name: a model folder, a run folder, a .gguf file, a hub name or smollm2-135m-instruct.
        options: those of `burnish.generate.chat.load_chat_model`, such as `use_cpu` and `template`.
    """
    from burnish.generate.chat import load_chat_model

    return load_chat_model(name, say=log.say, **options)


def load_reward_model(name: str, **options: Any) -> Any:
    """A reward model to ask: `load_reward_model("runs/rm").score([conversation, …])` gives one number each.

    Args:
        name: the folder of a run with `stage: rm`.
        options: those of `burnish.generate.reward.load_reward_model`.
    """
    from burnish.generate.reward import load_reward_model as load

    return load(name, say=log.say, **options)


def sampling_of(settings: Settings) -> Sampling:
    """The values of the sampler that the settings ask for; a seed only where one is given."""
    from burnish.generate.request import Sampling

    generating = settings.generating
    return Sampling(
        max_new_tokens=generating.max_new_tokens,
        max_length=generating.max_length,
        do_sample=generating.do_sample,
        temperature=generating.temperature,
        top_p=generating.top_p,
        top_k=generating.top_k,
        repetition_penalty=generating.repetition_penalty,
        seed=settings.training.seed if "seed" in settings.given else None,
    )


def loading_options(settings: Settings) -> dict[str, Any]:
    """What `load_chat_model` takes of the settings, but for the model's name and the sampling."""
    from burnish.train.origin import hub_arguments

    model, data = settings.model, settings.data
    return {
        "template": data.template,
        "default_system": data.default_system,
        "adapters": model.adapter_name_or_path,
        "use_cpu": settings.training.use_cpu,
        "trust_remote_code": model.trust_remote_code,
        "enable_thinking": data.enable_thinking,
        "preserve_thinking": data.preserve_thinking,
        "split_special_tokens": data.split_special_tokens,
        "tool_format": data.tool_format,
        "skip_special_tokens": settings.generating.skip_special_tokens,
        "infer_dtype": model.infer_dtype,
        "quantization_bit": model.quantization_bit,
        "quantization_type": model.quantization_type,
        "double_quantization": model.double_quantization,
        "hub": hub_arguments(settings),
    }


def trained_model(settings: Settings) -> str:
    """The model that a settings file is about: what it has trained, or for one that trains nothing, what it names.

    Raises:
        ModelError: it has not trained anything yet, or names nothing.
    """
    base, output = settings.model.model_name_or_path, settings.training.output_dir
    if settings.data.dataset and settings.training.do_train:
        if output and any((Path(output).expanduser() / name).is_file() for name in _WEIGHTS):
            return output
        raise ModelError(
            "what these settings train is not there yet",
            at=f"output_dir: {output}",
            fix=f"train first: burnish train {settings.source_path}; or name the base: {base}",
        )
    if not base:
        raise ModelError("no model is named", at=str(settings.source_path), fix="set model_name_or_path")
    return base
