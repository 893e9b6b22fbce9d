"""SmolLM2-135M-Instruct with an adapter: one answer in chat, under plain transformers and in llama.cpp."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from burnish.data.records import Conversation, Turn
from burnish.export.gguf_job import export_gguf
from burnish.export.job import export_hf
from burnish.export.llamacpp import LlamaCpp
from burnish.export.subject import Order, Wish
from burnish.generate import Sampling, generate
from burnish.generate.chat import load_chat_model
from tests.exports import adapter_folder

pytestmark = [pytest.mark.real, pytest.mark.extended]


def test_one_answer_everywhere(real_model, tmp_path):
    pytest.importorskip("xllamacpp")
    run = adapter_folder(real_model, tmp_path / "run")
    merged = export_hf(Wish(str(run)), Order(str(tmp_path / "hf")))
    assert merged["difference"]["kl"] < 0.01 < merged["difference"]["effect"]
    assert export_gguf(Wish(str(run)), Order(str(tmp_path / "f32")), "f32")["llama.cpp"]["greedy"] == 3
    for kind in ("bf16", "f16", "q8_0"):
        export_gguf(Wish(str(run)), Order(str(tmp_path / kind)), kind)  # within the stated tolerances, or an error
    chat = load_chat_model(str(tmp_path / "hf"), use_cpu=True, infer_dtype="float32")
    ids = chat.template.prompt_ids(Conversation((Turn("user", "Name three fruits."),)))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    theirs = plain.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0, len(ids) :].tolist()
    [ours] = generate(
        chat.model, [ids], stop_ids=chat.template.stop_ids, sampling=Sampling(max_new_tokens=16, do_sample=False)
    )
    said = [token for token in theirs if token not in chat.template.stop_ids]
    assert ours.ids == said
    program = LlamaCpp(tmp_path / "f32" / "f32-f32.gguf", longest=256, threads=2)
    assert program.continued(ids, 16) == said
