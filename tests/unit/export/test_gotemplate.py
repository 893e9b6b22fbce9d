"""Ollama's templates render what the chat templates render."""

from __future__ import annotations

import shutil
from importlib.resources import files

import pytest

from burnish.data.records import Conversation, Turn
from burnish.export.gotemplate import go_template
from burnish.export.modelfile import modelfile
from burnish.template import ChatTemplate, load_family, load_template
from burnish.template.messages import to_messages
from burnish.template.standin import stand_in
from tests.conftest import CHATML, build_tokenizer
from tests.gotemplates import render, render_with_go

TALKS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user", "assistant", "user"),
)
NAMES = (
    *("alpaca", "baichuan", "belle", "chatglm3", "chatml", "cohere", "deepseek", "deepseek3", "deepseekr1", "default"),
    *("falcon", "gemma", "glm4", "granite3", "internlm2", "llama2", "llama3", "mistral", "mistral_small", "openchat"),
    *("orion", "phi3", "phi4", "qwen", "qwen3", "smollm2", "solar", "starchat", "vicuna", "yi", "zephyr"),
)


def talk(roles):
    words = [f"{role} says {{{{ it }}}} <{number}>" for number, role in enumerate(roles)]
    return Conversation(tuple(Turn(role, text) for role, text in zip(roles, words, strict=True)))


WORDS = (
    "{role} says {{{{ it }}}} <{number}>",
    "}}}} {{{{- trim -}}}} {number}",
    "a line\n\nand  another of `\"'\\",
    "世界 &lt;é&gt; & 🎉",
)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_go_itself_renders_as_in_training():
    """Every shipped template, by Go's own text/template as Ollama calls it."""
    asked, wanted = [], []
    for name in sorted(
        each.name for each in files("burnish.template").joinpath("families").iterdir() if each.is_file()
    ):
        name = name.removesuffix(".jinja")
        template = load_template(stand_in(load_family(name)), name)
        text = go_template(template).text
        assert text is not None or name == "chatglm2", "which counts its rounds"
        for roles in TALKS if text else ():
            for words in WORDS if "system" not in roles or template.abilities.system else ():
                turns = tuple(Turn(role, words.format(role=role, number=place)) for place, role in enumerate(roles))
                asked.append((text, to_messages(turns)))
                wanted.append(template.text(Conversation(turns), generate=True))
    assert len(wanted) > 800
    assert render_with_go(asked) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_modelfile_renders_as_in_training(name):
    template = load_template(stand_in(load_family(name)), name)
    text = go_template(template).text
    assert text is not None
    for roles in TALKS:
        if "system" in roles and not template.abilities.system:
            continue
        conversation = talk(roles)
        assert render(text, to_messages(conversation.turns)) == template.text(conversation, generate=True)
    stops = {template.tokenizer.convert_ids_to_tokens(number) for number in template.stop_ids}
    written, _ = modelfile(template, ".", {}, adds_bos=False)
    assert stops == {line[16:-1] for line in written.splitlines() if line.startswith("PARAMETER stop ")}


def test_the_beginning_token_is_left_to_ollama():
    template = load_template(stand_in(load_family("llama3")), "llama3")
    text = go_template(template, without="<|begin_of_text|>").text
    conversation = talk(TALKS[-1])
    wanted = template.text(conversation, generate=True).removeprefix("<|begin_of_text|>")
    assert render(text, to_messages(conversation.turns)) == wanted


def test_a_default_system_message_is_ollamas_too():
    template = ChatTemplate(build_tokenizer(), default_system='Be "Bri".')
    written, limits = modelfile(template, "./it.gguf", {"top_k": 5, "repetition_penalty": 1.1}, adds_bos=False)
    assert 'SYSTEM """Be "Bri"."""' in written
    assert {"PARAMETER top_k 5", "PARAMETER repeat_penalty 1.1"} <= set(written.splitlines())
    assert not limits
    text = written.split('"""')[1]
    messages = [{"role": "system", "content": 'Be "Bri".'}, {"role": "user", "content": "Hi"}]
    assert render(text, messages) == template.text(Conversation((Turn("user", "Hi"),)), generate=True)


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        (CHATML.replace("message['content']", "message['content'] | trim"), "blanks around a message are cut off"),
        (
            CHATML.replace(
                "message['content']",
                "(message['content'] | trim if message['role'] == 'assistant' else message['content'])",
            ),
            "blanks around a message are cut off",
        ),
        ("{{ strftime_now('%d %B') }}" + CHATML, "the day of this export"),
        (CHATML.replace("message['content']", "message['content'].split('</think>')[-1]"), None),
    ],
)
def test_what_it_cannot_do_is_said(source, limit):
    found = go_template(ChatTemplate(build_tokenizer(), source))
    assert found.text is not None
    assert any(limit in each for each in found.limits) if limit else not found.limits


def test_what_ollamas_reader_makes_of_a_modelfile():
    """It unescapes nothing, and leaves out characters that print nothing."""
    template = ChatTemplate(build_tokenizer(), default_system="Two\u00a0words\n\tand a tab")
    template.tokenizer.add_special_tokens({"additional_special_tokens": ['<|"\\|>']})
    changed = ChatTemplate(
        template.tokenizer, CHATML.replace("<|im_end|>", '<|"\\\\|>'), default_system=template.default_system
    )
    written, limits = modelfile(changed, ".", {}, adds_bos=False)
    assert 'SYSTEM """Two\u00a0words\n\tand a tab"""' in written
    assert limits == ["Ollama leaves out characters of the system message that print nothing (U+00A0)"]
    assert f"# {limits[0]}" in written.splitlines()
    assert 'PARAMETER stop "<|"\\|>"' in written.splitlines()


@pytest.mark.parametrize(
    "source",
    [
        CHATML.replace("message['content']", "message['content'] | upper"),
        CHATML.replace("message['content']", "message['content'] ~ message['content']"),
        CHATML.replace("{% for message in messages %}", "{% for message in messages %}{{ loop.index }}"),
        CHATML + "{{ messages | length }}",
    ],
    ids=["changes words", "writes them twice", "counts turns", "counts turns at the end"],
)
def test_what_cannot_be_written_is_not(source):
    template = ChatTemplate(build_tokenizer(), source)
    written, limits = modelfile(template, ".", {}, adds_bos=False)
    assert "TEMPLATE" not in written
    assert limits
    assert all(f"# {limit}" in written for limit in limits)
