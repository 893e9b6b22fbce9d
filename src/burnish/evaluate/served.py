"""Answers of a served model to whole datasets: as `predict`, but the server has weights, template and sampler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from burnish import log
from burnish.data.export import openai_message, openai_messages
from burnish.data.records import Sample
from burnish.errors import DataError
from burnish.evaluate.predict import Item, figures_of, question_of, results_of, tell_kept, tell_skipped, write_results
from burnish.evaluate.prediction_files import PredictionFiles
from burnish.evaluate.predictions_page import KINDS, answer_row
from burnish.generate.remote import RemoteModel, told

_RETRIES = 6  # after a refusal for too many requests or a fault of the server, with growing pauses
_GRACE_S = 15.0  # for answers that are under way when the others end
_REFUSED = (400, 413, 422)  # of one conversation: its length, or the server's rules; others may do


def predict_served(
    remote: RemoteModel,
    samples: Iterable[Sample],
    folder: Path,
    *,
    about: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    at_once: int,
    overwrite: bool = False,
    renew: bool = False,
) -> dict[str, Any]:
    """Ask a server for an answer to every sample; the files are those of `burnish.evaluate.predict.predict`.

    An answer is on the disk before the next one is looked at, so that an earlier call that was stopped is gone on with.
    A conversation that the server refuses (too long, against its rules) has no prediction and says why.

    Args:
        about: goes into predict.json as it is.
        fingerprints: what decides the predictions → a digest.
        at_once: requests under way at a time.
        overwrite, renew: as in `burnish.evaluate.predict.predict`.
    Raises:
        BurnishError: the server cannot be reached, refuses the key, or has no such model.
        RunFolderError: the folder holds predictions of something else, and neither of the two is set.
    """
    client = remote.client.with_options(max_retries=_RETRIES)
    rows = list(_rows(samples))
    if not rows:
        raise DataError("there is no row to predict", at="eval_dataset", fix="look at the data: burnish data stats")
    with PredictionFiles.open(folder, fingerprints, overwrite=overwrite, renew=renew) as files:
        left = [row for row in rows if row[0].place not in files.done]
        tell_kept(len(rows) - len(left), len(rows))
        started, before = time.perf_counter(), files.seconds
        _answer(client, remote, left, at_once, files.add, len(rows))
        tell_skipped([replace(item, skipped=files.done[item.place].get("skipped")) for item, _ in rows], 0)
        results = {**about, **results_of(files.lines(), before + time.perf_counter() - started)}
        write_results(files, results, figures_of(results), answer_row, f"Predictions of {results['model']}", KINDS)
    return results


Asked = tuple[Item, dict[str, Any]]
"""A row, and what is sent for it besides the model and the sampler's values."""


def _rows(samples: Iterable[Sample]) -> Iterable[Asked]:
    for place, sample in enumerate(samples):
        question, answer = question_of(sample.record, sample)
        reference = None
        if answer is not None:
            calls = [f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in answer.tool_calls]
            reference = "\n".join([answer.content, *calls]).strip()
        shown = tuple(openai_messages(question.turns))
        sent = [openai_message(replace(turn, reasoning=None, weight=1.0)) for turn in question.turns]
        tools = {"tools": [dict(tool) for tool in question.tools]} if question.tools else {}
        item = Item(place, sample.dataset, sample.row, None, (), reference, messages=shown)
        yield item, {"messages": sent, **tools}


def _answer(
    client: Any,
    remote: RemoteModel,
    left: Sequence[Asked],
    at_once: int,
    add: Callable[[dict[str, Any]], None],
    total: int,
) -> None:
    """Hand each line of predictions.jsonl to `add` as its answer comes.

    After an error or Ctrl-C nothing more is sent, and what comes within a grace is kept: it is paid.
    """
    waiting = iter(left)
    under_way: set[Future[dict[str, Any]]] = set()
    with log.progress("answers", total, done=total - len(left)) as bar, ThreadPoolExecutor(at_once) as pool:
        try:
            while True:
                for row in islice(waiting, at_once - len(under_way)):
                    under_way.add(pool.submit(_ask, client, remote, *row))
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for each in done:
                    add(each.result())
                    under_way.remove(each)
                    bar.advance()
        except BaseException:
            done, _ = wait(under_way, timeout=_GRACE_S)
            for each in done:
                if each.exception() is None:
                    add(each.result())
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ask(client: Any, remote: RemoteModel, item: Item, sent: dict[str, Any]) -> dict[str, Any]:
    import openai

    begins = item.line() | {"reference": item.reference}
    with told(remote.name, remote.model):
        try:
            reply = client.chat.completions.create(model=remote.model, **sent, **remote.arguments())
        except openai.APIStatusError as error:
            if error.status_code not in _REFUSED:
                raise
            return {**begins, "prediction": None, "skipped": f"the server refuses it ({error.status_code})"}
        choice, usage = reply.choices[0], reply.usage
        called = [f"{call.function.name}({call.function.arguments})" for call in choice.message.tool_calls or ()]
    return {
        **begins,
        "prediction": "\n".join([choice.message.content or "", *called]).strip(),
        "finish_reason": "length" if choice.finish_reason == "length" else "stop",
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "tokens": usage.completion_tokens if usage else 0,
    }
