"""/v1/chat/completions, driven by OpenAI's own client against a scripted engine."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.chat import completion_create_params

from burnish.data.records import Conversation, ToolCall, Turn
from burnish.serve.bodies import ChatBody, EvaluationBody
from burnish.template.calls import as_written

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def ask(client, text, **options):
    messages = options.pop("messages", [{"role": "user", "content": text}])
    return client.chat.completions.create(**{"model": "tiny", "messages": messages, **options})


def test_an_answer_comes_whole(client, engine):
    done = ask(client, "say:Hëllo 世界")
    [choice] = done.choices
    assert (choice.message.content, choice.finish_reason) == ("Hëllo 世界", "stop")
    assert done.model == "tiny"
    sampled = len("Hëllo 世界".encode()) + 1
    assert done.usage.completion_tokens == sampled
    assert done.usage.prompt_tokens == len(engine.requests[-1].prompt)
    assert done.usage.total_tokens == done.usage.prompt_tokens + sampled


def test_the_prompt_is_the_templates_own(client, engine, template):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "say:<|im_end|>c"},
    ]
    ask(client, "", messages=messages)
    turns = (Turn("system", "Be brief."), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "say:<|im_end|>c"))
    assert list(engine.requests[-1].prompt) == template.prompt_ids(Conversation(turns))
    assert engine.requests[-1].stop_ids == template.stop_ids


def test_a_stream_gives_the_same_text_in_pieces(client):
    stream = list(ask(client, "say:Hëllo 世界", stream=True, stream_options={"include_usage": True}))
    assert stream[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == "Hëllo 世界"
    assert all("\ufffd" not in piece for piece in pieces), "half characters are held back"
    assert sum(bool(piece) for piece in pieces) == len("Hëllo 世界")
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "stop"
    assert stream[-1].choices == []
    assert stream[-1].usage.completion_tokens == len("Hëllo 世界".encode()) + 1
    assert len({chunk.id for chunk in stream}) == 1
    assert all(chunk.usage is None for chunk in ask(client, "say:x", stream=True))


def test_several_answers(client, engine):
    done = ask(client, "say:one|two|three", n=3)
    assert [choice.message.content for choice in done.choices] == ["one", "two", "three"]
    assert engine.requests[-1].copies == 3
    texts = {0: "", 1: ""}
    for chunk in ask(client, "say:one|two", n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "one", 1: "two"}
    with pytest.raises(openai.BadRequestError, match="n can be at most 4"):
        ask(client, "say:x", n=5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("abc STOP def", "STOP", "abc "),
        ("abc STOP def", ["nothing", " def", "OP"], "abc ST"),
        ("aaab", "aab", "a"),
        ("abST", "STOP", "abST"),  # only the beginning of it came
        ("世界人", "界", "世"),
        ("STOP", "STOP", ""),
    ],
)
def test_a_stop_string_and_what_follows_is_never_shown(client, stream, text, stop, shown):
    done = ask(client, f"say:{text}", stop=stop, stream=stream)
    if stream:
        chunks = list(done)
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        finish = chunks[-1].choices[0].finish_reason
    else:
        content, finish = done.choices[0].message.content, done.choices[0].finish_reason
    assert (content, finish) == (shown, "stop")


def test_the_limit_of_tokens(client, engine):
    assert ask(client, "say:abcdef", max_tokens=3).choices[0].message.content == "abc"
    done = ask(client, "say:abcdef", max_completion_tokens=4)
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("abcd", "length")
    ask(client, "say:x")
    assert engine.requests[-1].sampling.max_new_tokens == 200
    ask(client, "say:" + "x" * 950)
    assert engine.requests[-1].sampling.max_new_tokens == 1024 - len(engine.requests[-1].prompt)


def test_how_it_is_sampled(client, engine):
    ask(client, "say:x")
    kept = engine.requests[-1].sampling
    assert (kept.do_sample, kept.temperature, kept.top_p, kept.top_k, kept.seed) == (True, 0.95, 0.7, 50, None)
    ask(client, "say:x", temperature=0)
    assert not engine.requests[-1].sampling.do_sample
    ask(client, "say:x", temperature=0.3, top_p=0.5, seed=7, extra_body={"top_k": 3, "repetition_penalty": 1.5})
    asked = engine.requests[-1].sampling
    assert (asked.do_sample, asked.temperature, asked.top_p, asked.top_k, asked.seed) == (True, 0.3, 0.5, 3, 7)
    assert asked.repetition_penalty == 1.5


def test_penalties_and_biases_change_the_logits(client, engine):
    import torch

    ask(client, "say:x", frequency_penalty=0.5, presence_penalty=1.0, logit_bias={"3": -100, "4": 2})
    shape = engine.requests[-1].shape_logits
    assert shape([5, 5, 4], torch.zeros(8)).tolist() == [0, 0, 0, -100, 0.5, -2.0, 0, 0]
    ask(client, "say:x", frequency_penalty=0, logit_bias={})
    assert engine.requests[-1].shape_logits is None


def test_log_probabilities(client, template):
    done = ask(client, "say:aé", logprobs=True, top_logprobs=2)
    tokens = done.choices[0].logprobs.content
    assert [bytes(token.bytes) for token in tokens] == [b"a", b"\xc3", b"\xa9"]
    assert [token.logprob for token in tokens] == [-0.5] * 3
    assert [len(token.top_logprobs) for token in tokens] == [2] * 3
    assert tokens[0].top_logprobs[0].token == "a"
    streamed = [
        token
        for chunk in ask(client, "say:aé", logprobs=True, top_logprobs=2, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == tokens
    stopped = ask(client, "say:abcd", logprobs=True, stop="c").choices[0]
    assert [token.token for token in stopped.logprobs.content] == ["a", "b"], "tokens of the stop string were shown"
    assert ask(client, "say:a").choices[0].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_read_back(client, engine, template, stream):
    call = ToolCall("weather", {"city": 'Os"lo'})
    text = "I look.\n" + as_written(template, Turn("user", "q"), (call, call), (TOOL,)).split("</think>")[-1].strip()
    done = ask(client, f"say:{text}", tools=[TOOL], stream=stream)
    if stream:
        chunks = [chunk.choices[0] for chunk in done]
        content = "".join(chunk.delta.content or "" for chunk in chunks)
        calls = [each for chunk in chunks for each in chunk.delta.tool_calls or ()]
        finish = chunks[-1].finish_reason
        assert sum(bool(chunk.delta.content) for chunk in chunks) > 3, "words before the call come as they are made"
        assert [each.index for each in calls] == [0, 1]
    else:
        [choice] = done.choices
        content, calls, finish = choice.message.content, choice.message.tool_calls, choice.finish_reason
    assert (content.strip(), finish) == ("I look.", "tool_calls")
    assert [(each.function.name, json.loads(each.function.arguments)) for each in calls] == [
        ("weather", {"city": 'Os"lo'})
    ] * 2
    assert len({each.id for each in calls}) == 2
    assert "weather" in template.decode(engine.requests[-1].prompt, special=True).split("say:")[0]


def test_calls_can_be_sent_back_with_their_results(client, engine, template):
    call = ToolCall("weather", {"city": "Oslo"}, "call00001")
    first = ask(
        client, 'say:<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>', tools=[TOOL]
    )
    said = first.choices[0].message.model_dump()
    said["tool_calls"][0]["id"] = "call00001"
    messages = [
        {"role": "user", "content": "say:dry"},
        said,
        {"role": "tool", "tool_call_id": "call00001", "content": "0 mm"},
    ]
    ask(client, "", messages=messages, tools=[TOOL])
    turns = (Turn("user", "say:dry"), Turn("assistant", "", None, (call,)), Turn("tool", "0 mm", call_id="call00001"))
    assert list(engine.requests[-1].prompt) == template.prompt_ids(Conversation(turns, (TOOL,)))


def test_an_answer_that_only_looks_like_a_call_is_text(client):
    for stream in (False, True):
        done = ask(client, "say:<tool_call>{broken</tool_call> x", tools=[TOOL], stream=stream)
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in done)
            if stream
            else done.choices[0].message.content
        )
        assert text == "<tool_call>{broken</tool_call> x"
    done = ask(
        client, 'say:<tool_call>{"name": "weather", "arguments": {}}</tool_call>', tools=[TOOL], tool_choice="none"
    )
    assert done.choices[0].message.tool_calls is None
    assert done.choices[0].finish_reason == "stop"


def test_thinking_can_be_switched_by_request(client, engine, template):
    ask(client, "say:x", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    wanted = template.changed(enable_thinking=False).prompt_ids(Conversation((Turn("user", "say:x"),)))
    assert list(engine.requests[-1].prompt) == wanted != template.prompt_ids(Conversation((Turn("user", "say:x"),)))


def test_adapters_are_chosen_by_name(client, engine):
    assert ask(client, "say:x", model="tuned").model == "tuned"
    assert engine.requests[-1].adapter == "tuned"
    ask(client, "say:x", model="tiny")
    assert engine.requests[-1].adapter == ""


def test_every_parameter_of_openai_is_known():
    known = set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert known <= set(ChatBody.model_fields)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"extra_body": {"tempreature": 1}}, "tempreature"),
        ({"extra_body": {"chat_template_kwargs": {"thinking": True}}}, "chat_template_kwargs.thinking"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"stop": [""]}, "stop[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always", "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "wether"}}, "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {}}, "tools": [TOOL]}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "weather"}}, "tools": [TOOL]}, "tool_choice"),
        ({"tools": [{**TOOL, "function": {**TOOL["function"], "strict": True}}]}, "tools[0].function.strict"),
        (
            {
                "tools": [TOOL],
                "tool_choice": "required",
                "extra_body": {"chat_template_kwargs": {"enable_thinking": True}},
            },
            "chat_template_kwargs.enable_thinking",
        ),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"store": True}, "store"),
        ({"extra_body": {"functions": []}}, "functions"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0]",
        ),
        ({"messages": [{"role": "user", "content": "a", "name": "Ada"}]}, "messages[0].name"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "messages[1]"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "say:x", **options)
    error = refused.value.body
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert error["message"].endswith((".", "out."))


def test_of_the_problems_of_a_value_the_telling_one_is_told(client):
    with pytest.raises(openai.BadRequestError, match=r"'stop' is not valid: .* at most 16 items"):
        ask(client, "say:x", stop=["a"] * 17)


def test_parameters_that_change_no_answer_are_taken(client):
    ask(client, "say:x", user="me", metadata={"a": "b"}, store=False, modalities=["text"], service_tier="auto")
    ask(client, "say:x", parallel_tool_calls=True, response_format={"type": "text"}, safety_identifier="x")


@pytest.mark.parametrize("options", [{}, {"max_tokens": 1020}, {"stream": True}])
def test_a_request_over_the_context_length(client, options):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "x" * (1100 if "max_tokens" not in options else 10), **options)
    assert refused.value.body["code"] == "context_length_exceeded"
    assert "maximum context length is 1024" in refused.value.body["message"]


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}], ids=["text", "object"])
def test_calls_of_earlier_answers_need_no_id(client, engine, template, arguments):
    """Data to train on often has none, and a run of ppo sends its prompts to a scorer as they are."""
    tool = {"type": "function", "function": {"name": "f"}}
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
        {"role": "tool", "content": "two"},
    ]
    client.chat.completions.create(model="tiny", messages=messages, tools=[tool])
    turns = (Turn("user", "one"), Turn("assistant", "", tool_calls=(ToolCall("f", {"a": 1}),)), Turn("tool", "two"))
    assert list(engine.requests[-1].prompt) == template.prompt_ids(Conversation(turns, (tool,)))
    EvaluationBody.model_validate({"messages": ["x"], "prompts": [messages], "completions": ["three"]})
