"""A reward model's scores of whole datasets: of both answers of each pair, or of each conversation's last answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish import log
from burnish.batch.chunks import DROPPED_NOT_RENDERED, where
from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Sample, Turn
from burnish.errors import DataError
from burnish.evaluate.predict import as_said, tell_kept, tell_skipped, write_results
from burnish.evaluate.prediction_files import PredictionFiles
from burnish.evaluate.predictions_page import PageRow
from burnish.generate.reward import RewardModel
from burnish.runs.figures import share_in_order, wilson_interval
from burnish.template import ChatTemplate
from burnish.template.render import CannotRender

TOO_LONG = "it does not fit the model's context"
NO_ANSWER = "it has no answer to score"
KINDS = {
    "equal": "pairs in the right order",
    "other": "pairs in the wrong order",
    "alone": "scores",
    "skipped": "not scored",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One row to score: a pair has two answers, the better one first, everything else one.

    `texts` are the answers, `ids` what is scored of each: the tokens up to its stop token. `desirable`: its mark,
    where it has one. `skipped` says why it cannot be scored; `place` is its number over all datasets.
    """

    place: int
    dataset: str
    row: int
    prompt: str | None = None
    texts: tuple[str, ...] = ()
    ids: tuple[tuple[int, ...], ...] = ()
    desirable: bool | None = None
    skipped: str | None = None

    @property
    def tokens(self) -> int:
        """Of all its answers with their prompts."""
        return sum(map(len, self.ids))

    def line(self, scores: Sequence[float] | None) -> dict[str, Any]:
        """Its line in the file. Without scores it says why there are none."""
        line: dict[str, Any] = {"index": self.place, "dataset": self.dataset, "row": self.row, "prompt": self.prompt}
        line |= dict(zip(("chosen", "rejected") if len(self.texts) == 2 else ("answer",), self.texts, strict=False))
        line |= {} if self.desirable is None else {"desirable": self.desirable}
        if scores is None:
            return line | {"score": None, "skipped": self.skipped}
        if len(scores) == 1:
            return line | {"score": scores[0], "tokens": self.tokens}
        chosen, rejected = scores
        values = {"chosen_score": chosen, "rejected_score": rejected, "margin": chosen - rejected}
        return line | values | {"tokens": self.tokens}


def make_judged(samples: Iterable[Sample], model: RewardModel) -> list[Judged]:
    """Render every row's answers as training and serving do.

    Raises:
        DataError: a row is plain text.
    """
    return [_judged(place, sample, model) for place, sample in enumerate(samples)]


def _judged(place: int, sample: Sample, model: RewardModel) -> Judged:
    record, bare = sample.record, Judged(place, sample.dataset, sample.row)
    desirable = record.desirable if isinstance(record, Feedback) else None
    record = record.conversation if isinstance(record, Feedback) else record
    if isinstance(record, Document):
        raise DataError(
            "plain text holds no answer, so there is nothing to score",
            at=where(sample),
            fix="give pairs of answers, or conversations",
        )
    answers: tuple[tuple[Turn, ...], ...]
    if isinstance(record, Preference):
        question, answers = record.prompt, (record.chosen, record.rejected)
    elif isinstance(record, Prompt) or not record.turns or record.turns[-1].role != "assistant":
        return replace(bare, skipped=NO_ANSWER)
    else:
        question, answers = replace(record, turns=record.turns[:-1]), ((record.turns[-1],),)
    try:
        ids = tuple(tuple(model.ids(replace(question, turns=(*question.turns, *answer)))) for answer in answers)
        prompt = model.template.text(question, generate=True)
        texts = tuple(_text(model.template, question, answer) for answer in answers)
    except CannotRender:
        return replace(bare, skipped=DROPPED_NOT_RENDERED)
    skipped = TOO_LONG if model.window and max(map(len, ids)) > model.window else None
    return replace(bare, prompt=prompt, texts=texts, ids=ids, desirable=desirable, skipped=skipped)


def _text(template: ChatTemplate, question: Conversation, answer: Sequence[Turn]) -> str:
    if len(answer) == 1:
        return as_said(template, question, answer[0])
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in answer)


def predict_scores(
    model: RewardModel,
    samples: Iterable[Sample],
    folder: Path,
    *,
    about: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    batch_size: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score every sample; write predictions.jsonl line by line and predict.json at the end.

    Which rows share a forward pass follows from the data and `batch_size` alone, so that a call that goes on after a
    killed one writes the very same numbers.

    Args:
        about: goes into predict.json as it is.
        fingerprints: what decides the scores, as in `predict`; `batch_size` should be a part of it.
        batch_size: rows in one forward pass; a pair is one row.
    Returns:
        What predict.json holds.
    Raises:
        RunFolderError: the folder holds predictions of another model, other data or other settings.
        DataError: there is no row, or one is plain text.
    """
    rows = make_judged(samples, model)
    if not rows:
        raise DataError("there is no row to score", at="eval_dataset", fix="look at the data: burnish data stats")
    with PredictionFiles.open(folder, fingerprints, overwrite=overwrite) as files:
        tell_kept(len(files.done), len(rows), "scored")
        tell_skipped(rows, model.window or 0, TOO_LONG)
        started, before = time.perf_counter(), files.seconds
        _score(model, rows, files, batch_size)
        results = {**about, **_results(files.lines(), before + time.perf_counter() - started)}
        write_results(files, results, figures_of(results), _page_row, f"Scores of {results['model']}", KINDS)
    return results


def _score(model: RewardModel, rows: Sequence[Judged], files: PredictionFiles, batch_size: int) -> None:
    for row in rows:
        if row.skipped and row.place not in files.done:
            files.add(row.line(None))
    asked = sorted((row for row in rows if not row.skipped), key=lambda row: -max(map(len, row.ids)))
    with log.progress("scoring", len(rows), done=len(files.done)) as bar:
        for start in range(0, len(asked), batch_size):
            part = asked[start : start + batch_size]
            if all(row.place in files.done for row in part):
                continue
            scores = iter(model.score_ids([ids for row in part for ids in row.ids]))
            for row in part:
                own = [next(scores) for _ in row.ids]
                if row.place not in files.done:
                    files.add(row.line(own))
                    bar.advance(1)


def _results(lines: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    scored = [line for line in lines if "skipped" not in line]
    tokens = sum(line["tokens"] for line in scored)
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    parts = {name: score_figures([line for line in scored if line["dataset"] == name]) for name in datasets}
    return {
        "rows": len(lines),
        "scored": len(scored),
        "skipped": dict(Counter(line["skipped"] for line in lines if "skipped" in line)),
        "tokens": tokens,
        "runtime_s": round(seconds, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 2),
        "metrics": score_figures(scored),
        **({"by_dataset": parts} if len(parts) > 1 else {}),
    }


def score_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a set of scored lines amounts to.

    Returns:
        pairs: how many. right: pairs whose chosen answer has the higher score; a tie is wrong. accuracy: their share,
        accuracy_interval its 95% Wilson interval, both 0 to 100. mean_chosen_score, mean_rejected_score, mean_margin.
        scores: single ones, mean_score and score_std theirs; mean_desirable_score, mean_undesirable_score where they
        are marked, and marks_in_order, 0 to 100: over all pairs of a desirable and an undesirable answer the share in
        the right order, a tie being half of one. What has no lines is left out.
    """
    pairs = [line for line in lines if "margin" in line]
    single = [line for line in lines if "score" in line]
    found: dict[str, Any] = {"pairs": len(pairs)}
    if pairs:
        right = sum(line["margin"] > 0 for line in pairs)
        low, high = wilson_interval(right, len(pairs))
        found |= {
            "right": right,
            "accuracy": round(100 * right / len(pairs), 4),
            "accuracy_interval": [round(100 * low, 4), round(100 * high, 4)],
            "mean_chosen_score": _mean([line["chosen_score"] for line in pairs]),
            "mean_rejected_score": _mean([line["rejected_score"] for line in pairs]),
            "mean_margin": _mean([line["margin"] for line in pairs]),
        }
    if single:
        scores = [line["score"] for line in single]
        mean = _mean(scores)
        spread = math.sqrt(sum((score - mean) ** 2 for score in scores) / max(len(scores) - 1, 1))
        found |= {"scores": len(scores), "mean_score": mean, "score_std": spread}
        liked, others = ([line["score"] for line in single if line.get("desirable") is mark] for mark in (True, False))
        found |= {"mean_desirable_score": _mean(liked)} if liked else {}
        found |= {"mean_undesirable_score": _mean(others)} if others else {}
        share = share_in_order(liked, others)
        found |= {} if share is None else {"marks_in_order": round(100 * share, 4)}
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def figures_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of predict.json in words, for a table."""
    found = [("rows scored", f"{results['scored']:,} of {results['rows']:,}")]
    found += [(f"  not scored: {reason}", f"{count:,}") for reason, count in results["skipped"].items()]
    found.append(("read", f"{results['tokens']:,} tokens, {results['tokens_per_second']:,.1f} tokens/s"))
    found += _metric_figures(results["metrics"], "")
    for name, metrics in results.get("by_dataset", {}).items():
        found += _metric_figures(metrics, f"{name}: ")
    return found


def _metric_figures(metrics: Mapping[str, Any], before: str) -> list[tuple[str, str]]:
    found = []
    if metrics["pairs"]:
        low, high = metrics["accuracy_interval"]
        hits = f"{metrics['right']} of {metrics['pairs']}"
        found += [
            (
                f"{before}pairs in the right order",
                f"{metrics['accuracy']:.2f}%  ({hits}; 95%: {low:.1f} to {high:.1f})",
            ),
            (f"{before}mean margin", f"{metrics['mean_margin']:.4f}"),
        ]
    for key, words in (
        ("mean_score", "mean score"),
        ("score_std", "deviation of the scores"),
        ("mean_desirable_score", "mean score of desirable answers"),
        ("mean_undesirable_score", "mean score of undesirable answers"),
    ):
        if key in metrics:
            found.append((f"{before}{words}", f"{metrics[key]:.4f}"))
    if "marks_in_order" in metrics:
        found.append((f"{before}desirable above undesirable", f"{metrics['marks_in_order']:.2f}% of all such pairs"))
    return found


def _page_row(line: Mapping[str, Any]) -> PageRow:
    head = f"{line['dataset']}, row {line['row']} · "
    prompt = line["prompt"] or ""
    if "skipped" in line:
        texts = [line[key] for key in ("chosen", "rejected", "answer") if key in line]
        return PageRow("skipped", head + line["skipped"], prompt, ("answer", "\n\n".join(texts) or "–"), ("score", "–"))
    if "margin" not in line:
        return PageRow(
            "alone",
            f"{head}{line['tokens']} tokens",
            prompt,
            ("answer", line["answer"]),
            ("score", f"{line['score']:.4f}"),
        )
    return PageRow(
        "equal" if line["margin"] > 0 else "other",
        f"{head}margin {line['margin']:.4f}",
        prompt,
        (f"chosen: {line['chosen_score']:.4f}", line["chosen"]),
        (f"rejected: {line['rejected_score']:.4f}", line["rejected"]),
    )
