"""The sampler equals transformers' own greedy search, batched or not, and its draws obey their limits."""

from dataclasses import replace

import pytest
import torch

from burnish.errors import ModelError
from burnish.generate import Sampling, generate
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
        assert (completion.ids, completion.finished) == (ids[:cut], stop in ids)
        assert completion.sampled == ids[: cut + 1]


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


def test_draws_do_not_depend_on_the_batch(model):
    options = Sampling(max_new_tokens=10, do_sample=True, temperature=1.3, top_p=0.9, seed=7)
    alone = generate(model, PROMPTS, stop_ids={3, 4}, sampling=options, batch_size=1)
    together = generate(model, PROMPTS, stop_ids={3, 4}, sampling=options, batch_size=3)
    assert [one.ids for one in together] == [one.ids for one in alone]
    others = generate(model, PROMPTS, stop_ids={3, 4}, sampling=replace(options, seed=8))
    assert [one.ids for one in others] != [one.ids for one in alone]


def test_copies_differ_and_come_prompt_by_prompt(model):
    options = Sampling(max_new_tokens=10, do_sample=True, temperature=1.3, seed=7)
    done = generate(model, PROMPTS, stop_ids=(), sampling=options, copies=3, batch_size=4)
    assert len(done) == 9
    assert len({tuple(one.ids) for one in done[:3]}) == 3
    again = generate(model, PROMPTS, stop_ids=(), sampling=options, copies=1)
    assert [one.ids for one in done[::3]] == [one.ids for one in again]
    greedily = generate(model, PROMPTS, stop_ids=(), sampling=Sampling(max_new_tokens=5), copies=2)
    assert [one.ids for one in greedily] == [greedy(model, PROMPTS[place // 2], 5) for place in range(6)]


def test_logprobs_are_those_of_the_model_at_the_temperature(model):
    options = Sampling(max_new_tokens=6, do_sample=True, temperature=0.7, top_k=5, seed=3)
    for prompt, done in zip(
        PROMPTS, generate(model, PROMPTS, stop_ids={3, 4, 5}, sampling=options, batch_size=2), strict=True
    ):
        row = torch.tensor([[*prompt, *done.sampled]])
        with torch.no_grad():
            logits = model(input_ids=row).logits[0].float() / 0.7
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, row[0, len(prompt) :, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=1e-5, rtol=1e-5)
