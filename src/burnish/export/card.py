"""The model card: where a model comes from, what it was trained on and how, how it did, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from burnish.export.modelfile import MODELFILE
from burnish.log import clock
from burnish.model import default

EVALUATION = "eval.json"
"""Beside run.json, where a run was evaluated."""
_SETTINGS = (
    *("stage", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "lora_init"),
    *("pref_loss", "pref_beta", "quantization_bit", "learning_rate", "lr_scheduler_type", "num_train_epochs"),
    *("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "cutoff_len", "packing", "seed"),
)
_LORA_ONLY = ("lora_rank", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "lora_init")
_JUDGED_ONLY = ("pref_loss", "pref_beta")


def card(record: Mapping[str, Any], report: Mapping[str, Any], *, base: Path | None, evaluation: Path | None) -> str:
    """The text of README.md.

    Args:
        record: run.json of the run; empty for a model that no run has trained.
        report: of the export.
        base: the folder of the base model, for its licence.
        evaluation: the folder that may hold eval.json.
    """
    name = shown_name(record.get("model", {}).get("name") or report["base"])
    parts = [_front(name, record, report, base), f"# {report['name']}\n", _first_lines(name, record, report)]
    parts += [text for text in (_training(record), _figures(record), _evaluation(evaluation)) if text]
    parts += [_checked(report), _use(report)]
    return "\n".join(parts)


def shown_name(name: str) -> str:
    """A model's or a data set's name without the folders of the machine it was trained on."""
    if name.lower() == default.NAME:
        return default.HUB_ID
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
    return name if hub else Path(name).name


def licence(name: str, base: Path | None) -> str | None:
    """The licence that a base model's own card names; None where it is not known."""
    if name == default.HUB_ID:
        return default.LICENSE
    page = base / "README.md" if base is not None else None
    if page is None or not page.is_file():
        return None
    found = re.match(r"\A---\n(.*?)\n---\n", page.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        written = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    named = written.get("license") if isinstance(written, dict) else None
    return named if isinstance(named, str) else None


def _front(name: str, record: Mapping[str, Any], report: Mapping[str, Any], base: Path | None) -> str:
    """What the Hub reads."""
    gguf = str(report["format"]).startswith("gguf")
    front: dict[str, Any] = {"library_name": "gguf" if gguf else "peft" if "adapter" in report["format"] else None}
    front["library_name"] = front["library_name"] or "transformers"
    front |= {"pipeline_tag": "text-generation", "tags": ["burnish", *([] if not record else [_stage(record)])]}
    if "/" in name:
        front["base_model"] = name
    known = licence(name, base)
    if known:
        front["license"] = known
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"


def _stage(record: Mapping[str, Any]) -> str:
    return str(record.get("settings", {}).get("stage", "sft"))


def _first_lines(name: str, record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    what = f"{name}, trained with Burnish ({_stage(record)})" if record else f"{name}, exported with Burnish"
    merged = " The adapter is merged into the weights." if report.get("merged") else ""
    kind = str(report["format"])
    numbers = "" if kind.startswith("gguf") else f", {report['dtype']}"  # a GGUF file's kind says it all
    return f"{what}.{merged} Weights: {kind}{numbers}.\n"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]
    return "\n".join(lines) + "\n"


def _training(record: Mapping[str, Any]) -> str | None:
    if not record:
        return None
    settings, data = record.get("settings", {}), record.get("data", {})
    lora = settings.get("finetuning_type") == "lora"
    judged = settings.get("stage") in ("dpo", "kto")
    rows = [("data", ", ".join(shown_name(str(each)) for each in settings.get("dataset") or ()))]
    if data:
        count = f"{data.get('rows_used', '?'):,} rows" if isinstance(data.get("rows_used"), int) else "streamed rows"
        rows.append(
            ("size", f"{count}, {data.get('tokens') or 0:,} tokens, {data.get('supervised_tokens') or 0:,} trained")
        )
    for key in _SETTINGS:
        value = settings.get(key)
        idle = (key in _LORA_ONLY and not lora) or (key in _JUDGED_ONLY and not judged)
        idle |= key == "num_train_epochs" and (settings.get("max_steps") or 0) > 0
        if value not in (None, False, "", 0, -1) and not idle:
            rows.append((key, f"{value:g}" if isinstance(value, float) else str(value)))
    return "## Training\n\n" + _table(rows)


def _figures(record: Mapping[str, Any]) -> str | None:
    train = record.get("train", {})
    rows = [(name, f"{train[key]:.4f}") for name, key in _LOSSES if isinstance(train.get(key), int | float)]
    if isinstance(train.get("steps"), int):
        rows.append(("optimizer steps", f"{train['steps']:,}"))
    if isinstance(train.get("runtime_s"), int | float):
        rows.append(("time", clock(train["runtime_s"])))
    return "## Figures\n\n" + _table(rows) if rows else None


_LOSSES = (("train loss (mean)", "train_loss"), ("eval loss", "eval_loss"))


def _evaluation(folder: Path | None) -> str | None:
    file = folder / EVALUATION if folder is not None else None
    if file is None or not file.is_file():
        return None
    try:
        rows = list(_numbers(json.loads(file.read_text(encoding="utf-8")), ""))
    except ValueError:
        return None
    return "## Evaluation\n\n" + _table(rows) if rows else None


def _numbers(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """All numbers of a nested mapping, with their names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{name} · {key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _checked(report: Mapping[str, Any]) -> str:
    rows = []
    difference = report.get("difference")
    if difference:
        rows = [
            (
                "same likeliest token as the run",
                f"{difference['equal_argmax']:.2%} of {difference['tokens']} positions",
            ),
            ("KL divergence from the run", f"{difference['kl']:.2g} nats"),
            ("largest difference of a logit", f"{difference['max_logit']:.2g}"),
        ]
    asked = report.get("llama.cpp")
    if asked:
        rows.append(("log-probabilities in llama.cpp", f"{asked['mean_logprob']:.2g} nats apart in the mean"))
    if not rows:
        return ""
    return "## Checked\n\nRead back after writing, and compared with the run on three conversations.\n\n" + _table(rows)


def _use(report: Mapping[str, Any]) -> str:
    name, kind = report["name"], str(report["format"])
    ways = [("Burnish", "bash", f"burnish chat {name}")]
    if kind == "hf":
        code = (
            "from transformers import pipeline\n\n"
            f'chat = pipeline("text-generation", "{name}")\n'
            'said = chat([{"role": "user", "content": "Hello"}], max_new_tokens=200)\n'
            'print(said[0]["generated_text"][-1]["content"])'
        )
        ways.insert(0, ("transformers", "python", code))
    elif kind.startswith("adapter"):
        code = (
            f'from peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained("{name}")'
        )
        ways.insert(0, ("PEFT", "python", code))
    else:
        ways.insert(0, ("llama.cpp", "bash", f"llama-server -m {name}/{report['file']} --jinja"))
    if not kind.startswith("adapter"):
        ways.append(("Ollama", "bash", f"cd {name} && ollama create {name} -f {MODELFILE} && ollama run {name}"))
    return "## Use\n\n" + "\n".join(f"{who}:\n\n```{language}\n{text}\n```\n" for who, language, text in ways)
