"""The sampler equals transformers' own greedy search, batched or not, and its draws obey their limits."""

import pytest
import torch

from burnish.errors import ModelError
from burnish.generate import Completion, Sampling, generate
from burnish.generate.sampler import pick
from tests.conftest import build_model

PROMPTS = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16]]


@pytest.fixture(scope="module")
def model():
    # Larger weights than at initialisation, so that the greedy path is decided by more than rounding.
    made = build_model(initializer_range=0.3, tie_word_embeddings=False).eval()
    return made


def greedy(model, prompt, count):
    ids = torch.tensor([prompt])
    out = model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=[], pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def test_equals_transformers_greedy_search_for_any_batch_size(model):
    expected = [greedy(model, prompt, 12) for prompt in PROMPTS]
    for size in (1, 2, 3):
        done = generate(model, PROMPTS, stop_ids=(), sampling=Sampling(max_new_tokens=12), batch_size=size)
        assert [completion.ids for completion in done] == expected


def test_rows_that_stop_leave_the_others_unchanged(model):
    full = [greedy(model, prompt, 12) for prompt in PROMPTS]
    stop = full[0][3]
    done = generate(model, PROMPTS, stop_ids={stop}, sampling=Sampling(max_new_tokens=12), batch_size=3)
    for ids, completion in zip(full, done, strict=True):
        cut = ids.index(stop) if stop in ids else len(ids)
        assert completion == Completion(ids[:cut], stop in ids)


def test_tokens_are_reported_as_they_come(model):
    seen, finished = [], []
    done = generate(
        model,
        PROMPTS[:2],
        stop_ids=(),
        sampling=Sampling(max_new_tokens=4),
        on_token=lambda row, token: seen.append((row, token)),
        on_done=lambda row, completion: finished.append(row),
    )
    for row in (0, 1):
        assert [token for place, token in seen if place == row] == done[row].ids
    assert sorted(finished) == [0, 1]


def test_a_seed_repeats_a_draw(model):
    options = Sampling(max_new_tokens=8, do_sample=True, temperature=1.5, seed=4)
    one, two = (generate(model, PROMPTS, stop_ids=(), sampling=options) for _ in range(2))
    assert one == two


def test_limits_of_the_context(model):
    with pytest.raises(ModelError, match="empty prompt"):
        generate(model, [[]], stop_ids=(), sampling=Sampling())
    with pytest.raises(ModelError, match="has 512 tokens"):
        generate(model, [[5] * 512], stop_ids=(), sampling=Sampling())
    done = generate(model, [[5] * 508], stop_ids=(), sampling=Sampling(max_new_tokens=50))
    assert len(done[0].ids) == 4
    done = generate(model, [[5] * 8], stop_ids=(), sampling=Sampling(max_new_tokens=50, max_length=10))
    assert len(done[0].ids) == 2


LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def draws(sampling, count=300):
    random = torch.Generator().manual_seed(0)
    return {pick(LOGITS, sampling, random).item() for _ in range(count)}


def test_top_k_and_top_p():
    assert draws(Sampling(do_sample=True, top_k=2)) == {0, 1}
    assert draws(Sampling(do_sample=True, top_p=0.5)) == {0}  # 0.5 reaches 0.5
    assert draws(Sampling(do_sample=True, top_p=0.75)) == {0, 1}  # 0.5 does not, 0.8 does
    assert draws(Sampling(do_sample=True)) == {0, 1, 2, 3}
    assert draws(Sampling(do_sample=True, temperature=0.05)) == {0}
    assert draws(Sampling()) == {0}


def test_repetition_penalty():
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    seen = torch.tensor([[0]])
    random = torch.Generator()
    # 2.0 / 1.2 = 1.67 falls below 1.9.
    assert pick(logits, Sampling(repetition_penalty=1.2), random, seen).item() == 1
    assert pick(logits, Sampling(repetition_penalty=1.2), random, seen, torch.zeros_like(seen)).item() == 0
