"""`burnish export`: what is asked for on the command line or in a file, turned into one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from burnish import log
from burnish.cli.train import split_arguments
from burnish.config import Settings, load_settings
from burnish.errors import BurnishError
from burnish.registry import did_you_mean

FORMATS = ("hf", "gguf")
SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
_USED = {
    *SAMPLING,
    *("model_name_or_path", "adapter_name_or_path", "template", "default_system", "enable_thinking"),
    *("trust_remote_code", "model_revision", "cache_dir", "hf_hub_token", "infer_dtype", "use_cpu"),
    *("export_dir", "export_size", "export_device", "export_hub_model_id"),
}
_HARMLESS = {"finetuning_type", "stage", "infer_backend"}  # what export files of LLaMA-Factory say besides


class Arguments(NamedTuple):
    """The options of the command, None where one was not given."""

    to: str | None = None
    format: str = "hf"
    quantize: str | None = None
    dtype: str | None = None
    export_size: str | None = None
    adapter_only: bool = False
    base_name: str | None = None
    overwrite: bool = False
    push_to_hub: str | None = None
    public: bool = False


@dataclass(frozen=True)
class _What:
    """The model to export, and the adapters on top of it, in order."""

    name: str
    adapters: tuple[str, ...] = ()


def run_export(model: str | None, rest: Sequence[str], arguments: Arguments) -> None:
    """Read what is asked for, then export."""
    settings, what = _read(model, rest, arguments)
    _check(settings, arguments)
    to = arguments.to or settings.model.export_dir
    if not to:
        raise BurnishError(
            "there is no folder to export to", at="command line", fix="add --to DIR, or export_dir to the file"
        )
    from burnish.export.subject import Wish

    known = settings.model
    wish = Wish(
        what.name,
        what.adapters,
        dtype=arguments.dtype or known.infer_dtype,
        device="cpu" if settings.training.use_cpu else known.export_device,
        template=settings.data.template,
        default_system=settings.data.default_system,
        enable_thinking=settings.data.enable_thinking,
        trust_remote_code=known.trust_remote_code,
        hub={"revision": known.model_revision, "cache_dir": known.cache_dir, "token": known.hf_hub_token},
    )
    repo = arguments.push_to_hub or known.export_hub_model_id
    if repo:
        from burnish.export.hub import require_access

        require_access(repo, known.hf_hub_token)
    _export(wish, to, settings, arguments)
    if repo:
        from burnish.export.hub import upload

        log.say(f"uploaded to {upload(Path(to).expanduser(), repo, known.hf_hub_token, public=arguments.public)}")


def _export(wish: Any, to: str, settings: Settings, arguments: Arguments) -> None:
    from burnish.export.subject import Order

    sampling = {key: getattr(settings.generating, key) for key in SAMPLING if key in settings.given}
    order = Order(to, arguments.overwrite, settings.model.export_size, sampling)
    if arguments.adapter_only:
        from burnish.export.adapter import export_adapter

        export_adapter(wish, order, arguments.base_name)
    elif arguments.format == "gguf":
        from burnish.export.gguf_job import export_gguf

        export_gguf(wish, order, (arguments.quantize or "f16").lower())
    else:
        from burnish.export.job import export_hf

        export_hf(wish, order)


def _read(model: str | None, rest: Sequence[str], arguments: Arguments) -> tuple[Settings, _What]:
    """The settings, from a file or the command line, and what they name."""
    model, words = split_arguments(model, rest)
    if arguments.export_size is not None:
        words = [*words, f"export_size={arguments.export_size}"]
    if model is None or _is_settings_file(model):
        settings = load_settings(model if model is not None else {}, words, require=("model_name_or_path",))
        return settings, _named_in(settings)
    settings = load_settings({}, words)
    if "model_name_or_path" in settings.given:
        raise BurnishError(
            "the model is named twice", at="command line", fix="leave model_name_or_path out, or the first word"
        )
    _refuse_others(settings)
    return settings, _What(model, settings.model.adapter_name_or_path)


def _is_settings_file(name: str) -> bool:
    return Path(name).suffix.lower() in (".yaml", ".yml", ".json")


def _named_in(settings: Settings) -> _What:
    """A file that names an export says which model and adapters; a training file means the run it has trained."""
    known = settings.model
    trained = settings.training.output_dir
    if "output_dir" in settings.given and known.export_dir is None and trained:
        if not Path(trained).is_dir():
            raise BurnishError(
                "this file's run is not there yet",
                at=f"{settings.origins['output_dir']}: output_dir: {trained}",
                fix="train first: burnish train with the same file",
            )
        return _What(trained)
    _refuse_quantizing(settings)
    idle = sorted(settings.given - _USED - _HARMLESS)
    if idle:
        log.note(f"{', '.join(idle)}: no effect in an export")
    assert known.model_name_or_path is not None
    return _What(known.model_name_or_path, known.adapter_name_or_path)


def _refuse_quantizing(settings: Settings) -> None:
    if "quantization_bit" in settings.given:
        raise BurnishError(
            "adapters are merged into 16-bit weights, never into quantized ones, which would round them away",
            at=f"{settings.origins['quantization_bit']}: quantization_bit",
            fix="leave it out; for a small file use --format gguf --quantize q8_0",
        )


def _refuse_others(settings: Settings) -> None:
    """Settings that this command would have to ignore are errors."""
    _refuse_quantizing(settings)
    for key in sorted(settings.given - _USED):
        raise BurnishError(
            f"'{key}' has no effect in an export", at=settings.origins.get(key, "command line"), fix="leave it out"
        )


def _check(settings: Settings, arguments: Arguments) -> None:
    """Options that contradict one another."""
    if arguments.format not in FORMATS:
        raise BurnishError(
            f"unknown format '{arguments.format}'", at="--format", fix=did_you_mean(arguments.format, FORMATS)
        )
    if arguments.dtype not in (None, "auto", "float32", "bfloat16", "float16"):
        names = ("auto", "float32", "bfloat16", "float16")
        raise BurnishError(
            f"unknown number format '{arguments.dtype}'", at="--dtype", fix=did_you_mean(str(arguments.dtype), names)
        )
    alone = (
        (arguments.quantize and arguments.format != "gguf", "--quantize", "--format gguf"),
        (arguments.base_name and not arguments.adapter_only, "--base-name", "--adapter-only"),
        (arguments.public and not (arguments.push_to_hub or settings.model.export_hub_model_id), "--public",
         "--push-to-hub"),
    )  # fmt: skip
    for wrong, given, needed in alone:
        if wrong:
            raise BurnishError(f"{given} has no effect without {needed}", at="command line", fix=f"add {needed}")
    if arguments.adapter_only and arguments.format != "hf":
        raise BurnishError("an adapter alone is written for PEFT, not as GGUF", at="--adapter-only", fix="leave it out")
