"""A prompt that stands once before both answers of a pair gives what two whole documents give."""

from __future__ import annotations

import itertools

import pytest
import torch

from burnish.batch.collate import Layout, collate
from burnish.batch.pairs import collate_pairs, collate_shared, shared_prompts
from burnish.kernels.attention import masked_attention_reference, packed_attention, packed_rows
from burnish.model.adapter import attach_lora
from burnish.model.reward import attach_value_head
from burnish.template import Example
from burnish.train.logprobs import batch_logprobs
from burnish.train.preference import PairLoss, ScoreLoss, answer_scores
from burnish.train.reference import start_reference
from tests.conftest import build_model

# Tokens of prompt, chosen and rejected answer of each pair.
SHAPES = [
    [(1, 1, 1)],
    [(1, 1, 5)],
    [(1, 7, 1)],
    [(9, 1, 1)],
    [(5, 3, 4), (1, 1, 1), (12, 2, 7)],
    [(64, 3, 33), (2, 65, 1)],
]
ODD = Layout(True, shares=True)


def pair(place, prompt, chosen, rejected):
    """Two examples with the same prompt and answers of random tokens."""
    random = torch.Generator().manual_seed(place)
    before, better, worse = (
        torch.randint(3, 259, (count,), generator=random).tolist() for count in (prompt, chosen, rejected)
    )
    ignored = [-100] * prompt
    return Example(before + better, ignored + better, mark=1.0), Example(before + worse, ignored + worse)


def pairs(shapes):
    return list(itertools.chain.from_iterable(pair(place, *shape) for place, shape in enumerate(shapes)))


def both(shapes):
    """The same pairs as whole documents, and with shared prompts."""
    made = pairs(shapes)
    numbers = range(len(made))
    return collate(made, numbers, ODD), collate_shared(made, numbers, [shape[0] for shape in shapes])


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_the_kernel_equals_one_big_masked_softmax(shapes, heads, kv_heads):
    torch.manual_seed(1)
    lengths = [length for prompt, chosen, rejected in shapes for length in (prompt + chosen, rejected)]
    prompts = [shape[0] for shape in shapes]
    inputs = [torch.randn(1, h, sum(lengths), 16, requires_grad=True) for h in (heads, kv_heads, kv_heads)]
    fast = packed_attention(*inputs, lengths, 0.25, shared_prompts=prompts)
    plain = masked_attention_reference(*inputs, lengths, 0.25, prompts)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    seed = torch.randn_like(fast)
    gradients = zip(torch.autograd.grad(fast, inputs, seed), torch.autograd.grad(plain, inputs, seed), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_log_probabilities_and_gradients_equal_those_of_whole_documents(shapes, kv_heads):
    whole, shared = both(shapes)
    assert shared.tokens == whole.tokens - sum(shape[0] for shape in shapes) == shared.input_ids.numel()
    found = []
    for batch in (whole, shared):
        model = build_model(num_key_value_heads=kv_heads)
        with packed_rows(model):
            logprobs = batch_logprobs(model, batch, packed=True)
            weights = torch.linspace(-1, 1, len(logprobs))
            (logprobs * weights).sum().backward()
        found.append((logprobs.detach(), {name: value.grad for name, value in model.named_parameters()}))
    (one, first), (other, second) = found
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("shapes", SHAPES)
def test_losses_and_their_gradients_equal_those_of_whole_documents(shapes):
    """dpo with the adapter-off reference, an own loss without one, and rm."""
    whole, shared = both(shapes)
    found = []
    for batch in (whole, shared):
        model, _ = attach_lora(build_model(), rank=4)
        attach_value_head(model, seed=1)
        reference = start_reference(model)
        torch.manual_seed(2)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.data.normal_(std=0.3)
        modules = {
            "dpo": PairLoss(model, packed=True, reference=reference, pref_ftx=0.3),
            "simpo": PairLoss(model, packed=True, reference=None, pref_loss="simpo"),
            "rm": ScoreLoss(model, packed=True),
        }
        with packed_rows(model.get_base_model()):
            for stage, module in modules.items():
                model.zero_grad()
                loss = module(batch)
                loss.total.backward()
                gradient = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
                found.append((stage, loss, gradient))
            scores = answer_scores(model, batch, packed=True)
        found.append(("scores", scores, {}))
    for (stage, ours, first), (_, theirs, second) in zip(found[:4], found[4:], strict=True):
        if stage == "scores":
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
            continue
        torch.testing.assert_close(theirs.total, ours.total, atol=1e-5, rtol=1e-5)
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(second[name], first[name], atol=2e-5, rtol=1e-4, msg=f"{stage} {name}")


def test_an_answer_sees_its_prompt_and_itself_only():
    """Other tokens in the chosen answer leave the rejected one's logits as they are, and the other way round."""
    model = build_model().eval()
    shapes = [(4, 3, 5), (2, 2, 2)]

    def hidden(batch):
        with torch.no_grad(), packed_rows(model):
            return batch_logprobs(model, batch, packed=True)

    _, shared = both(shapes)
    before = hidden(shared)
    changed = shared.input_ids.clone()
    changed[0, 4:7] = torch.tensor([7, 8, 9])  # the chosen answer of the first pair
    after = hidden(type(shared)(**{**shared.__dict__, "input_ids": changed}))
    same = shared.loss_documents != 0
    torch.testing.assert_close(after[same], before[same], atol=0, rtol=0)
    assert not torch.equal(after[~same][1:], before[~same][1:])
    changed = shared.input_ids.clone()
    changed[0, 0] = 7  # the prompt
    assert not torch.equal(hidden(type(shared)(**{**shared.__dict__, "input_ids": changed}))[3:8], before[3:8])


def test_prompts_are_shared_where_that_pays():
    long, short = pairs([(20, 3, 4)]), pairs([(1, 30, 40)])
    assert shared_prompts(long) == (20,)
    assert shared_prompts(short) is None
    assert shared_prompts([*long, *short]) == (20, 1)  # 21 of 118 tokens
    assert collate_pairs(long, range(2), ODD).shared_prompts == (20,)
    assert collate_pairs(long, range(2), Layout(True)).shared_prompts is None
    assert collate_pairs(long, range(2), Layout(False, shares=True)).shared_prompts is None
    chosen, rejected = long
    other = Example([9, *rejected.input_ids[1:]], rejected.labels)
    assert shared_prompts([chosen, other]) is None  # the prompts are not the same
    trained = Example(chosen.input_ids, chosen.input_ids)
    assert shared_prompts([trained, trained]) is None  # nothing stands before the answers


def test_a_row_with_a_shared_prompt_literally():
    first = Example([11, 12, 21, 22], [-100, -100, 21, 22])
    second = Example([11, 12, 31], [-100, -100, 31])
    batch = collate_shared([first, second, first, second], (0, 1, 2, 3), (2, 2))
    assert batch.input_ids.tolist() == [[11, 12, 21, 22, 31, 11, 12, 21, 22, 31]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2, 3, 2]]
    assert batch.document_lengths == (4, 1, 4, 1)
    assert batch.loss_targets.tolist() == [21, 22, 31, 21, 22, 31]
    assert batch.loss_positions.tolist() == [1, 2, 1, 6, 7, 6]
    assert batch.loss_documents.tolist() == [0, 0, 1, 2, 2, 3]
