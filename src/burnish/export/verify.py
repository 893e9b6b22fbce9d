"""Does what was written compute and render what the run's own model does? Asked after reading it back from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from burnish.data.records import Conversation, Turn
from burnish.errors import ModelError
from burnish.model.save import is_adapter
from burnish.template import ChatTemplate
from burnish.template.messages import to_messages

_NOISE, _REAL_CHANGE = 1e-7, 0.05  # nats: below which a divergence means nothing, and from which training shows
_TALKS = (
    (
        Turn("user", "Name three rivers of Europe, and say which is the longest."),
        Turn("assistant", "The Danube, the Rhine and the Elbe. The Danube is the longest of the three: 2,850 km."),
    ),
    (
        Turn("system", "You answer in one short sentence."),
        Turn("user", "What is 17 * 23?"),
        Turn("assistant", "17 * 23 = 391."),
        Turn("user", "And minus 100?"),
        Turn("assistant", "That is 291."),
    ),
    (
        Turn("user", "Ein Wort für 水 auf Deutsch?\n\n```python\nprint('naïve café')\n```"),
        Turn("assistant", "Wasser.  Das Programm gibt `naïve café` aus 🙂"),
    ),
)


@dataclass(frozen=True)
class Difference:
    """How far two models are apart on the same tokens.

    `max_logit`: the largest difference of two logits. `equal_argmax`: share of positions with the same likeliest next
    token. `kl`, `max_kl`: mean and largest KL divergence over positions, in nats, of the second from the first.
    `effect`: the mean KL divergence of the run from its base without the adapter; None where there is no adapter.
    """

    tokens: int
    max_logit: float
    equal_argmax: float
    kl: float
    max_kl: float
    effect: float | None = None

    def __str__(self) -> str:
        text = (
            f"largest difference of a logit {self.max_logit:.2g}, same likeliest token at {self.equal_argmax:.2%} of "
            f"{self.tokens} positions, KL divergence {self.kl:.2g} nats"
        )
        return text if self.effect is None else f"{text} (the training itself: {self.effect:.2g})"

    def record(self) -> dict[str, Any]:
        """As it stands in the report."""
        return asdict(self)


class Trial:
    """Three conversations, as the run renders them: with a system turn, several turns and other scripts.

    Args:
        template: None for a model that was trained on plain text; then the words alone are taken.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate | None) -> None:
        self.tokenizer, self.template = tokenizer, template
        knows_system = template is not None and template.abilities.system
        self.talks = [tuple(t for t in talk if t.role != "system" or knows_system) for talk in _TALKS]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The ids before the last answer."""
        if self.template is None:
            return [list(self.tokenizer(talk[0].content)["input_ids"]) for talk in self.talks]
        return [self.template.prompt_ids(Conversation(talk[:-1])) for talk in self.talks]

    @cached_property
    def rows(self) -> list[list[int]]:
        """The ids of whole conversations, as they are trained on."""
        if self.template is None:
            return [list(self.tokenizer("\n".join(turn.content for turn in talk))["input_ids"]) for talk in self.talks]
        template = self.template
        return [
            template.encode(template.marked_text(template.complete(Conversation(talk)), False)) for talk in self.talks
        ]

    def rendered(self) -> list[str]:
        """The text of the prompts. Empty where there is no template."""
        if self.template is None:
            return []
        return [self.template.text(Conversation(talk[:-1]), generate=True) for talk in self.talks]

    def require_same_ids(self, tokenizer: Any) -> None:
        """Raise ModelError where a tokenizer by itself renders the conversations to other ids than the run does."""
        for talk, prompt, row in zip(self.talks, self.prompts, self.rows, strict=True):
            if self.template is None:
                found = [(prompt, list(tokenizer(talk[0].content)["input_ids"]))]
            else:
                found = [
                    (prompt, _by_itself(tokenizer, talk[:-1], True)),
                    (row, _by_itself(tokenizer, talk, False)),
                ]
            for wanted, got in found:
                if wanted != got:
                    place = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), -1)
                    raise ModelError(
                        "the written tokenizer renders a conversation differently: "
                        f"{tokenizer.decode(wanted)[:300]!r} became {tokenizer.decode(got)[:300]!r}",
                        at=f"token {place}",
                        fix="nothing was exported; please report this with the model's name",
                    )

    def logits(self, model: Any) -> list[Tensor]:
        """The logits of a model on the conversations: one tensor [T, V] each, float32 on the CPU."""
        device = model.get_input_embeddings().weight.device
        with torch.inference_mode():
            return [
                model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0].float().cpu()
                for row in self.rows
            ]


def _by_itself(tokenizer: Any, turns: Sequence[Turn], generate: bool) -> list[int]:
    return list(
        tokenizer.apply_chat_template(
            to_messages(turns), tokenize=True, add_generation_prompt=generate, return_dict=False
        )
    )


def without_the_adapter(model: Any) -> AbstractContextManager[Any]:
    """While the block runs, a PEFT model computes what its base does."""
    return model.disable_adapter() if is_adapter(model) else nullcontext()


def compare(first: Sequence[Tensor], second: Sequence[Tensor], base: Sequence[Tensor] | None = None) -> Difference:
    """How far the second model's logits are from the first one's.

    Args:
        first, second: of the run's model and of what was written: [T, V] float32 each.
        base: of the model below the run's adapter.
    """
    kls, argmax, largest = [], [], 0.0
    for a, b in zip(first, second, strict=True):
        rows = min(a.shape[-1], b.shape[-1])  # a table may be padded with rows that are no tokens
        a, b = a[:, :rows], b[:, :rows]
        largest = max(largest, float((a - b).abs().max()))
        argmax.append(a.argmax(-1) == b.argmax(-1))
        kls.append(_kl(a, b))
    kl = torch.cat(kls)
    effect = None
    if base is not None:
        effect = float(torch.cat([_kl(a, b) for a, b in zip(first, base, strict=True)]).mean())
    equal = float(torch.cat(argmax).float().mean())
    return Difference(len(kl), largest, equal, float(kl.mean()), float(kl.max()), effect)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first ‖ second) of each row, in nats."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def require_near(
    difference: Difference, tolerance: float, what: str, note: Callable[[str], None] = lambda _: None
) -> None:
    """Raise ModelError where what was written is too far from the run.

    It is too far where the mean KL divergence passes the tolerance, or where it eats half of what the training
    changed, if that was a real change.

    Args:
        tolerance: nats.
        what: was written, for the message.
        note: is told where half of a small training was lost in rounding.
    """
    effect = difference.effect or 0.0
    lost = difference.effect is not None and difference.kl > effect / 2 and difference.kl > _NOISE
    if difference.kl <= tolerance and not (lost and effect > _REAL_CHANGE):
        if lost:
            note(
                f"the training changed little (a KL divergence of {effect:.1g} nats), and rounding {what} costs "
                f"{difference.kl:.1g} of it"
            )
        return
    raise ModelError(
        f"{what} does not answer as the run does: {difference}",
        at=f"tolerance: a KL divergence of {tolerance:g} nats, and half of what the training changed",
        fix="nothing was exported. Try --dtype float32, or a finer --quantize; if it says the same, please report it",
    )
