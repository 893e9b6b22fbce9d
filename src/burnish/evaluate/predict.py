"""Answers to whole datasets: a prompt for each row, predictions in a file that can be gone on with, and figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from burnish import log
from burnish.batch.chunks import DROPPED_NOT_RENDERED, where
from burnish.data.export import openai_messages
from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Record, Sample, Turn
from burnish.errors import DataError
from burnish.evaluate.prediction_files import PAGE, PREDICTIONS, RESULTS, PredictionFiles
from burnish.evaluate.predictions_page import KINDS, PageRow, answer_row, write_predictions_page
from burnish.evaluate.text_metrics import ROUGE, text_scores
from burnish.generate.chat import ChatModel
from burnish.generate.engine import Engine
from burnish.generate.request import Request
from burnish.runs.tables import table
from burnish.template import ChatTemplate
from burnish.template.render import CannotRender

TOO_LONG = "the prompt does not fit the model's context"
_NAMED = 5
_SEEDS_APART = 1_000_003


class Skippable(Protocol):
    """A row of data, and why it is left out, where it is."""

    @property
    def dataset(self) -> str: ...
    @property
    def row(self) -> int: ...
    @property
    def skipped(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One row to predict. `skipped` says why it cannot be; `place` is its number over all datasets.

    `messages`: the question without template, in OpenAI's form.
    """

    place: int
    dataset: str
    row: int
    prompt: str | None
    ids: tuple[int, ...]
    reference: str | None
    skipped: str | None = None
    messages: tuple[dict[str, Any], ...] = ()

    def line(self) -> dict[str, Any]:
        """What its line in the file begins with."""
        begins = {"index": self.place, "dataset": self.dataset, "row": self.row, "prompt": self.prompt}
        return begins | {"messages": list(self.messages)}


def question_of(record: Record, sample: Sample) -> tuple[Conversation, Turn | None]:
    """What the model is asked, and the answer that the data has: the last one of a conversation, the chosen one of a
    pair, one that was liked.

    Raises:
        DataError: plain text asks nothing.
    """
    if isinstance(record, Document):
        raise DataError(
            "plain text asks nothing, so there is nothing to predict",
            at=where(sample),
            fix="give conversations, or measure its loss: burnish data loss",
        )
    if isinstance(record, Preference):
        return record.prompt, record.chosen[0]
    if isinstance(record, Prompt):
        return record.prompt, None
    if isinstance(record, Feedback):
        question, answer = question_of(record.conversation, sample)
        return question, answer if record.desirable else None
    if record.turns and record.turns[-1].role == "assistant":
        return replace(record, turns=record.turns[:-1]), record.turns[-1]
    return record, None


def make_items(samples: Iterable[Sample], template: ChatTemplate, room: int) -> list[Item]:
    """Render every row as inference sees it.

    Args:
        room: tokens that prompt and answer may have together; a prompt must leave room for one.
    """
    items = []
    for place, sample in enumerate(samples):
        question, answer = question_of(sample.record, sample)
        named = (place, sample.dataset, sample.row)
        asked = tuple(openai_messages(question.turns))
        try:
            ids = tuple(template.prompt_ids(question))
            text = template.text(question, generate=True)
            reference = None if answer is None else as_said(template, question, answer)
        except CannotRender:
            items.append(Item(*named, None, (), None, DROPPED_NOT_RENDERED, asked))
            continue
        skipped = TOO_LONG if len(ids) >= room else None
        items.append(Item(*named, text, ids, reference, skipped, asked))
    return items


def as_said(template: ChatTemplate, question: Conversation, answer: Turn) -> str:
    """An answer as the model would write it: with its thought and its tool calls in the template's way."""
    if not answer.tool_calls and answer.reasoning is None:
        return answer.content
    ids = answer_ids(template, question, answer)
    return template.decode([token for token in ids if token not in template.stop_ids]).strip()


def answer_ids(template: ChatTemplate, question: Conversation, answer: Turn) -> Sequence[int]:
    """The ids of an answer as training sees them, its stop token with it."""
    [row] = template.rows(replace(question, turns=(*question.turns, answer)), last_only=True)
    return next(piece.ids for piece in reversed(row) if piece.kind == "answer")


def predict(
    model: ChatModel,
    samples: Iterable[Sample],
    folder: Path,
    *,
    about: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    batch_size: int,
    seed: int,
    overwrite: bool = False,
    renew: bool = False,
) -> dict[str, Any]:
    """Answer every sample; write predictions.jsonl line by line and predict.json at the end.

    A row's answer depends on the seed and its number, never on the batch, so that rows of an earlier call that was
    killed are kept and the others done.

    Args:
        about: goes into predict.json as it is.
        fingerprints: what decides the predictions (model, data, settings) → a digest. With other ones the folder's
            predictions are not gone on with.
        batch_size: rows that run at a time.
        overwrite: replace predictions that are complete, and those of something else.
        renew: replace only those of something else.
    Returns:
        What predict.json holds.
    Raises:
        RunFolderError: the folder holds predictions of another model, other data or other settings.
    """
    pad = model.template.tokenizer.pad_token_id or 0
    engine = Engine(model.model, slots=batch_size, pad_id=pad)
    room = min(engine.window, model.sampling.max_length or engine.window)
    items = make_items(samples, model.template, room)  # before the folder is touched: the data may be of a wrong kind
    if not items:
        raise DataError("there is no row to predict", at="eval_dataset", fix="look at the data: burnish data stats")
    with PredictionFiles.open(folder, fingerprints, overwrite=overwrite, renew=renew) as files:
        left = [item for item in items if item.place not in files.done]
        tell_kept(len(items) - len(left), len(items))
        tell_skipped(items, room)
        started = time.perf_counter()
        before = files.seconds
        answer_items(model, engine, left, files.add, seed=seed, total=len(items))
        spent = before + time.perf_counter() - started
        results = {**about, **results_of(files.lines(), spent)}
        write_results(files, results, figures_of(results), answer_row, f"Predictions of {results['model']}", KINDS)
    return results


def write_results(
    files: PredictionFiles,
    results: Mapping[str, Any],
    figures: Sequence[tuple[str, str]],
    page_row: Callable[[Mapping[str, Any]], PageRow],
    title: str,
    kinds: Mapping[str, str],
) -> None:
    """Finish the files of predictions that are all made: predict.json, the page, and a table in the terminal.

    Args:
        figures: the results in words.
        page_row, title, kinds: as in `write_predictions_page`; a row of the page from a line of the file.
    """
    files.finish(results)
    write_predictions_page(files.folder / PAGE, [page_row(line) for line in files.lines()], figures, title, kinds)
    log.say(table([("figure", "value"), *figures]))
    log.say(f"Saved in {files.folder}: {PREDICTIONS}, {RESULTS}, {PAGE}")


def figures_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of predict.json in words, for a table."""
    rows = f"{results['predicted']:,} of {results['rows']:,}"
    found = [("rows predicted", rows)]
    found += [(f"  not predicted: {reason}", f"{count:,}") for reason, count in results["skipped"].items()]
    if results["without_reference"]:
        found.append(("  without a reference", f"{results['without_reference']:,}"))
    cut = results["finish_reasons"].get("length", 0)
    found.append(("cut off at max_new_tokens or the context", f"{cut:,}"))
    found.append(("answers", f"{results['tokens']:,} tokens, {results['tokens_per_second']:,.1f} tokens/s"))
    found += _metric_figures(results["metrics"], "")
    for name, metrics in results.get("by_dataset", {}).items():
        found += _metric_figures(metrics, f"{name}: ")
    return found


def _metric_figures(metrics: Mapping[str, Any], before: str) -> list[tuple[str, str]]:
    if not metrics["pairs"]:
        return []
    low, high = metrics["exact_match_interval"]
    hits = f"{metrics['exact_matches']} of {metrics['pairs']}"
    return [
        (f"{before}BLEU-4 (tokenizer {metrics['bleu_tokenizer']})", _bleu(metrics["bleu"])),
        (f"{before}chrF", f"{metrics['chrf']:.2f}"),
        *((f"{before}ROUGE-{name.removeprefix('rouge')}", f"{metrics[name]:.2f}") for name in ROUGE),
        (f"{before}exact match", f"{metrics['exact_match']:.2f}%  ({hits}; 95%: {low:.1f} to {high:.1f})"),
    ]


def _bleu(value: float | None) -> str:
    return "–  (no prediction has 4 tokens)" if value is None else f"{value:.2f}"


def tell_kept(kept: int, total: int, done: str = "predicted") -> None:
    """Say how many rows an earlier call has done already."""
    if kept == total:
        log.say(f"all {total} rows were {done} before")
    elif kept:
        log.say(f"{kept} of {total} rows were {done} before; going on with the others")


def tell_skipped(items: Sequence[Skippable], room: int, too_long: str = TOO_LONG) -> None:
    """Say how many rows are not predicted, by reason, and name the first of them.

    Args:
        room: tokens that would have fitted, where the reason is `too_long`.
    """
    skipped = [item for item in items if item.skipped]
    for reason, count in Counter(item.skipped for item in skipped).items():
        named = [f"{one.dataset} row {one.row}" for one in skipped if one.skipped == reason]
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        of = f" of {room} tokens" if reason == too_long else ""
        log.note(f"no prediction for {count} rows: {reason}{of} ({', '.join(named[:_NAMED])}{more})")


def answer_items(
    model: ChatModel,
    engine: Engine,
    left: Sequence[Item],
    add: Callable[[dict[str, Any]], None],
    *,
    seed: int,
    total: int,
    limit: Callable[[Item], int] | None = None,
) -> None:
    """Run the engine over items; each is handed to `add` as a line of predictions.jsonl when it is done.

    Args:
        total: items in all, those done before included; for the progress bar.
        limit: most new tokens of an item; None leaves it to the model's sampling.
    """
    waiting: dict[int, Item] = {}
    ids: dict[int, list[int]] = {}
    stops = frozenset(model.template.stop_ids)
    for item in sorted(left, key=lambda one: -len(one.ids)):  # the longest first, so that too little memory shows
        if item.skipped:
            add({**item.line(), "prediction": None, "reference": item.reference, "skipped": item.skipped})
            continue
        own = replace(model.sampling, seed=seed * _SEEDS_APART + item.place)
        if limit is not None:
            own = replace(own, max_new_tokens=limit(item))
        number = engine.submit(Request(item.ids, stops, own))
        waiting[number], ids[number] = item, []
    made, started = 0, time.perf_counter()
    model.model.eval()
    with log.progress("predicting", total, done=total - len(waiting)) as bar:
        while engine.busy:
            for event in engine.step():
                made += 1
                if event.ending != "stop" and event.token is not None:
                    ids[event.request].append(event.token)
                if event.ending is None:
                    continue
                item, answer = waiting[event.request], ids.pop(event.request)
                add(
                    {
                        **item.line(),
                        "prediction": model.decode(answer),
                        "reference": item.reference,
                        "finish_reason": event.ending,
                        "prompt_tokens": len(item.ids),
                        "tokens": len(answer),
                    }
                )
                speed = made / max(time.perf_counter() - started, 1e-9)
                bar.advance(1, **{"tokens/s": f"{speed:.0f}"})


def results_of(lines: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Counts and figures of the lines of predictions.jsonl, which took so many seconds."""
    predicted = [line for line in lines if line["prediction"] is not None]
    compared = [line for line in predicted if line["reference"] is not None]
    tokens = sum(line["tokens"] for line in predicted)
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    parts = {name: _scores([line for line in compared if line["dataset"] == name]) for name in datasets}
    return {
        "rows": len(lines),
        "predicted": len(predicted),
        "without_reference": len(predicted) - len(compared),
        "skipped": dict(Counter(line["skipped"] for line in lines if line["prediction"] is None)),
        "finish_reasons": dict(Counter(line["finish_reason"] for line in predicted)),
        "prompt_tokens": sum(line["prompt_tokens"] for line in predicted),
        "tokens": tokens,
        "runtime_s": round(seconds, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 2),
        "metrics": _scores(compared),
        **({"by_dataset": parts} if len(parts) > 1 else {}),
    }


def _scores(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return text_scores([line["prediction"] for line in lines], [line["reference"] for line in lines])
