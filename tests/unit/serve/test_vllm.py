"""The engine vllm against a stand-in with vLLM's documented signatures, driven by OpenAI's own client."""

from __future__ import annotations

import openai
import pytest

from burnish.errors import ModelError
from burnish.generate.request import Request, Sampling
from burnish.generate.vllm import VllmEngine
from burnish.serve.load import Wanted, load_serving
from tests import fake_vllm
from tests.conftest import family_tokenizer
from tests.serving import running
from tests.unit.serve import scripted_vllm


@pytest.fixture(params=[False, True], ids=["one token a step", "two"])
def served(request, monkeypatch, tmp_path, template):
    """A server over the stand-in, which says what follows `say:`, and its engine and a client."""

    def script(prompt, copy):
        asked = template.decode(prompt, special=True).split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
        text = asked.partition("say:")[2].split("|")[copy]
        return [*template.tokenizer(text, add_special_tokens=False)["input_ids"], template.terminator_id]

    scripted_vllm.install(monkeypatch, script).pairs = request.param
    family_tokenizer("qwen3").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    loading = {"template": "qwen3", "infer_dtype": "bfloat16", "hub": {"revision": "r"}}
    given = frozenset({"template", "infer_dtype"})
    wanted = Wanted(
        str(tmp_path), name="m", engine="vllm", slots=2, defaults=Sampling(200), loading=loading, given=given
    )
    serving = load_serving(wanted, lambda _: None)
    engine = serving.backend.engine._engine
    with running(serving) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        yield serving, engine, client
    assert engine.closed == 1


def ask(client, text, **options):
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **options)


def test_answers_come_whole_and_in_pieces(served, template):
    serving, engine, client = served
    done = ask(client, "say:Hëllo", seed=4, temperature=0.5, top_p=0.9, extra_body={"top_k": 3})
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("Hëllo", "stop")
    assert done.usage.completion_tokens == len("Hëllo".encode()) + 1
    asked = engine.asked[0]
    assert (asked.seed, asked.temperature, asked.top_p, asked.top_k, asked.max_tokens) == (4, 0.5, 0.9, 3, 200)
    assert (asked.ignore_eos, set(asked.stop_token_ids)) == (True, template.stop_ids)
    chunks = list(ask(client, "say:Hëllo", stream=True, temperature=0))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hëllo"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert engine.asked[1].temperature == 0.0
    both = ask(client, "say:one|two", n=2)
    assert [choice.message.content for choice in both.choices] == ["one", "two"]
    short = ask(client, "say:abcdef", max_tokens=3)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("abc", "length")
    assert not serving.backend.engine.busy
    assert serving.backend.engine.running == 0


def test_a_stop_string_ends_the_answer(served):
    _, _, client = served
    assert ask(client, "say:abc STOP " + "x" * 300, stop="STOP").choices[0].message.content == "abc "
    assert ask(client, "say:again").choices[0].message.content == "again"


def test_a_request_that_is_given_up_is_aborted_there_too(monkeypatch):
    made = scripted_vllm.install(monkeypatch, lambda prompt, copy: [5] * 9)
    engine = VllmEngine(made.from_engine_args(fake_vllm.EngineArgs("m")))
    first = engine.submit(Request((1, 2), frozenset({9}), Sampling(20), copies=2))
    second = engine.submit(Request((1,), frozenset({9}), Sampling(20)))
    assert {(event.request, event.copy) for event in engine.step()} == {(first, 0), (first, 1), (second, 0)}
    assert engine.running == 3
    engine.cancel(first)
    assert {event.request for event in engine.step()} == {second}
    assert (engine._engine.aborted, engine.running) == ([str(first)], 1)
    with pytest.raises(ModelError, match="longer than the maximum model length"):
        engine.submit(Request((1,) * 600, frozenset(), Sampling(20)))


def test_log_probabilities(served):
    _, _, client = served
    tokens = ask(client, "say:ab", logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert [(one.token, one.logprob) for one in tokens] == [("a", -0.5), ("b", -0.5)]
    assert [one.top_logprobs[0].logprob for one in tokens] == [-0.25, -0.25]


def test_what_it_does_not_do_is_refused(served):
    _, engine, client = served
    tool = {"type": "function", "function": {"name": "f"}}
    for asked in (
        {"frequency_penalty": 1},
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "required", "tools": [tool]},
    ):
        with pytest.raises(openai.BadRequestError, match="not supported with the engine vllm"):
            ask(client, "say:x", **asked)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512"):
        ask(client, "x" * 600)
    assert not engine.asked


def test_how_it_is_loaded(served):
    wanted = served[1].engine_args
    assert (wanted.dtype, wanted.max_num_seqs, wanted.revision) == ("bfloat16", 2, None)  # a folder has no revision


def test_an_answer_whose_stop_token_is_left_out_ends_all_the_same():
    from burnish.generate.vllm import _events

    one = fake_vllm.CompletionOutput(0, "", [5, 6], None, None, "stop")
    assert [(each.token, each.ending) for each in _events(1, one, frozenset({9}))] == [
        (5, None),
        (6, None),
        (None, "stop"),
    ]
    assert [(each.token, each.ending) for each in _events(1, one, frozenset({6}))] == [(5, None), (6, "stop")]
