"""Just enough of Go's text/template to render what Ollama's Modelfiles hold: range, if, else if, eq, variables."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any


def render(source: str, messages: list[dict[str, str]]) -> str:
    """Render a template over `.Messages`, whose parts are `.Role` and `.Content`. Raises ValueError for other Go."""
    parts = re.split(r"\{\{(.*?)\}\}", source, flags=re.DOTALL)
    tokens = [("text", part) if i % 2 == 0 else ("do", part.strip()) for i, part in enumerate(parts)]
    block, rest = _block(tokens)
    if rest:
        raise ValueError(f"an end without a beginning: {rest[0]}")
    out: list[str] = []
    _run(block, {"Messages": messages}, {}, out)
    return "".join(out)


def render_with_go(asked: list[tuple[str, list[dict[str, str]]]]) -> list[str]:
    """The same by Go's own text/template, many at once; needs Go."""
    given = [{"Template": source, "Messages": messages} for source, messages in asked]
    done = subprocess.run(
        ["go", "run", str(Path(__file__).with_suffix(".go"))], input=json.dumps(given), capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    texts: list[str] = json.loads(done.stdout)
    return texts


def _block(tokens: list) -> tuple[list, list]:
    """The tree of a list of tokens, up to an `end` or `else` that does not belong to it."""
    tree: list[Any] = []
    while tokens:
        kind, word = tokens[0]
        if kind == "do" and (word == "end" or word.startswith("else")):
            return tree, tokens
        tokens = tokens[1:]
        if kind == "text":
            tree.append(("text", word))
        elif word.startswith("range "):
            body, tokens = _block(tokens)
            tree.append(("range", word[6:], body))
            tokens = _after_end(tokens)
        elif word.startswith("if "):
            branches, tokens = _branches(word[3:], tokens)
            tree.append(("if", branches))
        else:
            tree.append(("do", word))
    return tree, []


def _branches(condition: str | None, tokens: list) -> tuple[list, list]:
    branches = []
    while True:
        body, tokens = _block(tokens)
        branches.append((condition, body))
        word = tokens[0][1]
        if word == "end":
            return branches, tokens[1:]
        tokens, condition = tokens[1:], word[8:] if word.startswith("else if ") else None


def _after_end(tokens: list) -> list:
    if not tokens or tokens[0] != ("do", "end"):
        raise ValueError("a range without an end")
    return tokens[1:]


def _run(tree: list, dot: dict[str, Any], variables: dict[str, Any], out: list[str]) -> None:
    for node in tree:
        if node[0] == "text":
            out.append(node[1])
        elif node[0] == "range":
            for item in _value(node[1], dot, variables):
                _run(node[2], item, variables, out)
        elif node[0] == "if":
            for condition, body in node[1]:
                if condition is None or _value(condition, dot, variables):
                    _run(body, dot, variables, out)
                    break
        else:
            assigned = re.fullmatch(r"(\$\w+) :?= (.*)", node[1])
            if assigned:
                variables[assigned[1]] = _value(assigned[2], dot, variables)
            else:
                out.append(str(_value(node[1], dot, variables)))


def _value(text: str, dot: dict[str, Any], variables: dict[str, Any]) -> Any:
    if text.startswith("eq "):
        first, second = text[3:].split(" ", 1)
        return _value(first, dot, variables) == _value(second, dot, variables)
    if re.fullmatch(r'"[^"\\]*"', text):
        return text[1:-1]
    if re.fullmatch(r"\.\w+", text):
        return dot[{"Role": "role", "Content": "content"}.get(text[1:], text[1:])]
    if re.fullmatch(r"\$\w+", text):
        return variables[text]
    raise ValueError(f"not known here: {text!r}")
