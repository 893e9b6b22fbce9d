"""How near predicted texts come to reference texts: BLEU, chrF, ROUGE and exact match, in percent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from burnish.data.language import guess_language
from burnish.errors import MissingExtraError
from burnish.generate.thought import split_thought
from burnish.runs.figures import wilson_interval

# Kana, han, hangul, Thai, Lao, Burmese and Khmer, all but hangul without spaces: each character is a token.
_ALONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_TOKEN = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_BLEU_TOKENIZER = {"zh": "zh", "ja": "char", "ko": "char"}
ROUGE = ("rouge1", "rouge2", "rougeL")


class RougeTokenizer:
    """Words in lower case; in scripts that put no spaces between words, single characters."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, punctuation left out."""
        return _TOKEN.findall(text.lower())


def bleu_tokenizer(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for the language that most references are in: zh for Chinese, char for Japanese and Korean,
    else 13a, which mteval uses."""
    languages = Counter(guess_language(text) for text in references)
    language, count = languages.most_common(1)[0] if languages else ("other", 0)
    return _BLEU_TOKENIZER.get(language, "13a") if 2 * count > len(references) else "13a"


def text_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Compare predictions with their references.

    Thoughts (`<think> … </think>`) are left out of both, and spaces around them.

    Returns:
        pairs: how many were compared; 0 has no other figure. bleu: corpus BLEU of up to 4 tokens, smoothed where a
        count is 0; None where no prediction has 4 tokens, so that it has no value. chrf: corpus chrF2. rouge1, rouge2,
        rougeL: mean F1 over the pairs. exact_match: share of equal texts, exact_match_interval its 95% Wilson interval.
        All 0 to 100. bleu_tokenizer: how BLEU cut the texts.
    Raises:
        MissingExtraError: sacrebleu or rouge-score is not installed.
    Source: BLEU, Papineni et al., ACL 2002, smoothing "exp" of Chen and Cherry, 2014, as in sacrebleu (Post,
        arXiv:1804.08771); chrF, Popovic, WMT 2015; ROUGE, Lin, 2004.
    """
    if not references:
        return {"pairs": 0}
    try:
        import sacrebleu
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("comparing texts", packages=["sacrebleu", "rouge-score"]) from error
    said, wanted = without_thoughts(predictions), without_thoughts(references)
    tokenizer = bleu_tokenizer(wanted)
    scorer = RougeScorer(list(ROUGE), tokenizer=RougeTokenizer())
    found = [scorer.score(right, guess) for guess, right in zip(said, wanted, strict=True)]
    bleu = sacrebleu.corpus_bleu(said, [wanted], tokenize=tokenizer)
    hits = sum(guess == right for guess, right in zip(said, wanted, strict=True))
    low, high = wilson_interval(hits, len(wanted))
    return {
        "pairs": len(wanted),
        "bleu": round(bleu.score, 4) if bleu.totals[-1] else None,
        "bleu_tokenizer": tokenizer,
        "chrf": round(sacrebleu.corpus_chrf(said, [wanted]).score, 4),
        **{name: round(100 * sum(each[name].fmeasure for each in found) / len(found), 4) for name in ROUGE},
        "exact_match": round(100 * hits / len(wanted), 4),
        "exact_match_interval": [round(100 * low, 4), round(100 * high, 4)],
        "exact_matches": hits,
    }


def similarities(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[bool, float]]:
    """Of each pair whether the texts are equal, and how alike they are: ROUGE-L's F1, 0 to 1; 1 for equal texts.

    Thoughts and spaces around are left out, as in `text_scores`.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=RougeTokenizer())
    pairs = zip(without_thoughts(predictions), without_thoughts(references), strict=True)
    return [
        (said == wanted, 1.0 if said == wanted else scorer.score(wanted, said)["rougeL"].fmeasure)
        for said, wanted in pairs
    ]


def without_thoughts(texts: Sequence[str]) -> list[str]:
    """What is said, without the thought before it; a prediction may lack the tag that opens, which the prompt had."""
    return [split_thought(text, "</think>" in text and "<think>" not in text)[1].strip() for text in texts]
