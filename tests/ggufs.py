"""Tiny models and tokenizers of the families that are written as GGUF, built from configs and a few sentences."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tests.conftest import CHATML

SENTENCES = (
    "The Danube is the longest river of the three, and the Rhine is known for its castles.",
    "What is 17 * 23? That is 391. And minus 100? 291, in one short sentence.",
    "Ein Wort für Wasser auf Deutsch, naïve café; print('it doesn't matter') 2850 km\n\n  indented   words",
) * 3
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {
    "llama-bpe": rf"{_ENDINGS}|\p{{N}}{{1,3}}|{_REST}",
    "smaug-bpe": rf"{_ENDINGS}|\p{{N}}{{1,3}}|{_REST}",
    "qwen2": rf"{_ENDINGS}|\p{{N}}|{_REST}",
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def _wrapped(core: Any, **names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    wanted = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **names}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **wanted)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


@lru_cache(maxsize=16)
def byte_level(pre: str) -> Any:
    """A byte-level BPE tokenizer that cuts text as llama.cpp's `pre` does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    first = pre in ("llama-bpe", "tekken")
    core = Tokenizer(models.BPE(ignore_merges=first))
    alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), alone])
    elif pre in CUTS:
        cut = pre_tokenizers.Split(Regex(CUTS[pre]), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.pre_tokenizer = pre_tokenizers.Sequence([cut, last])
    else:
        core.pre_tokenizer = alone
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    return _wrapped(core)


@lru_cache(maxsize=4)
def sentence_pieces(prefix: bool) -> Any:
    """A BPE tokenizer as those that come from SentencePiece: characters, bytes for what it does not know, all merges.

    Args:
        prefix: whether a text begins with a space of the tokenizer's own.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=240, show_progress=False))
    learnt = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    pieces = ["<unk>", "<s>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in learnt
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    blanks = normalizers.Replace(" ", "▁")
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks]) if prefix else blanks
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer = _wrapped(core, bos_token="<s>", unk_token="<unk>")
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    return tokenizer


def family_folder(kind: str, folder: Path, **changes: Any) -> Path:
    """A tiny model of a family, with large weights so that differences show, and a tokenizer as it has one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    pieces = kind in ("mistral", "gemma", "gemma2", "gemma3_text")
    tokenizer = (
        sentence_pieces(kind == "mistral") if pieces else byte_level("llama-bpe" if kind == "llama" else "qwen2")
    )
    values = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32 if kind in ("qwen3", "gemma", "gemma2", "gemma3_text") else 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **({"query_pre_attn_scalar": 32, "sliding_window": 32} if kind in ("gemma2", "gemma3_text") else {}),
        **({"sliding_window": None} if kind == "mistral" else {}),
        **changes,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases that do something
                weight.add_(torch.randn(weight.shape) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
