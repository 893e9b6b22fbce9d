"""Likelihoods of continuations: packed, padded and one by one they are the same."""

from __future__ import annotations

import random

import pytest
import torch

from burnish.evaluate.scoring import Continuation, likelihoods
from tests.conftest import build_model


def drawn(count, seed=0):
    draw = random.Random(seed)
    return [
        Continuation(
            tuple(draw.randrange(3, 250) for _ in range(draw.randrange(1, 30))),
            tuple(draw.randrange(3, 250) for _ in range(draw.randrange(1, 6))),
        )
        for _ in range(count)
    ]


def one_by_one(model, each, window=512):
    """The definition: a whole forward pass, a softmax, the tokens read off."""
    read = torch.tensor([[*each.context, *each.ids][-(window + 1) : -1]])
    with torch.no_grad():
        logits = model(read).logits[0, -len(each.ids) :].float()
    nats = logits.log_softmax(-1)[torch.arange(len(each.ids)), torch.tensor(each.ids)]
    return float(nats.sum()), bool((logits.argmax(-1) == torch.tensor(each.ids)).all())


def equal(found, wanted):
    return [greedy for _, greedy in found] == [greedy for _, greedy in wanted] and all(
        abs(one - other) < 1e-4 for (one, _), (other, _) in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])  # packed, and padded
@pytest.mark.parametrize("tokens", [1, 60, 8192])
def test_batches_do_not_change_likelihoods(attention, tokens):
    model = build_model().eval()
    model.set_attn_implementation(attention)
    asked = drawn(20)
    wanted = [one_by_one(model, each) for each in asked]
    assert equal(likelihoods(model, asked, window=512, tokens_at_once=tokens), wanted)


def test_the_likeliest_token_is_greedy():
    model = build_model().eval()
    context = (5, 6, 7)
    with torch.no_grad():
        best = int(model(torch.tensor([context])).logits[0, -1].argmax())
    found = likelihoods(model, [Continuation(context, (best,)), Continuation(context, (best ^ 1,))], window=512)
    assert [each.greedy for each in found] == [True, False]


def test_choices_of_one_token_share_a_row():
    model, rows = build_model().eval(), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    asked = [Continuation((9, 8, 7, 6), (letter,)) for letter in (40, 41, 42, 43)]
    found = likelihoods(model, asked, window=512)
    assert sum(rows) == 4
    assert equal(found, [one_by_one(model, each) for each in asked])


def test_a_long_context_loses_its_beginning():
    model = build_model(max_position_embeddings=16).eval()
    each = Continuation(tuple(range(3, 43)), (50, 51))
    [found] = likelihoods(model, [each], window=16)
    assert equal([found], [one_by_one(model, each, window=16)])


def test_a_head_with_more_than_a_matrix_is_asked_itself():
    model = build_model().eval()
    model.config.final_logit_softcapping = 1.0  # told by the config; the Llama forward pass does not do it
    asked = drawn(5)
    assert equal(likelihoods(model, asked, window=512), [one_by_one(model, each) for each in asked])


def test_an_empty_context_is_refused():
    with pytest.raises(ValueError, match="continuation 0"):
        likelihoods(build_model().eval(), [Continuation((), (4,))], window=512)
