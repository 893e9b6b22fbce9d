"""New tokens: in the tokenizer, and as rows of the embeddings and the output head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from burnish.errors import ModelError
from burnish.model.adapter import embedding_modules, is_tied
from burnish.model.base import read_changes
from burnish.model.quiet import quiet_transformers
from burnish.template.encode import TEXT_TOKENS


@dataclass(frozen=True)
class NewTokens:
    """Tokens to add, ordinary and special ones, and descriptions of some of them to start from."""

    plain: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.plain or self.special)


def new_tokens(plain: Sequence[str], special: Sequence[str], described: str | None) -> NewTokens:
    """The tokens that the settings ask for; `described` is a file of special ones. Raises ModelError."""
    descriptions = _read_descriptions(Path(described)) if described else {}
    return NewTokens(tuple(plain), tuple(dict.fromkeys([*special, *descriptions])), descriptions)


def _read_descriptions(path: Path) -> dict[str, str]:
    fix = 'write one a line: "<point>": "a place in a picture"'
    try:
        found = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        at = f"new_special_tokens_config: {path}"
        raise ModelError(f"the file of new tokens cannot be read: {reason}", at=at, fix=fix) from error
    good = isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, str) and k for k, v in found.items())
    if not good or not found:
        raise ModelError(
            "the file of new tokens holds no mapping from tokens to descriptions",
            at=f"new_special_tokens_config: {path}",
            fix=fix,
        )
    return found


def extend_tokenizer(tokenizer: Any, tokens: NewTokens) -> list[int]:
    """Add tokens to a tokenizer; returns the ids of those it did not have, in the order of ids.

    Special ones are remembered in the tokenizer's own files as tokens that text may spell: without that, text from
    people never becomes a special token in Burnish.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    fresh: dict[str, list[str]] = {"plain": [], "special": []}
    for kind, names in (("plain", tokens.plain), ("special", tokens.special)):
        fresh[kind] = [name for name in dict.fromkeys(names) if name not in known and name not in fresh["plain"]]
        added = [AddedToken(name, normalized=False, special=kind == "special") for name in fresh[kind]]
        tokenizer.add_tokens(added, special_tokens=kind == "special")
    if fresh["special"]:
        spoken = [*tokenizer.init_kwargs.get(TEXT_TOKENS, ()), *fresh["special"]]
        tokenizer.init_kwargs[TEXT_TOKENS] = spoken
    return sorted(tokenizer.convert_tokens_to_ids(name) for names in fresh.values() for name in names)


def grow_embeddings(
    model: Any, tokenizer: Any, new_ids: Sequence[int], descriptions: Mapping[str, str], *, resize: bool = True
) -> list[int]:
    """Give every token of the tokenizer a row in the embeddings and the head, and set the rows of new ones.

    A row starts from the mean of the rows of its description's tokens, or of all older tokens. Exactly as many rows
    are made as there are tokens (no padding to a multiple of 64, as LLaMA-Factory does): then no id is without a
    token, and PEFT, which goes by the tokenizer's length, can load the result by itself.

    Args:
        new_ids: ids that `extend_tokenizer` added; some may have a spare row already.
        resize: also make rows for tokens that the tokenizer always had.
    Returns:
        Ids whose rows hold nothing learnt yet and have to be trained.
    Source: the mean as a start, Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    count = len(tokenizer) if resize else max((number + 1 for number in new_ids), default=rows)
    if count > rows:
        set_rows(model, count)
    fresh = sorted({*new_ids, *range(rows, count)})
    if not fresh:
        return []
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if head is not None and not is_tied(model):
        tables.append(head.weight)
    if getattr(head, "bias", None) is not None:
        tables.append(head.bias)
    older = [number for number in range(min(rows, len(tokenizer))) if number not in set(fresh)]
    named = {number: tokenizer.convert_ids_to_tokens(number) for number in fresh}
    for table in tables:
        _fill(table, {number: _like(tokenizer, descriptions.get(name), fresh) for number, name in named.items()}, older)
    return fresh


def set_rows(model: Any, rows: int) -> None:
    """Make the embeddings and the head have this many rows; what new ones hold is left to the caller."""
    with quiet_transformers():
        model.resize_token_embeddings(rows, mean_resizing=False)


def rows_for_adapter(model: Any, folder: str) -> int | None:
    """How many rows an adapter needs its base to have; None where it does not say or needs no other number.

    Burnish writes the number down; adapters from elsewhere show it by the tables or the rows of tokens that they hold.
    """
    rows = read_changes(folder).rows
    if rows:
        return rows
    needed = [0]
    tables = {name.rsplit(".", 1)[-1] for name in embedding_modules(model)}
    file, written = Path(folder) / "adapter_model.safetensors", Path(folder) / "adapter_config.json"
    if file.is_file():
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                if name.split(".")[-2:] in ([table, "weight"] for table in tables):
                    needed.append(opened.get_slice(name).get_shape()[0])
    if written.is_file():
        indices = json.loads(written.read_text(encoding="utf-8")).get("trainable_token_indices") or []
        lists = indices.values() if isinstance(indices, dict) else [indices]
        needed += [number + 1 for one in lists for number in one]
    have = model.get_input_embeddings().weight.shape[0]
    return max(needed) if max(needed) > have else None


def _like(tokenizer: Any, description: str | None, fresh: Sequence[int]) -> list[int]:
    """The older tokens of a description."""
    ids = tokenizer(description, add_special_tokens=False)["input_ids"] if description else []
    return [number for number in ids if number not in set(fresh)]


@torch.no_grad()
def _fill(table: Tensor, wanted: Mapping[int, Sequence[int]], older: Sequence[int]) -> None:
    mean = table[list(older)].float().mean(0)
    for number, like in wanted.items():
        table[number] = (table[list(like)].float().mean(0) if like else mean).to(table.dtype)
