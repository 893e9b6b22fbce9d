"""Score a model's answers to held-out questions by a function, and compare two models on the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish import log
from burnish.data.records import Conversation, Turn
from burnish.generate import Completion
from burnish.runs.figures import wilson_interval
from burnish.runs.files import write_atomically

Scorer = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, what was expected, what a model said, and whether that was right."""

    question: str
    reference: str
    prediction: str
    correct: bool


@dataclass(frozen=True)
class Score:
    """The answers of one model to all questions."""

    answers: tuple[Answer, ...]

    @property
    def hits(self) -> int:
        return sum(answer.correct for answer in self.answers)

    @property
    def share(self) -> float:
        return self.hits / max(len(self.answers), 1)

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the share."""
        return wilson_interval(self.hits, len(self.answers))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits}/{len(self.answers)} = {self.share:.0%} (95%: {low:.0%} to {high:.0%})"


def ask_all(
    model: Any,
    rows: Sequence[dict[str, Any]],
    scorer: Scorer,
    *,
    title: str,
    batch_size: int,
    max_new_tokens: int,
) -> Score:
    """Ask every row's question greedily and score the answers.

    Args:
        model: a `generate.chat.ChatModel`.
        rows: OpenAI messages; the last one is the reference answer, the one before it the question.
        scorer: (prediction, reference) → right or not.
    """
    turns = [tuple(Turn(m["role"], m["content"]) for m in row["messages"]) for row in rows]
    answered = 0
    with log.progress(f"{title}, tokens", len(rows) * max_new_tokens) as bar:

        def on_done(_: int, completion: Completion) -> None:
            nonlocal answered
            answered += 1
            bar.advance(max_new_tokens - len(completion.ids), answered=f"{answered}/{len(rows)}")

        texts = model.answer_all(
            [Conversation(each[:-1]) for each in turns],
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            on_token=lambda *_: bar.advance(1, answered=f"{answered}/{len(rows)}"),
            on_done=on_done,
        )
    return Score(
        tuple(
            Answer(each[-2].content, each[-1].content, text, scorer(text, each[-1].content))
            for each, text in zip(turns, texts, strict=True)
        )
    )


def save_score(score: Score, path: Path) -> None:
    """Write the answers as JSON lines, whole or not at all."""
    lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in score.answers]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode("utf-8"))


def load_score(path: Path, rows: Sequence[dict[str, Any]]) -> Score | None:
    """Answers saved earlier to the very same questions; None where there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        answers = tuple(Answer(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError):
        return None
    asked = [(row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in rows]
    return Score(answers) if [(a.question, a.reference) for a in answers] == asked else None


def sampled_pairs(base: Score, tuned: Score, count: int) -> list[tuple[Answer, Answer]]:
    """Pairs of answers to the same questions, a fair sample: every n-th question, never chosen by the outcome."""
    pairs = list(zip(base.answers, tuned.answers, strict=True))
    step = max(1, len(pairs) // count)
    return pairs[::step][:count]
