"""Loading: folders, GGUF files, adapters that do not fit, models that need padded batches."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from burnish.api import load, train
from burnish.errors import ModelError
from burnish.model.load import load_model
from burnish.model.source import find_model
from tests.conftest import CHATML, build_model, build_tokenizer
from tests.runs import settings


def write_gguf(model, tokenizer, path):
    """A Llama as float32 GGUF. Its q and k rows are interleaved, as llama.cpp's rotary embedding wants them."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_scores([0.0] * len(tokens))  # no merges: every byte stays a token
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                shape = (heads, 2, array.shape[0] // heads // 2, array.shape[1])
                array = array.reshape(shape).swapaxes(1, 2).reshape(array.shape)
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(new, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_the_same_model(tmp_path):
    model = build_model(initializer_range=0.2).eval()
    write_gguf(model, build_tokenizer(), tmp_path / "tiny.gguf")
    for name in (tmp_path / "tiny.gguf", tmp_path):
        loaded = load_model(find_model(str(name)), dtype=torch.float32)
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
        assert loaded.tokenizer("Hi 你")["input_ids"] == build_tokenizer()("Hi 你")["input_ids"]
        assert loaded.tokenizer.chat_template == CHATML


def test_a_gguf_file_is_parsed_once(tmp_path, monkeypatch):
    import gguf

    write_gguf(build_model(), build_tokenizer(), tmp_path / "tiny.gguf")
    source, parse, parsed = find_model(str(tmp_path / "tiny.gguf")), gguf.GGUFReader, []
    monkeypatch.setattr(gguf, "GGUFReader", lambda *file: parsed.append(file) or parse(*file))
    mine = gguf.GGUFReader
    load_model(source, dtype=torch.float32)
    assert len(parsed) == 1
    assert gguf.GGUFReader is mine, "others find it as it was"


def test_a_run_on_a_gguf_file_chats(tmp_path, chat_file):
    write_gguf(build_model(), build_tokenizer(), tmp_path / "tiny.gguf")
    train(settings(tmp_path / "tiny.gguf", chat_file, tmp_path / "run", max_steps=1))
    assert isinstance(load(str(tmp_path / "run"), use_cpu=True).chat("Hi", max_new_tokens=3), str)


def test_an_adapter_of_another_model_is_refused(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "run", max_steps=1))
    wider = tmp_path / "wider"
    build_model(hidden_size=64).save_pretrained(wider)
    build_tokenizer().save_pretrained(wider)
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    (tmp_path / "run" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(wider)}))
    with pytest.raises(ModelError, match="does not fit this model"):
        load(str(tmp_path / "run"), use_cpu=True)


def test_a_broken_folder_says_what_is_missing(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path / "model"), use_cpu=True)


@pytest.mark.parametrize(
    ("name", "changes", "padded"),
    [("bloom", {"n_layer": 2, "n_head": 4}, True), ("mistral", {"sliding_window": 16}, False)],
)
def test_only_a_model_without_pluggable_attention_trains_on_padded_rows(
    name, changes, padded, chat_file, tmp_path, capsys
):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{"vocab_size": 259, "num_key_value_heads": 2, **sizes, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    full = {"finetuning_type": "full", "learning_rate": 1e-2, "num_train_epochs": 8}
    train(settings(tmp_path / "model", chat_file, tmp_path / "run", **full))
    told = "training on padded batches: bloom has no pluggable attention in transformers"
    assert (told in capsys.readouterr().out) is padded
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 1


def test_an_adapter_is_trained_on(tiny_folder, chat_file, tmp_path):
    """adapter_name_or_path goes on with that adapter; with create_new_adapter it is merged and a new one begins."""
    train(settings(tiny_folder, chat_file, tmp_path / "first"))
    go_on = settings(tiny_folder, chat_file, tmp_path / "second", adapter_name_or_path=str(tmp_path / "first"))
    train({**go_on, "learning_rate": 0.0, "max_steps": 1})
    from tests.runs import weights

    for name, tensor in weights(tmp_path / "first").items():
        assert torch.equal(weights(tmp_path / "second")[name], tensor)
