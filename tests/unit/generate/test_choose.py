"""Draws obey their limits and their shares, and each row has its own."""

import random
from collections import Counter
from dataclasses import replace

import torch

from burnish.generate import Sampling
from burnish.generate.choose import choose

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def draws(sampling, count=400):
    source = random.Random(0)
    return Counter(choose(LOGITS.clone(), [sampling], [source])[0].item() for _ in range(count))


def test_top_k_and_top_p():
    assert set(draws(Sampling(do_sample=True, top_k=2))) == {0, 1}
    assert set(draws(Sampling(do_sample=True, top_p=0.5))) == {0}  # 0.5 reaches 0.5
    assert set(draws(Sampling(do_sample=True, top_p=0.75))) == {0, 1}  # 0.5 does not, 0.8 does
    assert set(draws(Sampling(do_sample=True, temperature=0.05))) == {0}
    assert set(draws(Sampling())) == {0}


def test_shares_are_those_of_the_model():
    shares = draws(Sampling(do_sample=True), 4000)
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(shares[token] / 4000 - share) < 0.03  # four standard errors of the largest: 0.032


def test_repetition_penalty():
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    # 2.0 / 1.2 = 1.67 falls below 1.9.
    assert choose(logits, [Sampling(repetition_penalty=1.2)], [None], [[0]])[0].item() == 1
    assert choose(logits, [Sampling(repetition_penalty=1.2)], [None], [[2]])[0].item() == 0
    assert logits[0, 0] == 2.0


def test_each_row_has_its_own_way():
    logits = LOGITS.repeat(3, 1)
    warm = Sampling(do_sample=True, temperature=2.0, seed=1)
    alone = [choose(LOGITS, [warm], [random.Random(seed)])[0].item() for seed in (5, 6)]
    tokens, logprobs = choose(
        logits, [warm, Sampling(), replace(warm, top_k=3)], [random.Random(5), None, random.Random(6)]
    )
    assert tokens.tolist() == [alone[0], 0, alone[1]]
    torch.testing.assert_close(logprobs[1], LOGITS[0])
    torch.testing.assert_close(logprobs[0], (LOGITS[0] / 2).log_softmax(-1))
