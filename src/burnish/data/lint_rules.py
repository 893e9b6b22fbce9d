"""The rules of lint that need no more than one record: each says what is wrong and shows where, or gives None."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from burnish.data.mojibake import find_garbled
from burnish.data.views import View, said, words


class Rule(NamedTuple):
    """`level` is error (the row does harm), warning (look at it) or hint (know it). `about` explains in a line."""

    level: str
    about: str


LEVELS = ("error", "warning", "hint")
RULES: dict[str, Rule] = {
    "bad-row": Rule("error", "the row cannot be read as a record"),
    "empty-answer": Rule("error", "there is no text to learn from"),
    "wrong-role": Rule("error", "a role is unknown or stands in the wrong place"),
    "control-token": Rule("error", "a chat template's control token stands in the text"),
    "mojibake": Rule("error", "text was decoded with the wrong character set"),
    "duplicate": Rule("error", "the same prompt with the same answer stands there twice"),
    "contradiction": Rule("error", "the same answer is called both good and bad"),
    "overlap": Rule("error", "a prompt of the training data is in the evaluation data too"),
    "unfinished": Rule("warning", "a long answer stops in mid-sentence"),
    "other-turn": Rule("warning", "an answer goes on with a turn of the user"),
    "placeholder": Rule("warning", "a placeholder stands where text should be"),
    "near-duplicate": Rule("warning", "a row says nearly the same as an earlier one"),
    "same-opening": Rule("warning", "many prompts begin alike"),
    "length": Rule("warning", "an answer is far longer than the others"),
    "pair-length": Rule("warning", "chosen answers are mostly longer than rejected ones, or shorter"),
    "same-prompt": Rule("hint", "the same prompt has different answers"),
    "refusal": Rule("hint", "the answer refuses, or speaks of being a language model"),
}
Found = tuple[str, str]
"""What is wrong, and an excerpt."""

_CONTROL = re.compile(
    r"<\|[A-Za-z][A-Za-z0-9_]{1,30}\|>|<｜[^｜<>\n]{1,30}｜>"  # ChatML, Llama 3, GLM, Phi, Harmony; DeepSeek
    r"|\[INST\]|\[/INST\]|<<SYS>>|<</SYS>>|\[AVAILABLE_TOOLS\]|\[TOOL_CALLS\]|\[TOOL_RESULTS\]"  # Llama 2, Mistral
    r"|<start_of_turn>|<end_of_turn>|<end_of_utterance>|\[gMASK\]|\[BOS\]|\[EOS\]"  # Gemma, SmolVLM, GLM
    r"|<bos>|<eos>|<eod>|<eoh>|<eoa>|<pad>|</s>\s*<s>"
)
_PLACEHOLDERS = frozenset(
    ("none", "null", "nan", "n/a", "na", "todo", "tbd", "undefined", "...", "…", "-", "?", "<nooutput>", "<no output>")
)
_NO_INPUT = re.compile(r"<\s*no\s*(?:input|output)\s*>", re.IGNORECASE)
_OTHER_TURN = re.compile(
    r"\n\s*(?:#{2,3} *(?:Instruction|Human|User|Input|Question)\b|(?:Human|USER|User|用户|人类) *[:：])"
)
_WANTS_DIALOGUE = re.compile(
    r"dialog|conversation|script|chat|interview|transcript|prompt|template|对话|聊天|剧本|访谈|模板", re.IGNORECASE
)
_NOT = r"(?:\bnot\b|n't\b|n’t\b|\bcannot\b|\bunable\b|\bno\b|\black)"
_REFUSALS = re.compile(
    rf"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.!?]{{0,60}}?{_NOT}"
    rf"|\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b[^.!?]{{0,60}}?{_NOT}"
    r"|\bsorry,? (?:but )?(?:i|we) (?:can'?t|can’t|cannot|am unable|am not able|do not|don't)\b"
    r"|\bsorry,? (?:but )?i(?:'|’)m (?:unable|not able)\b"
    r"|\Ai (?:can'?t|can’t|cannot|am unable to|am not able to) (?:assist|help|fulfill|comply|provide|answer|do)\b"
    r"|(?:我是一[个名款]|作为一[个名款]|作为)(?:人工智能|AI|语言模型|虚拟助手)[^。！？]{0,40}?(?:无法|不能|没有|并不|不会|不具备)"
    r"|(?:抱歉|对不起|很遗憾)[，,]?(?:但是?)?我(?:无法|不能|没有办法|没办法)",
    re.IGNORECASE,
)
_MAY_REFUSE = re.compile(r"[Aa]n? (?:AI|ai|art|lan|lar)|[Ss]orry|I c|I am|人工智能|AI|语言模型|虚拟助手|我")


def _control_token(seen: View) -> Found | None:
    for text in _texts(seen):
        if "<" not in text and "[" not in text:
            continue
        match = _CONTROL.search(text)
        if match:
            return f"'{match[0]}' is written in the text", around(text, match.start(), match.end())
        if text.lstrip().startswith("<s>"):  # elsewhere <s> and </s> are HTML for text that is struck through
            return "the text begins with '<s>'", around(text)
        if text.rstrip().endswith("</s>") and text.count("<s>") < text.count("</s>"):
            return "the text ends with '</s>'", around(text, len(text))
    return None


def _mojibake(seen: View) -> Found | None:
    for text in _texts(seen):
        found = find_garbled(text)
        if found:
            excerpt = around(text, found.start, found.start + len(found.found))
            shown = found.found[:12]
            if found.meant is None:
                return f"'{shown}' stands for characters that are lost", excerpt
            return f"'{shown}' should be '{found.meant[:12]}'", excerpt
    return None


def _contradiction(seen: View) -> Found | None:
    chosen = said(seen.answer)
    if seen.kind == "preference" and chosen.strip() == said(seen.rejected).strip():
        return "chosen and rejected are the same", around(chosen)
    return None


def _unfinished(seen: View) -> Found | None:
    if seen.kind == "document" or not seen.answer or seen.answer[-1].tool_calls:
        return None
    text = seen.answer[-1].content.rstrip()
    why = why_unfinished(text)
    return (why, around(text, len(text))) if why else None


_WIDE = re.compile(r"[\u3041-\u30ff\u3400-\u9fff]")
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？；…]")
_LIST_MARK = re.compile(r"\s*(?:[-*•·●◦►▪–—|#>+]|\(?[0-9a-zA-Z一二三四五六七八九十]{1,3}[.)、:：．）])")
_CODE = re.compile(
    r"[{};=<>\\]|\w\(|\b(?:def|import|return|SELECT|FROM|const|let|var)\b|https?:|www\.|\S@\S|\.\w{2,4}\Z"
)
_LONG, _LONG_WIDE = 200, 80


def why_unfinished(text: str) -> str | None:
    """Why an answer looks cut off: it is long prose and its last character is a letter, a comma or a colon.

    Not looked at are short answers, verse, short list items, code, links, numbers, signatures.
    """
    text = text.rstrip()
    if text.count("```") % 2 and text[-1] not in ".!?。！？`":
        return "a code block is opened and never closed"
    text = text.rpartition("```")[2]  # what follows the last code block
    wide = bool(_WIDE.search(text[-12:]))
    if len(text) < (_LONG_WIDE if wide else _LONG) or not (text[-1].isalpha() or text[-1] in ",，、:："):
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    last = lines[-1]
    if _CODE.search(last) or last.split()[-1][0] in "#@":
        return None
    if _LIST_MARK.match(last):
        if text[-1].isalpha() and (len(last) < (40 if wide else 100) or not _SENTENCE_END.search(last[4:])):
            return None
    elif len(lines) > 1 and (len(last) < (15 if wide else 40) or len(text) / len(lines) < (25 if wide else 70)):
        return None  # a signature, a heading, or verse
    if len(_SENTENCE_END.findall(text)) < 2:
        return None  # key words, not sentences
    return f"the answer ends with '{text[-1]}', in mid-sentence"


def _other_turn(seen: View) -> Found | None:
    text = seen.last_answer
    match = _OTHER_TURN.search(text) if seen.kind != "document" else None
    if match is None or _WANTS_DIALOGUE.search(seen.prompt_text):
        return None
    return f"'{match[0].strip()}' begins a turn of the user inside the answer", around(text, match.start(), match.end())


def _placeholder(seen: View) -> Found | None:
    if seen.kind == "document":
        return None
    for turns in (seen.answer, seen.rejected):
        text = said(turns).strip()
        if turns and text.lower() in _PLACEHOLDERS:
            return f"the answer is '{text}'", around(seen.asked)
    for turn in seen.turns:
        match = _NO_INPUT.search(turn.content)
        if match:
            return f"'{match[0]}' stands in the text", around(turn.content, match.start(), match.end())
    return None


def _refusal(seen: View) -> Found | None:
    text = "" if seen.kind == "document" else seen.last_answer[:200]
    match = _REFUSALS.search(text) if _MAY_REFUSE.search(text) else None
    return ("the answer refuses, or speaks of being a language model", around(text, match.start())) if match else None


ROW_RULES: dict[str, Callable[[View], Found | None]] = {
    "control-token": _control_token,
    "mojibake": _mojibake,
    "contradiction": _contradiction,
    "unfinished": _unfinished,
    "other-turn": _other_turn,
    "placeholder": _placeholder,
    "refusal": _refusal,
}
BAD_ROWS = {
    "empty answer": "empty-answer",
    "empty text": "empty-answer",
    "no answer": "empty-answer",
    "unknown role": "wrong-role",
    "message has no role": "wrong-role",
    "system turn is not the first": "wrong-role",
    "first turn is the assistant's": "wrong-role",
    "two assistant turns in a row": "wrong-role",
    "tool result without a call": "wrong-role",
    "last turn has no answer": "wrong-role",
    "prompt ends with an answer": "wrong-role",
}
"""Reason of the loader → rule; others are `bad-row`."""


def _texts(seen: View) -> list[str]:
    if seen.kind == "document":
        return [seen.text]
    return [words(turn) for turn in seen.turns + seen.rejected]


def around(text: str, start: int = 0, end: int | None = None, width: int = 64) -> str:
    """A short piece of a text around a place, in one line."""
    end = start if end is None else end
    first = max(0, min(start - (width - min(end - start, width)) // 2, len(text) - width))
    piece = text[first : first + width]
    shown = " ".join(piece.replace("\n", "⏎").split())
    return ("…" if first else "") + shown + ("…" if first + width < len(text) else "")
