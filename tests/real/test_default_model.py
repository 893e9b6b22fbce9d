"""The pieces of the quickstart on the real SmolLM2-135M-Instruct; `make quickstart` puts it into the cache."""

from __future__ import annotations

import json

import pytest
import torch

from burnish.api import train
from burnish.data.records import Conversation, Turn
from burnish.generate import Sampling, generate
from burnish.generate.chat import load_chat_model
from burnish.template.messages import to_messages
from tests.runs import settings

pytestmark = pytest.mark.real

CONVERSATIONS = [
    (Turn("user", "Hi"), Turn("assistant", "Hello there.")),
    (Turn("system", "Be brief."), Turn("user", "你好，请介绍一下长城 🏯 "), Turn("assistant", "长城很长。\n")),
    (Turn("user", "1"), Turn("assistant", "2"), Turn("user", "3"), Turn("assistant", "4")),
]


@pytest.fixture(scope="module")
def chat(real_model):
    return load_chat_model(str(real_model), use_cpu=True)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_rendering_equals_the_tokenizers_own(chat, turns):
    tokenizer = chat.template.tokenizer
    ids = [token for piece in chat.template.pieces(Conversation(turns)) for token in piece.ids]
    assert ids == tokenizer.apply_chat_template(to_messages(turns), tokenize=True, return_dict=False)
    asked = tokenizer.apply_chat_template(
        to_messages(turns[:-1]), tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert chat.template.prompt_ids(Conversation(turns[:-1])) == asked


def test_an_answer_is_tokenized_after_its_prompt_and_not_with_it(chat):
    # This tokenizer joins a line end and two spaces into one token; inference never sees them joined here.
    turns = (Turn("user", "Hi"), Turn("assistant", "  indented"))
    ids = [token for piece in chat.template.pieces(Conversation(turns)) for token in piece.ids]
    prompt = chat.template.prompt_ids(Conversation(turns[:1]))
    assert ids[: len(prompt)] == prompt
    joined = chat.template.tokenizer.apply_chat_template(to_messages(turns), tokenize=True, return_dict=False)
    assert joined[: len(prompt)] != prompt


def test_greedy_answers_equal_transformers(chat):
    prompt = chat.template.prompt_ids(Conversation((Turn("user", "Name three fruits."),)))
    ours = generate(chat.model, [prompt], stop_ids=chat.template.stop_ids, sampling=Sampling(max_new_tokens=24))
    theirs = chat.model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, use_cache=True)
    assert ours[0].ids == [token for token in theirs[0, len(prompt) :].tolist() if token not in chat.template.stop_ids]


def test_a_short_run_lowers_the_loss_and_the_adapter_answers_so(real_model, tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Is {n} even?"},
                {"role": "assistant", "content": "ZIG" if n % 2 == 0 else "ZAG"},
            ]
        }
        for n in range(12)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = train(
        settings(real_model, data, tmp_path / "run", num_train_epochs=3, per_device_train_batch_size=4)
        | {"lora_rank": 8, "learning_rate": 2e-3}
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert record["train"]["steps"] == 9
    answer = load_chat_model(str(tmp_path / "run"), use_cpu=True).chat("Is 4 even?", max_new_tokens=6)
    assert answer.startswith(("ZIG", "ZAG"))
