"""NEFTune's noise has the size that the paper gives, for each document; norms widened to float32 give back 16 bits."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.batch.collate import collate_packed, collate_padded
from burnish.kernels.attention import packed_rows
from burnish.model.noise import EmbeddingNoise, upcast_norms
from burnish.template import Example
from burnish.train.forward import SupervisedLoss
from tests.conftest import build_model

LENGTHS = (3, 17, 60)


def noise_of(model, alpha, packed, lengths=LENGTHS):
    """What is added to the embeddings of each document, [T, D]."""
    module = SupervisedLoss(model, packed=packed)
    batch = (collate_packed if packed else collate_padded)(
        [Example(list(range(3, 3 + n)), [-100, *range(4, 3 + n)]) for n in lengths]
    )
    seen = []
    EmbeddingNoise(model, alpha).watch(module)
    table = model.get_input_embeddings()
    table.register_forward_hook(lambda _, given, out: seen.append((out - table.weight[given[0]]).detach()))
    if packed:
        with packed_rows(model):
            module(batch)
        return list(seen[0][0].split(list(lengths)))
    module(batch)
    return [row[:n] for row, n in zip(seen[0], lengths, strict=True)]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_noise_is_scaled_by_each_document_alone(packed):
    parts = noise_of(build_model().train(), 5.0, packed)
    for part, length in zip(parts, LENGTHS, strict=True):
        largest = 5.0 / math.sqrt(length * 32)
        assert part.abs().max() <= largest * (1 + 1e-5)
        # uniform on [-1, 1]: variance 1/3
        assert part.std() == pytest.approx(largest / math.sqrt(3), rel=0.2)


def test_one_packed_document_and_one_row_alone_are_the_same():
    parts = noise_of(build_model().train(), 5.0, True, (40,)), noise_of(build_model().train(), 5.0, False, (40,))
    assert all(part[0].abs().max() <= 5.0 / math.sqrt(40 * 32) for part in parts)


def test_no_noise_in_evaluation():
    assert all(part.count_nonzero() == 0 for part in noise_of(build_model().eval(), 5.0, True))


def test_norms_compute_in_float32():
    plain, model = build_model(initializer_range=0.3).bfloat16(), build_model(initializer_range=0.3).bfloat16()
    assert upcast_norms(model) == 5
    assert {name for name, p in model.named_parameters() if p.dtype == torch.float32} == {
        name for name, _ in model.named_parameters() if "norm" in name
    }
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        exact = build_model(initializer_range=0.3)(ids).logits
        widened, rounded = model(ids).logits, plain(ids).logits
    assert widened.dtype == torch.bfloat16
    assert (widened - exact).norm() < 1.05 * (rounded - exact).norm()
