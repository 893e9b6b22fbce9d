"""Requests come and go while others run, and each gets what it would get alone, from every family of models."""

import pytest
import torch

from burnish.errors import ModelError
from burnish.generate import Request, Sampling, quick
from burnish.generate.engine import Engine
from tests.conftest import build_model

LONG = list(range(5, 45))
PROMPTS = [LONG[:4], LONG[20:21], LONG[8:31], [*LONG[8:31], 7, 9, 11]]

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "phi": {"partial_rotary_factor": 0.5},
    "gemma": {},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 8},
    "gpt_neox": {},
    "gpt_oss": {"sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 1},
    "olmo2": {},
    "granite": {"logits_scaling": 2.0},
}
PADDED = {"bloom": {"n_layer": 2, "n_head": 4}}


def family(name, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, **FAMILIES.get(name, {}), **PADDED.get(name, {}), **changes})
    return AutoModelForCausalLM.from_config(config).float().eval()


def plainly(model, prompt, count):
    """Greedy search without any cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def run(engine, numbers=None):
    """All tokens by request number."""
    made = {}
    while engine.busy:
        for event in engine.step():
            made.setdefault((event.request, event.copy), []).append(event.token)
    return made if numbers is None else [made[(number, 0)] for number in numbers]


def ask(prompt, count=9, **changes):
    return Request(tuple(prompt), frozenset(), Sampling(max_new_tokens=count), **changes)


@pytest.mark.parametrize("way", ["plain", "native"])
@pytest.mark.parametrize("name", [*FAMILIES, *PADDED])
def test_every_family_equals_greedy_search_without_a_cache(name, way, monkeypatch):
    monkeypatch.setenv("BURNISH_DECODE", way)
    model = family(name)
    engine = Engine(model, slots=3)
    assert (engine.plain_because is not None) == (name in PADDED)
    numbers = [engine.submit(ask(prompt)) for prompt in PROMPTS]
    assert run(engine, numbers) == [plainly(model, prompt, 9) for prompt in PROMPTS]


def test_whole_batches_are_told_once(monkeypatch):
    lines = []
    monkeypatch.setattr(quick, "aside", lines.append)
    monkeypatch.setattr(quick, "_told", set())
    engines = [Engine(family(name)) for name in ("bloom", "bloom", "llama")]
    assert lines == [f"answers are made in whole batches, one batch after the other: {engines[0].plain_because}"]


@pytest.fixture(scope="module")
def model():
    return build_model(initializer_range=0.3, tie_word_embeddings=False).eval()


def test_requests_join_while_others_run(model):
    engine = Engine(model, slots=2)
    first = engine.submit(ask(PROMPTS[2], 12))
    made = {}

    def step():
        for event in engine.step():
            made.setdefault(event.request, []).append(event.token)

    for _ in range(3):
        step()
    second, third = engine.submit(ask(PROMPTS[0], 3)), engine.submit(ask(PROMPTS[3], 6))
    assert (engine.running, engine.waiting) == (1, 2)
    while engine.busy:
        step()
    for number, prompt, count in ((first, PROMPTS[2], 12), (second, PROMPTS[0], 3), (third, PROMPTS[3], 6)):
        assert made[number] == plainly(model, prompt, count)


def test_what_was_read_before_is_not_read_again(model, monkeypatch):
    engine = Engine(model, slots=2)
    first = run(engine, [engine.submit(ask(LONG, 8))])[0]
    read = []
    forward = type(model).forward

    def counted(self, *args, input_ids, **kwargs):
        read.append(input_ids.numel())
        return forward(self, *args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(model), "forward", counted)
    following = [*LONG, *first, 3, 4]
    answer = run(engine, [engine.submit(ask(following, 5))])[0]
    assert read[0] == 3  # the last token of the answer was never read, then two new ones
    monkeypatch.undo()
    assert answer == plainly(model, following, 5)


def test_a_cancelled_request_frees_its_slot_and_speaks_no_more(model):
    engine = Engine(model, slots=1)
    first, second, third = (engine.submit(ask(prompt, 6)) for prompt in PROMPTS[:3])
    engine.step()
    engine.cancel(first)
    engine.cancel(third)
    made = run(engine)
    assert set(made) == {(second, 0)}
    assert made[(second, 0)] == plainly(model, PROMPTS[1], 6)


def test_each_adapter_has_rows_of_its_own(model):
    used = []
    engine = Engine(model, slots=4, activate=used.append)
    numbers = [engine.submit(ask(PROMPTS[0], 3, adapter=name)) for name in ("a", "b", "a")]
    made = run(engine, numbers)
    assert made == [plainly(model, PROMPTS[0], 3)] * 3
    assert used == ["a", "b", "a"] + ["a", "b"] * 2  # the prompts in their order, then both adapters in turn


def test_logits_can_be_shaped_and_alternatives_asked_for(model):
    def only_even(ids, logits):
        logits = logits.clone()
        logits[1::2] = float("-inf")
        return logits

    engine = Engine(model, slots=2)
    engine.submit(ask(PROMPTS[0], 6, shape_logits=only_even, top_logprobs=3))
    engine.submit(ask(PROMPTS[1], 6))
    events = [event for _ in range(8) if engine.busy for event in engine.step()]
    shaped = [event for event in events if event.request == 1]
    assert all(event.token % 2 == 0 for event in shaped)
    assert all(len(event.top) == 3 and event.top[0] == (event.token, event.logprob) for event in shaped)
    assert [event.token for event in events if event.request == 2] == plainly(model, PROMPTS[1], 6)
    assert [event.ending for event in shaped] == [None] * 5 + ["length"]


def test_what_cannot_be_asked(model):
    engine = Engine(model, slots=2)
    for request, words in (
        (ask([]), "empty prompt"),
        (ask([5] * 600), "has 600 tokens"),
        (ask([5], copies=3), "2 slots"),
    ):
        with pytest.raises(ModelError, match=words):
            engine.submit(request)
    assert not engine.busy
    assert engine.step() == []


def test_keys_and_values_go_with_the_engine(model):
    import gc
    import weakref

    gc.collect()
    gc.disable()  # what only the collector of cycles would free stays, rollout after rollout
    try:
        engine = Engine(model, slots=2)
        run(engine, [engine.submit(ask(PROMPTS[0], 3))])
        keys = weakref.ref(engine._pools[""].kept.store.keys[0])
        del engine
        assert keys() is None
    finally:
        gc.enable()
