"""`burnish data`: look at datasets, and at every token that is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.cli.viewer import show_legend, show_row
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.batch.prepare import LabelOptions, Prepared
    from burnish.cli.page import Shown
    from burnish.data.records import Sample
    from burnish.template import ChatTemplate, Example


def run_list(dataset_dir: str) -> None:
    """Print what a registry names."""
    from burnish.data.registry import describe_registry

    rows = describe_registry(Path(dataset_dir))
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "format", "source", "size"):
        table.add_column(column, overflow="fold")
    for row in rows:
        size = row.get("bytes")
        missing = "missing" if row.get("exists") is False else ""
        shown = f"{size / 1e6:.1f} MB" if isinstance(size, int) else missing
        broken = f"broken entry: {row['problem']}"
        table.add_row(row["name"], *((row["format"], row["source"], shown) if row["problem"] is None else ("", broken)))
    log.console().print(table)


def run_inspect(
    run: str,
    overrides: Sequence[str],
    *,
    format: str | None,
    limit: int | None,
    html: str | None,
    row: int | None = None,
) -> None:
    """Render a run's training samples as they will be trained."""
    if format not in (None, "jsonl"):
        raise BurnishError(f"unknown format '{format}'", at="--format", fix="--format jsonl, or leave it out")
    from burnish.config import load_settings

    settings = load_settings(run, list(overrides), require=("model_name_or_path", "dataset"))
    if format == "jsonl":
        log.set_quiet(True)  # stdout carries the lines and nothing else
    from burnish.batch.prepare import prepare
    from burnish.train.data import build_template, label_options, read_samples
    from burnish.train.origin import model_source
    from burnish.train.stages import STAGES

    template = build_template(settings, model_source(settings))
    loaded = read_samples(settings, settings.data.dataset)
    options = label_options(settings)
    prepared = prepare(loaded.samples, template, options, STAGES.get(settings.tuning.stage).chunk)
    if format == "jsonl":
        pairs = zip(prepared.samples, prepared.examples, strict=True)
        for line in _lines(pairs, template, limit, row):
            print(json.dumps(line, ensure_ascii=False))
        return
    rows = _explained(prepared, template, options, row)
    if html:
        from burnish.cli.page import write_page

        count = write_page(Path(html), list(islice(rows, limit or 200)), template, title=Path(run).name)
        log.say(f"wrote {count} rows to {html}")
        return
    shown = list(islice(rows, limit or 3))
    if not shown:
        raise BurnishError(
            f"no sample of row {row} is there: it was dropped (then the reason stands above), or there is no such row",
            at="--row",
            fix="rows count from 0 in their file",
        )
    for each in shown:
        show_row(template, each.stretches, each.head)
    show_legend([stretch.reason for each in shown for stretch in each.stretches])
    log.say(f"{len(shown)} of {len(prepared.examples)} samples · --row N shows one, --html FILE a page")
    for reason, number in (*loaded.dropped.items(), *prepared.dropped.items()):
        log.say(f"dropped {number}: {reason}")


def _explained(prepared: Prepared, template: ChatTemplate, options: LabelOptions, row: int | None) -> Iterator[Shown]:
    """The prepared rows with the reason of each token, one after another."""
    from burnish.batch.prepare import label_sample
    from burnish.cli.page import Shown
    from burnish.data.records import Conversation
    from burnish.template.explain import Stretch, explain, explain_judged

    last = None
    for sample, example in zip(prepared.samples, prepared.examples, strict=True):
        if row is not None and sample.row != row:
            continue
        judged = _judged(sample, example)
        if judged:
            yield Shown(judged[0], explain_judged(template, example), 1, 1, judged[1])
            continue
        if not isinstance(sample.record, Conversation):
            yield Shown(sample, [Stretch(example.input_ids, "text")], 1, 1)
            continue
        if sample is last:
            continue
        last = sample
        kept = [one for one in label_sample(sample, template, options) if one.fitted.example]
        for part, one in enumerate(kept, 1):
            assert one.fitted.example is not None
            yield Shown(sample, explain(template, one.plan, one.row, one.fitted.example), part, len(kept))


def _judged(sample: Sample, example: Example) -> tuple[Sample, str] | None:
    """A judged sample as the conversation that an example shows, and the judgement; None for other samples."""
    from burnish.data.records import Conversation, Feedback, Preference

    record = sample.record
    if isinstance(record, Feedback):
        return replace(sample, record=record.conversation), "desirable" if record.desirable else "undesirable"
    if isinstance(record, Preference):
        answer, word = (record.chosen, "chosen") if example.mark > 0 else (record.rejected, "rejected")
        return replace(sample, record=Conversation((*record.prompt.turns, *answer), record.prompt.tools)), word
    return None


def run_cache(clear: bool) -> None:
    """Print the prepared sets in the cache; or remove them, and what was counted of files."""
    import shutil

    from rich.table import Table

    from burnish.batch.store import cached_sets
    from burnish.cache import cache_folder, counts_folder

    folder = cache_folder() / "prepared"
    found = list(cached_sets(folder))
    total = sum(size for *_, size in found)
    if clear:
        for place in (folder, counts_folder()):
            shutil.rmtree(place, ignore_errors=True)
        log.say(f"removed {len(found)} prepared sets, {total / 1e6:.1f} MB, from {folder}")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("made", "size", "samples", "from"):
        table.add_column(column, overflow="fold")
    for path, about, size in sorted(found, key=lambda one: one[0].stat().st_mtime, reverse=True):
        made = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        table.add_row(made, f"{size / 1e6:.1f} MB", str(about["examples"]), ", ".join(about["datasets"]))
    log.console().print(table)
    log.say(f"{len(found)} prepared sets, {total / 1e6:.1f} MB, in {folder} · --clear removes them")


def _lines(pairs: Any, template: ChatTemplate, limit: int | None, row: int | None) -> Iterator[dict[str, Any]]:
    wanted = ((index, pair) for index, pair in enumerate(pairs) if row is None or pair[0].row == row)
    for index, (sample, example) in islice(wanted, limit):
        supervised = [label for label in example.labels if label != -100]
        judged = _judged(sample, example)
        yield {
            "index": index,
            "dataset": sample.dataset,
            "row": sample.row,
            **({"judged": judged[1]} if judged else {}),
            "input_ids": example.input_ids,
            "labels": example.labels,
            "tokens": len(example.input_ids),
            "supervised_text": template.decode(supervised, special=True),
        }
