"""What happens to rows longer than `cutoff_len`: truncate, drop or error. Never an example without a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.errors import DataError
from burnish.template.example import Example, Piece, label_example

DROPPED_TOO_LONG = "longer than cutoff_len"
DROPPED_NO_LABEL = "no trained token left"
DROPPED_NO_LABEL_AFTER_CUT = "no trained token left after truncation"
DROPPED_ALIKE = "chosen and rejected are the same tokens"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a row may be, in tokens, and what becomes of a longer one.

    Args:
        cutoff_len: of the whole row.
        overlong: "truncate", "drop" or "error".
        max_source, max_target: of each prompt and each answer, as older settings files give them.
    """

    cutoff_len: int = 2048
    overlong: str = "truncate"
    max_source: int | None = None
    max_target: int | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """An example that fits, or the reason it was dropped; `cut` counts the tokens that truncation removed."""

    example: Example | None
    reason: str | None = None
    cut: int = 0


def split_budget(source: int, target: int, budget: int) -> tuple[int, int]:
    """How many tokens of a prompt and of its answer fit into a budget, by LLaMA-Factory's rule.

    A short answer (under half the budget) is kept and the prompt is cut; else a short prompt is kept and the answer
    is cut; else both shrink in proportion.

    >>> split_budget(100, 30, 80), split_budget(30, 100, 80), split_budget(100, 100, 80)
    ((50, 30), (30, 50), (40, 40))
    """
    if target * 2 < budget:
        room_for_target = budget
    elif source * 2 < budget:
        room_for_target = budget - source
    else:
        room_for_target = int(budget * (target / (source + target)))
    kept_target = min(room_for_target, target)
    return min(max(budget - kept_target, 0), source), kept_target


def size(pieces: Sequence[Piece]) -> int:
    """The tokens of a row."""
    return sum(len(piece.ids) for piece in pieces)


def fit(
    pieces: Sequence[Piece], limits: Limits, *, train_on_prompt: bool = False, seen: int = 0, where: str = ""
) -> Fitted:
    """Label a rendered row and make it fit.

    Truncation keeps the rounds (a prompt and its answer) from the first on that fit as a whole. Where not even the
    first trained answer fits with all before it, prompt and answer are shortened by `split_budget`: the prompt loses
    the end of its words and keeps what the template writes before the model speaks; the answer loses its end.

    Args:
        pieces: one row of `ChatTemplate.rows`.
        train_on_prompt, seen: as in `label_example`.
        where: file and row, for the error.
    Raises:
        DataError: `overlong` is "error" and the row is too long.
    """
    total = size(pieces)
    kept = _cap_rounds(pieces, limits) if limits.overlong == "truncate" else list(pieces)
    if size(kept) > limits.cutoff_len:
        if limits.overlong == "error":
            raise DataError(
                f"a sample has {total} tokens, more than cutoff_len {limits.cutoff_len}",
                at=where or None,
                fix="raise cutoff_len, or set overlong: truncate or drop",
            )
        if limits.overlong == "drop":
            return Fitted(None, DROPPED_TOO_LONG)
        kept = _truncate(kept, limits.cutoff_len)
    cut = total - size(kept)
    example = label_example(kept, train_on_prompt=train_on_prompt, seen=seen)
    if not example.supervised:
        return Fitted(None, DROPPED_NO_LABEL_AFTER_CUT if cut else DROPPED_NO_LABEL)
    return Fitted(example, cut=cut)


def _truncate(pieces: Sequence[Piece], cutoff_len: int) -> list[Piece]:
    kept: list[Piece] = []
    source: list[Piece] = []  # of the first round that does not fit; with it, all before that is not trained
    for prompt, rest in _rounds(pieces):
        together = [prompt, *rest]
        if size(kept) + size(together) <= cutoff_len:
            kept += together
            continue
        if _trains(kept):
            return kept
        source = [*kept, prompt]
        if not _trains(rest):
            kept = [*source, *rest]
            continue
        keep_source, keep_target = split_budget(size(source), size(rest), cutoff_len)
        return _shorten(_join(source), rest, keep_source, keep_target)
    return kept[:0] if size(kept) > cutoff_len else kept


def _shorten(
    source: Piece, rest: Sequence[Piece], keep_source: int, keep_target: int, *, shared: bool = True
) -> list[Piece]:
    """Cut a prompt and its answer; with a `shared` budget the prompt may give a token for the stop token."""
    whole = len(rest[0].ids)
    if (
        shared and keep_target == whole - 1 and keep_source > source.header
    ):  # all but the stop token: then the stop token too
        keep_source, keep_target = keep_source - 1, whole
    shortened = [_cut_prompt(source, keep_source)]
    for piece in rest:
        shortened.append(replace(piece, ids=piece.ids[:keep_target]))
        keep_target -= len(shortened[-1].ids)
    return [piece for piece in shortened if piece.ids]


def _cut_prompt(prompt: Piece, keep: int) -> Piece:
    """Shorten a prompt's words from their end, and keep the header after them as long as there is room."""
    if keep >= len(prompt.ids):
        return prompt
    header = min(prompt.header, keep)
    ids = prompt.ids[: keep - header] + prompt.ids[len(prompt.ids) - header :]
    return replace(prompt, ids=ids, header=header)


def _cap_rounds(pieces: Sequence[Piece], limits: Limits) -> list[Piece]:
    if limits.max_source is None and limits.max_target is None:
        return list(pieces)
    capped: list[Piece] = []
    for prompt, rest in _rounds(pieces):
        keep_source = len(prompt.ids) if limits.max_source is None else min(limits.max_source, len(prompt.ids))
        keep_target = size(rest) if limits.max_target is None else min(limits.max_target, size(rest))
        capped += (
            _shorten(prompt, rest, keep_source, keep_target, shared=False)
            if rest
            else [_cut_prompt(prompt, keep_source)]
        )
    return capped


def _join(pieces: Sequence[Piece]) -> Piece:
    return Piece([token for piece in pieces for token in piece.ids], "prompt", header=pieces[-1].header)


def _trains(pieces: Sequence[Piece]) -> bool:
    return any(piece.kind == "answer" and piece.weight for piece in pieces)


def _rounds(pieces: Sequence[Piece]) -> list[tuple[Piece, list[Piece]]]:
    """Pieces grouped as (prompt, [answer, tail]); a trailing prompt stands alone."""
    rounds: list[tuple[Piece, list[Piece]]] = []
    for piece in pieces:
        if piece.kind == "prompt" or not rounds:
            rounds.append((piece if piece.kind == "prompt" else Piece([], "prompt"), []))
        if piece.kind != "prompt":
            rounds[-1][1].append(piece)
    return rounds


# -- two answers to one prompt --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FittedPair:
    """A chosen and a rejected example that fit and share their prompt's tokens, or the reason they were dropped."""

    examples: tuple[Example, Example] | None
    reason: str | None = None
    cut: int = 0


def fit_pair(
    prompt: Piece, chosen: Sequence[Piece], rejected: Sequence[Piece], limits: Limits, *, where: str = ""
) -> FittedPair:
    """Label two answers to one prompt and make both fit, with the same prompt before both.

    The budget is split by `split_budget` between the prompt and the longer answer; both answers get that one's share.

    Args:
        prompt: all that stands before the answers; its `header` is kept.
        chosen, rejected: the pieces from the first answer on.
        where: file and row, for the error.
    Raises:
        DataError: `overlong` is "error" and the longer answer does not fit.
    """
    source, target = len(prompt.ids), max(size(chosen), size(rejected))
    whole = source + target
    if limits.overlong == "truncate":
        source, target = _pair_budget(prompt, source, target, limits)
    elif whole > limits.cutoff_len:
        if limits.overlong == "error":
            raise DataError(
                f"a pair has {whole} tokens, more than cutoff_len {limits.cutoff_len}",
                at=where or None,
                fix="raise cutoff_len, or set overlong: truncate or drop",
            )
        return FittedPair(None, DROPPED_TOO_LONG)
    before = _cut_prompt(prompt, source)
    first, second = (label_example([before, *_beginning(side, target)]) for side in (chosen, rejected))
    cut = whole - source - target
    if not first.supervised or not second.supervised:
        return FittedPair(None, DROPPED_NO_LABEL_AFTER_CUT if cut else DROPPED_NO_LABEL)
    if first.input_ids == second.input_ids:
        return FittedPair(None, DROPPED_ALIKE)
    return FittedPair((replace(first, mark=1.0), second), cut=cut)


def _pair_budget(prompt: Piece, source: int, target: int, limits: Limits) -> tuple[int, int]:
    longest = target
    source = source if limits.max_source is None else min(source, limits.max_source)
    target = target if limits.max_target is None else min(target, limits.max_target)
    if source + target > limits.cutoff_len:
        source, target = split_budget(source, target, limits.cutoff_len)
        if target == longest - 1 and source > prompt.header:  # all but the stop token: then the stop token too
            source, target = source - 1, longest
    return source, target


def _beginning(pieces: Sequence[Piece], keep: int) -> list[Piece]:
    kept = []
    for piece in pieces:
        kept.append(replace(piece, ids=piece.ids[:keep]))
        keep -= len(kept[-1].ids)
    return kept
