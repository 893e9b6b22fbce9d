"""Examples: token ids and labels of one sample, after the mask options and before truncation and packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of tokens with one meaning.

    `answer` pieces are what the model is to say: the assistant's text and the stop token. `tail` pieces follow an
    answer but come after the stop token, where inference has already ended. The rest are `prompt`. `turn` is the
    index of an answer's turn. `header` counts the tokens at a prompt's end that the template writes before the model
    speaks; truncation keeps them.
    """

    ids: list[int]
    kind: str  # "prompt" | "answer" | "tail"
    weight: float = 1.0
    turn: int | None = None
    header: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as the model sees it.

    `input_ids` [T]; `labels` [T], the token itself where it is trained and -100 where it is not, not shifted;
    `weights` [T] loss weights, or None when all trained tokens weigh 1. `mark` is 1 for an answer that people liked
    (chosen, desirable) and 0 for any other, or below 0: minus the margin by which a rejected answer is worse.
    """

    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None = None
    mark: float = 0.0

    @property
    def supervised(self) -> int:
        """Trained tokens. The first token of a row is never one: nothing stands before it to predict it from."""
        labels = self.labels
        return len(labels) - labels.count(IGNORED) - (bool(labels) and labels[0] != IGNORED)


def label_example(pieces: Sequence[Piece], *, train_on_prompt: bool = False, seen: int = 0) -> Example:
    """Join pieces into one example and say which tokens are trained.

    Answers are trained with their stop token, each with its turn's weight; prompts and what follows a stop token are
    not. `train_on_prompt` trains everything; then `seen` tokens at the beginning, which an earlier row of the same
    conversation has trained, are left out but for answers.
    """
    ids: list[int] = []
    labels: list[int] = []
    weights: list[tuple[float, int]] = []  # a weight, and how many tokens have it
    for piece in pieces:
        count = len(piece.ids)
        if piece.kind == "answer":
            weight, skipped = piece.weight, 0
        else:
            weight, skipped = float(train_on_prompt), min(max(seen - len(ids), 0), count)
        skipped = skipped if weight else count
        labels += [IGNORED] * skipped
        labels += piece.ids[skipped:]
        weights += (0.0, skipped), (weight, count - skipped)
        ids += piece.ids
    if all(weight in (0.0, 1.0) for weight, count in weights if count):
        return Example(ids, labels)
    return Example(ids, labels, [weight for weight, count in weights for _ in range(count)])
