"""A reward model to ask: conversations in, one score each out, read just as in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.data.records import Conversation
from burnish.errors import BurnishError, ModelError
from burnish.generate.loading import load_to_ask
from burnish.kernels.attention import packed_rows, reason_not_packed
from burnish.model.reward import attach_value_head, head_folder, load_value_head, value_head
from burnish.model.save import without_adapter
from burnish.model.source import ModelSource, find_model, with_adapters
from burnish.template import ChatTemplate


@dataclass
class RewardModel:
    """A language model with a scalar head, and the template it was trained with."""

    model: Any
    template: ChatTemplate
    name: str
    source: ModelSource | None = None

    @property
    def window(self) -> int | None:
        """Most tokens that the model reads; None where it says nothing of that."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def score(self, conversations: Sequence[Conversation], *, batch_size: int = 8) -> list[float]:
        """How good the last answer of each conversation is; only differences between scores mean anything.

        Args:
            conversations: each ends with an assistant's turn.
            batch_size: conversations in one forward pass.
        Raises:
            BurnishError: a conversation does not end with an answer.
            TemplateError: the template cannot render one.
        """
        rows = [self.ids(conversation, place) for place, conversation in enumerate(conversations)]
        return self.score_rows(rows, batch_size=batch_size)

    def score_rows(self, rows: Sequence[Sequence[int]], *, batch_size: int = 8) -> list[float]:
        """Scores of what `ids` gave, so many in one forward pass, the longest first."""
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            for place, score in zip(part, self.score_ids([rows[place] for place in part]), strict=True):
                scores[place] = score
        return scores

    def ids(self, conversation: Conversation, place: int = 0) -> list[int]:
        """The tokens that are scored: up to and with the stop token of the last answer. `place` is for errors."""
        if not conversation.turns or conversation.turns[-1].role != "assistant":
            raise BurnishError(
                "there is no answer to score",
                at=f"conversation {place}",
                fix="end it with an assistant's turn",
            )
        [row] = self.template.rows(conversation, last_only=True)
        last = max(number for number, piece in enumerate(row) if piece.kind == "answer")
        return [token for piece in row[: last + 1] for token in piece.ids]

    @torch.no_grad()
    def score_ids(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Scores of what `ids` gave, in one forward pass."""
        device = next(self.model.parameters()).device
        inner = without_adapter(self.model)
        body = getattr(inner, inner.base_model_prefix)
        lengths = [len(row) for row in rows]
        if reason_not_packed(inner) is None:
            ids = torch.tensor([[token for row in rows for token in row]], device=device)
            places = torch.tensor([[place for length in lengths for place in range(length)]], device=device)
            with packed_rows(inner):
                hidden = body(
                    input_ids=ids, position_ids=places, use_cache=False, document_lengths=tuple(lengths)
                ).last_hidden_state[0]  # [T, E]
        else:
            alone = [body(input_ids=torch.tensor([[*row]], device=device), use_cache=False) for row in rows]
            hidden = torch.cat([one.last_hidden_state[0] for one in alone])  # [T, E]
        ends = torch.tensor(lengths, device=device).cumsum(0) - 1
        return value_head(self.model)(hidden[ends]).tolist()


def load_reward_model(
    name: str, *, adapters: Sequence[str] = (), say: Callable[[str], None] = lambda _: None, **loading: Any
) -> RewardModel:
    """Load a run of `stage: rm`, its adapter merged in memory; a base that was quantized in training is so again.

    Args:
        name: a run folder or one of its checkpoints.
        adapters: merged into it besides, in this order.
        loading: as in `burnish.generate.loading.load_to_ask`: `template`, `use_cpu`, `quantization_bit` and so on.
    Raises:
        ModelError: there is no model, or it has no head.
    """
    source = with_adapters(find_model(name, say), adapters)
    folder = head_folder(source)
    if folder is None:
        raise ModelError("this is no reward model", at=name, fix="give the folder of a run with stage: rm")
    loaded, template, _ = load_to_ask(source, say=say, **loading)
    attach_value_head(loaded.model, seed=0)
    load_value_head(loaded.model, folder)
    loaded.model.requires_grad_(False).eval()
    return RewardModel(loaded.model, template, name, source)
