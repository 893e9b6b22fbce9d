"""completions.md: some of the sampled answers with their rewards, for people to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from burnish.data.records import Prompt
from burnish.runs.files import write_atomically
from burnish.train.rollouts.answers import Answer

COMPLETIONS = "completions.md"
_LONGEST = 2000
_STEP = re.compile(r"^## Step (\d+)$", re.MULTILINE)


class CompletionsFile:
    """The file in a run folder; each entry is headed by the optimizer step that first learns from its answers."""

    def __init__(self, path: Path, every_steps: int, count: int) -> None:
        self.path, self.every_steps, self.count = path, every_steps, count
        self._written = 0

    def truncate_after(self, step: int) -> None:
        """Drop the entries of steps after `step`, as a resumed run will write them again."""
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8")
        heads = [(int(found.group(1)), found.start()) for found in _STEP.finditer(text)]
        end = next((start for number, start in heads if number > step), len(text))
        self._written = max([number for number, _ in heads if number <= step], default=0)
        write_atomically(self.path, text[:end].encode("utf-8"))

    def due(self, step: int) -> bool:
        """Whether answers that step `step` (from 1) is the first to learn from shall be written."""
        return not self._written or step - self._written >= self.every_steps

    def write(self, step: int, answers: Sequence[Answer], prompts: Sequence[Prompt], where: Sequence[str]) -> None:
        """Append an entry.

        Args:
            answers: best and worst ones are taken, as many as an entry holds.
            prompts, where: of each answer, what was asked, and its dataset and row.
        """
        self._written = step
        parts = [f"## Step {step}\n"]
        for number in self._chosen(answers):
            parts.append(_entry(answers[number], prompts[number], where[number]))
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n".join(parts) + "\n")

    def _chosen(self, answers: Sequence[Answer]) -> list[int]:
        """The best and the worst answers, the best first; those without a reward only where others are missing."""
        none = float("-inf")
        order = sorted(range(len(answers)), key=lambda n: _reward(answers[n], none), reverse=True)
        best = (self.count + 1) // 2
        return order if len(order) <= self.count else order[:best] + order[len(order) - (self.count - best) :]


def _reward(answer: Answer, none: float) -> float:
    return none if answer.reward is None else answer.reward


def _entry(answer: Answer, prompt: Prompt, where: str) -> str:
    reward = "no reward" if answer.reward is None else f"reward {answer.reward:.4g}"
    named = [f"{name} {'none' if value is None else format(value, '.4g')}" for name, value in answer.values.items()]
    detail = f" ({', '.join(named)})" if len(named) > 1 or answer.reward is None else ""
    ending = "" if answer.finished else ", cut at the longest length"
    parts = [f"### {where}: {reward}{detail}, {len(answer.ids)} tokens{ending}\n"]
    parts += [f"{turn.role}:\n\n{_quoted(turn.content)}\n" for turn in prompt.prompt.turns]
    return "\n".join([*parts, f"**answer:**\n\n{_quoted(answer.text)}\n"])


def _quoted(text: str) -> str:
    """Text as an indented block, in which nothing is a heading."""
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return "\n".join(f"    {line}" for line in shown.splitlines() or [""])
