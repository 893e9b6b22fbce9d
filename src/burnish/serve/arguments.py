"""Arguments of a call that a template writes one by one, each with its name, as a grammar."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from burnish.serve.errors import bad_request
from burnish.serve.grammar import Bytes, Either, Later, Many, Node, one_of, seq, text
from burnish.serve.schema import any_value, chosen, properties_of, wide_character
from burnish.template.call_form import Members

_LETTERS = string.ascii_letters + "_"


def listed_arguments(
    form: Members, written: Callable[[str], Node], schema: Mapping[str, Any], param: str, *, lenient: bool
) -> Node:
    """Arguments of a schema.

    Args:
        written: makes a grammar of a part of the form.
        param, lenient: as in `burnish.serve.schema.of_schema`.
    Raises:
        ApiError: the schema cannot be followed, or names an argument that could not be read back.
    """
    listed = properties_of(schema, param, lenient=lenient, bare=_bare(form))
    if listed is None:
        return any_arguments(form, written)
    for name, _, needed in listed:
        if needed and not form.can_name(name):
            raise bad_request(f"The chat template of this model cannot write an argument named '{name}'.", param)
    members = [
        (seq(text(name), written(form.between), value), needed) for name, value, needed in listed if form.can_name(name)
    ]
    return chosen(members, begin=written(form.begin), joint=written(form.joint), end=written(form.end))


def any_arguments(form: Members, written: Callable[[str], Node]) -> Node:
    """Any arguments with plain names."""
    name = seq(one_of(_LETTERS), Many(one_of(_LETTERS + string.digits)))
    pair = seq(name, written(form.between), _bare(form) or any_value())
    more = Many(seq(written(form.joint), pair))
    return Either((text(""), seq(written(form.begin), pair, more, written(form.end))))


def _bare(form: Members) -> Node | None:
    return without(form.end) if form.bare else None


@cache
def without(mark: str) -> Node:
    """Any text that does not hold a mark of ASCII characters.

    One node for each number of bytes of the mark that may just have been written.
    Source: Knuth, Morris and Pratt, "Fast pattern matching in strings" (1977).
    """
    nodes: list[Node] = []
    nodes += [Later(partial(_after, nodes, mark, seen)) for seen in range(len(mark))]
    return nodes[0]


def _after(nodes: list[Node], mark: str, seen: int) -> Node:
    """What may follow where the last characters were the first `seen` of the mark."""
    leads: dict[int, set[int]] = {}
    for character in ["\t", "\n", *map(chr, range(0x20, 0x7F))]:
        said = mark[:seen] + character
        leads.setdefault(max(n for n in range(len(said) + 1) if said.endswith(mark[:n])), set()).add(ord(character))
    leads.pop(len(mark), None)
    options = [seq(Bytes(frozenset(some)), nodes[to]) for to, some in leads.items()]
    return Either((text(""), seq(wide_character(), nodes[0]), *options))
