"""GGUF files, held against transformers' reader and llama.cpp itself."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from types import SimpleNamespace

import gguf
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, Qwen3Config

from burnish.errors import BurnishError, ModelError
from burnish.export import gguf_job
from burnish.export.gguf_families import family_of
from burnish.export.gguf_file import write_gguf
from burnish.export.gguf_job import export_gguf
from burnish.export.gguf_tokenizer import vocabulary
from burnish.export.llamacpp import LlamaCpp
from burnish.export.subject import Order, Wish
from tests.conftest import build_model, build_tokenizer
from tests.exports import adapter_folder
from tests.ggufs import byte_level, family_folder, sentence_pieces

pytest.importorskip("xllamacpp")

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")


def field(reader, name):
    return reader.get_field(name).contents()


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_answers_in_llamacpp_as_here(tmp_path, kind):
    """Under float32: the same logits in transformers, the same ids and greedy answers in llama.cpp."""
    folder = family_folder(kind, tmp_path / "model")
    report = export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "f32")
    asked = report["llama.cpp"]
    assert asked["mean_logprob"] < 1e-3
    assert asked["greedy"] == asked["conversations"] == 3
    if kind != "gemma":  # which transformers does not read
        assert report["difference"]["kl"] < 1e-8
        assert report["difference"]["equal_argmax"] == 1.0


@pytest.mark.parametrize(("kind", "family"), [("q8_0", "llama"), ("q8_0", "gemma3_text"), ("bf16", "qwen3")])
def test_fewer_bits_stay_near(tmp_path, kind, family):
    base = family_folder(family, tmp_path / "model")
    run = adapter_folder(base, tmp_path / "run")
    report = export_gguf(Wish(str(run)), Order(str(tmp_path / "out")), kind)
    assert 0 < report["difference"]["kl"] < 0.01 < report["difference"]["effect"]
    assert report["llama.cpp"]["mean_logprob"] < gguf_job.LOGPROB_TOLERANCES[kind] / 3
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(_file(tmp_path / "out")).tensors}
    assert types["blk.0.ffn_up.weight"] == kind.upper()
    assert types["blk.0.attn_norm.weight"] == "F32"


def _file(folder):
    [file] = folder.glob("*.gguf")
    return file


def test_what_stands_in_the_file(tmp_path):
    folder = family_folder("llama", tmp_path / "model")
    export_gguf(Wish(str(folder), default_system="Be Bri."), Order(str(tmp_path / "out")), "f16")
    reader, tokenizer = gguf.GGUFReader(_file(tmp_path / "out")), byte_level("llama-bpe")
    assert field(reader, "general.architecture") == "llama"
    assert field(reader, "tokenizer.ggml.model") == "gpt2"
    assert field(reader, "tokenizer.ggml.pre") == "llama-bpe"
    assert field(reader, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert field(reader, "tokenizer.ggml.eot_token_id") == tokenizer.eos_token_id
    assert field(reader, "tokenizer.ggml.add_bos_token") is False
    assert "Be Bri." in field(reader, "tokenizer.chat_template")
    assert field(reader, "tokenizer.ggml.tokens")[-1] == f"[PAD{len(tokenizer) + 2}]"
    assert field(reader, "llama.context_length") == 512
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./out-f16.gguf\n")
    assert 'SYSTEM """Be Bri."""' in modelfile


def test_a_beginning_token_stands_once(tmp_path):
    """The tokenizer and the template both write one: the file says so, and the Modelfile leaves it to Ollama."""
    folder = family_folder("mistral", tmp_path / "model")
    export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "f32")
    assert field(gguf.GGUFReader(_file(tmp_path / "out")), "tokenizer.ggml.add_bos_token") is True
    assert "<s>" not in (tmp_path / "out" / "Modelfile").read_text()


@pytest.mark.parametrize(
    "rope", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "llama3",
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
def test_stretched_positions_go_along(tmp_path, rope, monkeypatch):
    """llama.cpp stretches as transformers does; transformers' own reader does not look at it."""
    original = {"original_max_position_embeddings": 128} if rope["rope_type"] == "yarn" else {}
    parameters = {"rope_theta": 10000.0, **rope, **original}
    folder = family_folder("llama", tmp_path / "model", rope_parameters=parameters)
    report = export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "f32")
    assert report["llama.cpp"]["mean_logprob"] < 1e-3
    assert report["llama.cpp"]["greedy"] == 3


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "tekken"])
def test_the_rule_is_found_and_llamacpp_cuts_alike(tmp_path, pre):
    tokenizer = byte_level(pre)
    words = vocabulary(tokenizer, len(tokenizer))
    assert words.pre == pre
    model = build_model(vocab_size=len(tokenizer))
    write_gguf(model, words, tokenizer, None, tmp_path / "it.gguf", "f32", name="it")
    program = LlamaCpp(tmp_path / "it.gguf", longest=256, threads=1)
    for text in (
        "It's 12345 o'clock, don't you KNOW?",
        "  two\n\n three\t'LL we'Re ",
        "naïve Größe 东京 123 ½ №5 🙂🙂",
        "<|im_start|>a HTMLParser iPhone x=3.14e-5;<|im_end|>\n",
    ):
        assert program.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_nobody_else_may_ask_the_loaded_file(tmp_path):
    tokenizer = byte_level("gpt-2")
    words = vocabulary(tokenizer, len(tokenizer))
    model = build_model(vocab_size=len(tokenizer))
    write_gguf(model, words, tokenizer, None, tmp_path / "it.gguf", "f32", name="it")
    program = LlamaCpp(tmp_path / "it.gguf", longest=256, threads=1)
    assert program.tokenize("a")
    program._program = replace(program._program, key="another")
    with pytest.raises(KeyError):
        program.tokenize("a")


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_pieces_are_cut_alike(tmp_path, prefix):
    tokenizer = sentence_pieces(prefix)
    words = vocabulary(tokenizer, len(tokenizer))
    assert (words.model, words.space_prefix) == ("llama", prefix)
    assert words.types[words.tokens.index("<0x41>")].name == "BYTE"


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "beta_fast": 16}, "beta_fast 16"),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0}, "attention_factor 1.0"),
        ({"rope_type": "yarn", "factor": 4.0, "mscale": 0.707, "mscale_all_dim": 0.707}, "mscale 0.707"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_type": "dynamic", "factor": 2.0}, "rope scaling of the kind dynamic"),
    ],
)
def test_positions_that_the_file_has_no_place_for_are_refused(rope, said):
    """Otherwise only llama.cpp itself, where it is installed, could tell."""
    config = LlamaConfig(rope_parameters={"rope_theta": 10000.0, "original_max_position_embeddings": 128, **rope})
    with pytest.raises(ModelError, match=f"llama has no {said}"):
        family_of(config)


def test_biases_of_attention_go_along_where_llamacpp_has_them(tmp_path):
    folder = family_folder("llama", tmp_path / "model", attention_bias=True)
    report = export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "f32")
    assert report["difference"]["kl"] < 1e-8
    assert report["llama.cpp"]["greedy"] == 3
    with pytest.raises(ModelError, match="qwen3 has no biases in attention"):
        family_of(Qwen3Config(attention_bias=True))


def test_usual_figures_of_yarn_may_be_written_out():
    usual = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1, "attention_factor": 1.138629436}
    family_of(LlamaConfig(rope_parameters={"rope_theta": 1e4, "original_max_position_embeddings": 128, **usual}))


def test_unknown_tokenizers_and_families_are_named():
    with pytest.raises(ModelError, match="merges nothing"):
        vocabulary(build_tokenizer(), 300)
    odd = byte_level.__wrapped__("gpt-2")
    core = odd.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), core.pre_tokenizer])
    with pytest.raises(ModelError, match=r'cuts text by \{"type": "Punctuation"'):
        vocabulary(odd, 500)
    with pytest.raises(ModelError) as caught:
        family_of(SimpleNamespace(model_type="phi3"))
    assert "gemma3_text, llama, mistral, qwen2, qwen3" in str(caught.value)


def test_kinds_that_need_the_quantizer(tmp_path, monkeypatch):
    folder = family_folder("llama", tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(BurnishError, match="llama-quantize, which is not installed"):
        export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "q4_k_m")
    with pytest.raises(BurnishError, match="unknown kind of numbers 'q9'"):
        export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "q9")
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && exec /bin/cp "$1" "$2"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "q4_k_m")
    assert sorted(os.listdir(tmp_path / "out")) == ["Modelfile", "README.md", "burnish_export.json", "out-q4_k_m.gguf"]


def test_a_wrong_layout_is_found_out(tmp_path, monkeypatch):
    """Without the change of places, transformers' reader and llama.cpp both compute nonsense."""
    folder = family_folder("llama", tmp_path / "model")
    monkeypatch.setattr("burnish.export.gguf_file.in_their_layout", lambda name, tensor, config, family: tensor)
    with pytest.raises(ModelError, match="does not answer as the run does"):
        export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "f32")
    monkeypatch.setattr(gguf_job, "_NOT_READ", {"llama"})
    with pytest.raises(ModelError, match=r"llama\.cpp does not answer as the merged model does"):
        export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "f32")
    assert not (tmp_path / "out").exists()


def test_matrices_of_odd_widths_are_kept_in_f16(tmp_path):
    folder = family_folder("llama", tmp_path / "model", hidden_size=48, head_dim=12)
    export_gguf(Wish(str(folder)), Order(str(tmp_path / "out")), "q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(_file(tmp_path / "out")).tensors}
    assert types["blk.0.ffn_up.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert torch.tensor(gguf.dequantize(*_data(tmp_path / "out", "blk.0.ffn_up.weight"))).shape == (128, 48)


def _data(folder, name):
    tensor = next(each for each in gguf.GGUFReader(_file(folder)).tensors if each.name == name)
    return tensor.data, tensor.tensor_type
