"""Native steps are taken where they were seen to be right; else the model's own are, and one line says why."""

import pytest
import torch

from burnish.generate import quick
from burnish.generate.engine import Engine
from burnish.kernels.native import CannotCompile, native
from burnish.model.decoding import Decoder
from tests.conftest import build_model
from tests.unit.generate.test_engine import PROMPTS, ask, plainly, run

try:
    native("decode")
except CannotCompile as error:
    pytest.skip(f"no native code here: {error}", allow_module_level=True)


@pytest.fixture
def model():
    return build_model(initializer_range=0.3, tie_word_embeddings=False).eval()


@pytest.fixture
def told(monkeypatch):
    lines = []
    monkeypatch.setattr(quick, "aside", lines.append)
    monkeypatch.setattr(quick, "_told", set())
    return lines


@pytest.fixture
def steps(model, monkeypatch):
    """How often the model itself ran."""
    counted = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, *args, **kwargs: counted.append(1) or forward(self, *args, **kwargs)
    )
    return counted


def answers(model, count=6):
    engine = Engine(model, slots=4)
    return run(engine, [engine.submit(ask(prompt, count)) for prompt in PROMPTS])


def test_the_first_step_is_done_both_ways_and_then_no_more(model, steps, told):
    wanted = [plainly(model, prompt, 6) for prompt in PROMPTS]
    steps.clear()
    assert answers(model) == wanted
    assert len(steps) == 2  # the prompts, and the step that is compared
    steps.clear()
    assert answers(model) == wanted
    assert len(steps) == 1  # another engine over the same model
    assert not told


def test_a_kernel_that_is_wrong_is_found_out(model, steps, told, monkeypatch):
    right = Decoder.step
    wanted = [plainly(model, prompt, 6) for prompt in PROMPTS]

    def wrong(self, tokens, places, keys, values):
        for kept in (*keys.values(), *values.values()):
            kept[0, :, places[0]] = 7.0
        return right(self, tokens, places, keys, values) + torch.linspace(0, 9, 259)

    monkeypatch.setattr(Decoder, "step", wrong)
    steps.clear()
    assert answers(model) == wanted
    assert answers(model) == wanted
    assert len(told) == 1
    assert "apart from the model's own" in told[0]


def test_what_cannot_be_is_said_once(model, told, monkeypatch):
    def refuse(*given):
        raise CannotCompile("no C compiler (cc, gcc or clang) was found")

    monkeypatch.setattr(quick, "Decoder", refuse)
    wanted = [plainly(model, prompt, 6) for prompt in PROMPTS]
    assert [answers(model), answers(model)] == [wanted, wanted]
    assert told == ["tokens are made without the decoding kernel: no C compiler (cc, gcc or clang) was found"]


def test_it_can_be_switched_off(model, told, monkeypatch):
    monkeypatch.setenv("BURNISH_DECODE", "plain")
    monkeypatch.setattr(quick, "Decoder", lambda *given: pytest.fail("a decoder was made"))
    assert answers(model) == [plainly(model, prompt, 6) for prompt in PROMPTS]
    assert not told


def test_rows_that_follow_see_weights_that_were_trained(model):
    engine = Engine(model, slots=1)
    run(engine, [engine.submit(ask(PROMPTS[2], 6))])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    fresh = Engine(model, slots=1)
    assert run(fresh, [fresh.submit(ask(PROMPTS[2], 6))]) == [plainly(model, PROMPTS[2], 6)]


def test_what_was_proven_before_changes_not_a_bit(model):
    """A run that goes on in a new process proves the kernel anew: its log-probabilities must be the same."""

    def logprobs():
        engine, made = Engine(model, slots=4), []
        for prompt in PROMPTS:
            engine.submit(ask(prompt, 5))
        while engine.busy:
            made += [event.logprob for event in engine.step()]
        return made

    assert logprobs() == logprobs()
