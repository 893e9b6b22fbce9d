"""From the names on the command line to models that can be asked: which engine, which adapters, which templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, ModelError
from burnish.generate.chat import load_chat_model
from burnish.generate.engine import Engine
from burnish.generate.llamacpp import is_installed
from burnish.generate.request import Sampling
from burnish.generate.reward import load_reward_model
from burnish.model.load import load_tokenizer, read_stop_ids
from burnish.model.reward import head_folder
from burnish.model.several import put_adapters
from burnish.model.source import ModelSource, find_model
from burnish.serve.models import Models, Served
from burnish.serve.serving import Limits, Serving
from burnish.serve.worker import Backend
from burnish.template import ChatTemplate, load_template

ENGINES = ("auto", "burnish", "llamacpp", "vllm")


@dataclass(frozen=True)
class Wanted:
    """What to serve.

    `model`: as the user wrote it. `name`: under which requests ask for it; None takes the last part of `model`.
    `adapters`: run folders by name, held beside each other on the base. `engine`: one of `ENGINES`. `slots`: answers
    at a time. `loading`: arguments of `load_chat_model`. `given`: the settings that the user has set.
    """

    model: str
    name: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    engine: str = "auto"
    slots: int = 8
    defaults: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    loading: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()


_RENDERING = {"template", "default_system", "tool_format", "enable_thinking", "preserve_thinking"}
_RENDERING |= {"split_special_tokens"}
_SAMPLING = {"do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens", "repetition_penalty", "seed"}
_HONOURED = {
    "llamacpp": _RENDERING | _SAMPLING | {"use_cpu"},
    "vllm": _RENDERING
    | _SAMPLING
    | {"trust_remote_code", "infer_dtype", "model_revision", "cache_dir", "hf_hub_token"},
    "reward": {"use_cpu", "trust_remote_code"},
}
"""The settings that have an effect, for those who do not take all of them as our own engine does."""


def load_serving(wanted: Wanted, say: Callable[[str], None]) -> Serving:
    """Load everything that is to be served.

    Raises:
        BurnishError: a model is not there, does not go with the engine, or two have one name.
    """
    source = find_model(wanted.model, say)
    name = wanted.name or short_name(source, wanted.model)
    if name in wanted.adapters:
        raise BurnishError(f"two models would have the name '{name}'", at="--adapter", fix="give one another name")
    engine = _engine_for(wanted, source)
    if head_folder(source):
        return _reward(wanted, name, engine, say)
    _refuse_idle(wanted, engine, f"with the engine {engine}")
    if engine == "burnish":
        served, backend = _own(wanted, name, source, say)
    elif engine == "llamacpp":
        from burnish.serve.llamacpp import load_llamacpp

        template = _template(source, wanted.loading)
        served = [Served(name, template, len(template.tokenizer))]
        cpu = bool(wanted.loading.get("use_cpu"))
        backend = load_llamacpp(source, served[0], slots=wanted.slots, cpu=cpu, say=say)
    else:
        from burnish.serve.vllm import load_vllm

        template = _template(source, wanted.loading)
        served = [Served(name, template, len(template.tokenizer))]
        backend = load_vllm(source, slots=wanted.slots, loading=wanted.loading)
    return Serving(Models(served), backend, defaults=wanted.defaults, limits=wanted.limits)


def short_name(source: ModelSource, written: str) -> str:
    """What a model is called: the name on the hub, or the last part of its place."""
    if not source.local or not Path(written).expanduser().exists():
        return written
    path = Path(written).expanduser().resolve()
    return path.stem if path.suffix.lower() == ".gguf" else path.name


def _engine_for(wanted: Wanted, source: ModelSource) -> str:
    """Which engine answers. Raises BurnishError where the one that is asked for cannot."""
    if wanted.engine == "auto":
        plain = not wanted.adapters and not source.adapters and not _idle(wanted, "llamacpp")
        return "llamacpp" if source.gguf_file and plain and is_installed() else "burnish"
    if wanted.engine == "llamacpp" and (not source.gguf_file or source.adapters):
        raise BurnishError(
            "llama.cpp reads .gguf files only", at="--engine", fix="burnish export --format gguf makes one of a run"
        )
    if wanted.engine == "vllm" and (source.adapters or source.gguf_file):
        raise BurnishError(
            "vLLM gets whole weights only here", at="--engine", fix="serve the folder that burnish export writes"
        )
    if wanted.engine != "burnish" and wanted.adapters:
        raise BurnishError(f"--adapter needs the engine burnish, not {wanted.engine}", at="--engine")
    return wanted.engine


def _idle(wanted: Wanted, who: str) -> list[str]:
    """The settings that were set and would be ignored."""
    return sorted(wanted.given - _HONOURED[who]) if who in _HONOURED else []


def _refuse_idle(wanted: Wanted, who: str, where: str) -> None:
    """Settings that would be ignored are errors."""
    for name in _idle(wanted, who):
        raise BurnishError(f"'{name}' has no effect {where}", at="command line", fix="leave it out")


def _own(wanted: Wanted, name: str, source: ModelSource, say: Callable[[str], None]) -> tuple[list[Served], Backend]:
    """Our own engine over transformers, with adapters beside each other where there are any."""
    if wanted.adapters and (source.adapters or wanted.loading.get("adapters")):
        raise ModelError(
            "adapters stand beside each other on a base, and this is a run that has one already",
            at=wanted.model if source.adapters else "adapter_name_or_path",
            fix=f"serve its base, and the run as one more: --adapter {name}={wanted.model}"
            if source.adapters
            else "leave that out, and give its run as one more: --adapter NAME=RUN_DIR",
        )
    chat = load_chat_model(wanted.model, say=say, **wanted.loading)
    model, activate = chat.model, None
    rows = model.get_input_embeddings().weight.shape[0]
    served = [Served(name, chat.template, rows)]
    if wanted.adapters:
        runs = {each: find_model(folder, say) for each, folder in wanted.adapters.items()}
        model, activate = put_adapters(model, source, runs)
        served += [
            Served(each, _template(run, wanted.loading), rows, adapter=each, parent=name) for each, run in runs.items()
        ]
    pad = chat.template.tokenizer.pad_token_id or 0

    def make() -> Engine:
        return Engine(model, slots=wanted.slots, pad_id=pad, activate=activate)

    return served, Backend(make(), "burnish", wanted.slots, renew=make)


def _template(source: ModelSource, loading: Mapping[str, Any]) -> ChatTemplate:
    """The template that a model, or the run on top of it, was trained with."""
    hub = loading.get("hub", {})
    tokenizer = load_tokenizer(source, trust_remote_code=loading.get("trust_remote_code", False), **hub)
    kept = ("enable_thinking", "preserve_thinking", "split_special_tokens", "tool_format")
    return load_template(
        tokenizer,
        loading.get("template") or source.template,
        default_system=loading.get("default_system") or source.default_system,
        extra_stop_ids=read_stop_ids(source, **hub),
        **{key: loading[key] for key in kept if key in loading},
    )


def _reward(wanted: Wanted, name: str, engine: str, say: Callable[[str], None]) -> Serving:
    if wanted.adapters or engine != "burnish":
        raise BurnishError("a reward model is served by itself, with the engine burnish", at="--adapter, --engine")
    _refuse_idle(wanted, "reward", "on a reward model")
    kept = {key: wanted.loading[key] for key in _HONOURED["reward"] if key in wanted.loading}
    scorer = load_reward_model(wanted.model, say=say, **kept)
    rows = scorer.model.get_input_embeddings().weight.shape[0]
    served = Models([Served(name, scorer.template, rows)])
    return Serving(served, scorer=scorer, scored_at_a_time=wanted.slots, limits=wanted.limits)
