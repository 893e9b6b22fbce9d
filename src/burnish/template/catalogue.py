"""Templates by name: the tokenizer's own, those shipped with Burnish, or a user's `.jinja` file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from burnish.errors import TemplateError
from burnish.registry import did_you_mean
from burnish.template.chat import ChatTemplate


def template_names() -> list[str]:
    """The names that can stand in `template:`, shipped ones only."""
    folder = resources.files("burnish.template") / "jinja"
    return sorted(item.name.removesuffix(".jinja") for item in folder.iterdir() if item.name.endswith(".jinja"))


def template_source(name: str) -> str:
    """The Jinja text of a shipped template or of a `.jinja` file. Raises TemplateError for an unknown name."""
    if name.endswith((".jinja", ".j2")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise TemplateError("the template file is not there", at=str(path), fix="check the path in template:")
        return path.read_text(encoding="utf-8")
    if name not in template_names():
        raise TemplateError(
            f"unknown template '{name}'",
            at="template",
            fix=f"{did_you_mean(name, template_names())} Leave it out to use the tokenizer's own chat template.",
        )
    return (resources.files("burnish.template") / "jinja" / f"{name}.jinja").read_text(encoding="utf-8")


def load_template(
    tokenizer: Any,
    name: str | None = None,
    *,
    default_system: str | None = None,
    extra_stop_ids: Iterable[int] = (),
) -> ChatTemplate:
    """The template for a tokenizer.

    Args:
        name: None for the tokenizer's own (or `default` where it has none), a shipped name, or a `.jinja` path.
    Raises:
        TemplateError: unknown name, missing file, or a template that cannot be used with this tokenizer.
    """
    if name in (None, "", "tokenizer"):
        if tokenizer.chat_template:
            return ChatTemplate(tokenizer, default_system=default_system, extra_stop_ids=extra_stop_ids)
        name = "default"
    assert name is not None
    return ChatTemplate(
        tokenizer,
        template_source(name),
        name=name,
        default_system=default_system,
        extra_stop_ids=extra_stop_ids,
    )
