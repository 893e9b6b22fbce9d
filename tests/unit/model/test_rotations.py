"""Families turn queries and keys by the kernel where it gives what their own function gives."""

import sys

import pytest
import torch

from burnish.kernels.attention import packed_rows
from burnish.model import rotations
from burnish.model.rotations import fused_rotations
from tests.machines import needs_compiler
from tests.unit.model.test_fused import FAMILIES as KNOWN
from tests.unit.model.test_fused import family

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "olmo2", "phi3")


def loss_and_gradients(model):
    ids = torch.arange(3, 20)[None]
    model.zero_grad()
    with packed_rows(model):
        loss = model(input_ids=ids, labels=ids, use_cache=False, document_lengths=[17]).loss
        loss.backward()
    return loss.detach(), [each.grad.clone() for each in model.parameters() if each.grad is not None]


@needs_compiler
@pytest.mark.parametrize("name", FAMILIES)
def test_families_train_as_before(name, monkeypatch):
    model = family(name, head_dim=64, hidden_size=256)
    seen = []
    kernel = rotations.rotary
    monkeypatch.setattr(rotations, "rotary", lambda *given: seen.append(1) or kernel(*given))
    own = sys.modules[type(model).__module__].apply_rotary_pos_emb
    plain = loss_and_gradients(model)
    with fused_rotations(model) as count:
        assert count == 2
        seen.clear()
        ours = loss_and_gradients(model)
    assert len(seen) == 2
    assert sys.modules[type(model).__module__].apply_rotary_pos_emb is own
    torch.testing.assert_close(ours[0], plain[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(ours[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 + 1e-4 * other.abs().max().item(), rtol=1e-4)


def test_a_family_that_turns_in_another_way_is_left_alone(monkeypatch):
    monkeypatch.setitem(KNOWN, "cohere", ({}, 0, 0))
    model = family("cohere", hidden_size=256)  # it pairs neighbours
    with fused_rotations(model) as count:
        assert count == 0
        assert not hasattr(sys.modules[type(model).__module__].apply_rotary_pos_emb, "before")


@needs_compiler
def test_two_models_of_a_family():
    first, second = family("llama"), family("llama")
    module = sys.modules[type(first).__module__]
    own = module.apply_rotary_pos_emb
    with fused_rotations(first) as one, fused_rotations(second) as other:
        assert one == other == 2
    assert module.apply_rotary_pos_emb is own


@needs_compiler
def test_what_the_kernel_does_not_take_is_left_to_the_family():
    """Several padded rows, and heads that are no whole vectors."""
    model = family("llama", head_dim=64, hidden_size=256)
    ids = torch.randint(3, 97, (2, 9))
    plain = model(input_ids=ids).logits
    with fused_rotations(model):
        assert torch.equal(model(input_ids=ids).logits, plain)
