"""A Hugging Face tokenizer as llama.cpp keeps one: tokens, merges, and by which rule text is cut before merging.

What llama.cpp calls the pre-tokenizer is found from the tokenizer's own description of how it cuts text, never from
the model's name: the same name can come with another tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType

from burnish.errors import ModelError
from burnish.export.generation import stop_ids
from burnish.export.verify import Trial
from burnish.template import ChatTemplate

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_THREES = rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"

# The steps that cut text, and whether whole words are looked up before merging → llama.cpp's name of that.
_RULES: dict[tuple[tuple[str, ...], bool], str] = {
    (("gpt2",), False): "gpt-2",
    (("digits", "gpt2"), False): "smollm",
    ((_THREES,), True): "llama-bpe",
    ((_THREES,), False): "smaug-bpe",
    ((rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_REST}",), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
}
_SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """What stands in a GGUF file of a tokenizer.

    Attributes:
        model: gpt2 (bytes that are merged) or llama (characters that are merged, as SentencePiece does).
        pre: llama.cpp's name of the way text is cut.
        scores, merges: of a llama and of a gpt2 vocabulary.
        space_prefix: whether a text begins with a space of the tokenizer's own.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float] | None = None
    merges: list[str] | None = None
    space_prefix: bool | None = None


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """Take a tokenizer apart.

    Args:
        rows: of the model's embeddings; rows without a token get a stand-in.
    Raises:
        ModelError: llama.cpp has no such tokenizer, or none whose rule is known here.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise _unknown(f"it is a {type(tokenizer).__name__}, which does not say how it works")
    written = json.loads(core.to_str())
    model = written["model"]
    if model["type"] != "BPE":
        raise _unknown(f"it is of the kind {model['type']}, and only BPE can be written")
    tokens, types = _tokens(tokenizer, model["vocab"], rows)
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the model rows for {rows}",
            at="tokenizer",
            fix="train with resize_vocab: true, which makes rows for all",
        )
    merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
    if not merges:
        raise _unknown("it merges nothing, which llama.cpp cannot load")
    if "ByteLevel" in {step["type"] for step in _flat(written["pre_tokenizer"], "pretokenizers")}:
        return Vocabulary("gpt2", _rule(written), tokens, types, merges=merges)
    if not model.get("byte_fallback"):
        raise _unknown("it is neither byte-level nor does it fall back to bytes")
    prefix = core.encode("a", add_special_tokens=False).tokens[0].startswith(_SPACE)
    scores = _scores(tokens, merges)
    return Vocabulary("llama", "default", tokens, types, scores=scores, space_prefix=prefix)


def _tokens(tokenizer: Any, vocab: dict[str, int], rows: int) -> tuple[list[str], list[TokenType]]:
    added = tokenizer.added_tokens_decoder
    named = {number: token for token, number in vocab.items()} | {n: token.content for n, token in added.items()}
    special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    tokens, types = [], []
    for number in range(rows):
        name = named.get(number)
        if name is None:
            kind = TokenType.UNUSED
        elif number == tokenizer.unk_token_id and number not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            kind = TokenType.UNKNOWN  # GPT-2's one special token is all three, and has to end an answer
        elif number in special:
            kind = TokenType.CONTROL
        elif number in added:
            kind = TokenType.USER_DEFINED
        elif len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            kind = TokenType.BYTE
        else:
            kind = TokenType.NORMAL
        tokens.append(f"[PAD{number}]" if name is None else name)
        types.append(kind)
    return tokens, types


def _flat(step: Any, parts: str) -> list[dict[str, Any]]:
    """The steps of a chain, which may be one, none or several."""
    if not step:
        return []
    return [each for one in step[parts] for each in _flat(one, parts)] if step["type"] == "Sequence" else [step]


def _rule(written: dict[str, Any]) -> str:
    """llama.cpp's name of the way a byte-level tokenizer cuts text. Raises ModelError, with what was found."""
    normalizers = [step["type"] for step in _flat(written["normalizer"], "normalizers")]
    if set(normalizers) - {"NFC"}:
        raise _unknown(f"it changes text before cutting it: {', '.join(normalizers)}")
    steps = tuple(_steps(_flat(written["pre_tokenizer"], "pretokenizers")))
    words_first = bool(written["model"].get("ignore_merges"))
    name = _RULES.get((steps, words_first))
    if name is None:
        raise _unknown(f"it cuts text by {' then '.join(steps)}" + (", whole words first" if words_first else ""))
    return name


def _steps(parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    for part in parts:
        kind = part["type"]
        if kind == "ByteLevel" and not part["add_prefix_space"]:
            if part["use_regex"]:
                yield "gpt2"
        elif kind == "Digits" and part["individual_digits"]:
            yield "digits"
        elif kind == "Split" and "Regex" in part["pattern"] and (part["behavior"] == "Isolated" or part["invert"]):
            yield part["pattern"]["Regex"]
        else:
            yield json.dumps(part, ensure_ascii=False)


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """SentencePiece merges the pair whose whole has the highest score: the earlier a merge, the higher."""
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(first.get(token, 0)) for token in tokens]


def write_tokenizer(writer: GGUFWriter, words: Vocabulary, tokenizer: Any, template: ChatTemplate | None) -> list[int]:
    """Put a tokenizer and its template into a file; returns stop tokens for which the format has no place.

    A text gets a beginning token where the rendered training texts have one, so that it has just one.
    """
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
    if words.merges is not None:
        writer.add_token_merges(words.merges)
    if words.space_prefix is not None:
        writer.add_add_space_prefix(words.space_prefix)
    stops = stop_ids(template) if template else [n for n in (tokenizer.eos_token_id,) if n is not None]
    places = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for place, number in zip(places, stops if len(stops) > 1 else [*stops, *stops], strict=False):
        place(number)
    for name in ("bos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(puts_bos_first(tokenizer, template))
    writer.add_add_eos_token(False)
    if template is not None:
        writer.add_chat_template(template.saved_source)
    return stops[len(places) :]


def puts_bos_first(tokenizer: Any, template: ChatTemplate | None) -> bool:
    """Whether programs that load the file put the beginning token before a prompt by themselves.

    They do where the tokenizer does, and the rendered conversations have it: programs then take care that it stands
    there once. Where training texts have none, none is put there.
    """
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a")["input_ids"][:1] != [bos]:
        return False
    return template is None or Trial(tokenizer, template).prompts[0][0] == bos


def _unknown(found: str) -> ModelError:
    return ModelError(
        f"llama.cpp's name for this tokenizer is not known: {found}",
        at="tokenizer.json",
        fix="use --format hf; llama.cpp's own converter may know the model",
    )
