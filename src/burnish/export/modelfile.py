"""Ollama's Modelfile: template, system message, stop tokens and sampling, as the run has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.export.generation import stop_texts
from burnish.export.gotemplate import go_template
from burnish.template import ChatTemplate

MODELFILE = "Modelfile"
_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repeat_penalty",
    "max_new_tokens": "num_predict",
}


def modelfile(
    template: ChatTemplate | None, from_: str, sampling: Mapping[str, Any], *, adds_bos: bool
) -> tuple[str, list[str]]:
    """The text of a Modelfile, and sentences on what it cannot do.

    Args:
        template: None for a model that continues plain text.
        from_: the weights, as seen from the Modelfile: a file, or `.` for its folder.
        sampling: by the names of Hugging Face.
        adds_bos: whether Ollama puts the beginning token before a prompt by itself.
    """
    lines, limits = [f"FROM {from_}"], []
    if template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    else:
        bos = template.tokenizer.bos_token if adds_bos else ""
        written = go_template(template, without=bos or "")
        text, limits = written.text, list(written.limits)
        if text is not None and '"""' in text:
            text, limits = None, ["the chat template holds three quotation marks, which a Modelfile cannot"]
        lines += [f"# {limit}" for limit in limits]
        if text is not None:
            lines.append(f'TEMPLATE """{text}"""')
        if template.default_system:
            line, lost = _system(template.default_system)
            limits += lost
            lines += [*(f"# {limit}" for limit in lost), *line]
        lines += [f'PARAMETER stop "{stop}"' for stop in stop_texts(template)]
    for key, name in _NAMES.items():
        if key in sampling:
            lines.append(f"PARAMETER {name} {sampling[key]}")
    return "\n".join(lines) + "\n", limits


def _system(text: str) -> tuple[list[str], list[str]]:
    """The line that sets a system message, and what becomes of it otherwise.

    Source: Ollama's parser of Modelfiles (parser/parser.go), which unescapes nothing and keeps what can be printed.
    """
    if '"""' in text:
        return [], ["the system message holds three quotation marks and is left out"]
    lost = sorted({each for each in text if not each.isprintable() and each not in "\n\r\t"})
    named = ", ".join(f"U+{ord(each):04X}" for each in lost)
    said = f"Ollama leaves out characters of the system message that print nothing ({named})"
    return [f'SYSTEM """{text}"""'], [said] if lost else []
