"""Burnish from Python: `burnish.train({...})` and `burnish.load(run_dir).chat("…")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.config import Settings, load_settings

if TYPE_CHECKING:
    from burnish.generate.request import Sampling


def train(
    settings: Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train and return what run.json holds.

    Args:
        settings: a dict with the keys of a YAML file, or the path of one.
        overrides: `key=value` strings that win over the file.
        callbacks: functions that get every row of metrics.jsonl, or `Callback` objects, which can also stop, save and
            evaluate.
    Raises:
        BurnishError: anything the user can mend; its text says what, where and how.
    """
    from burnish.train.run import run_training

    return run_training(load_settings(settings, overrides, require=("model_name_or_path", "dataset")), callbacks)


def load(name: str, **options: Any) -> Any:
    """A model to talk to: `load("runs/quickstart").chat("…")`.

    Args:
        name: a model folder, a run folder, a .gguf file, a hub name or smollm2-135m-instruct.
        options: those of `burnish.generate.chat.load_chat_model`.
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
    }
