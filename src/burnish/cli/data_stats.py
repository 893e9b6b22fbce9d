"""How statistics of datasets look on the terminal, in JSON and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.data.iterate import Tally
from burnish.data.lengths import PERCENTILES, Lengths
from burnish.data.statistics import TRAITS, TextStatistics
from burnish.errors import BurnishError
from burnish.runs.histograms import Panel, histogram_chart, plot_histograms

if TYPE_CHECKING:
    from burnish.batch.statistics import TokenStatistics

_NAMES = {
    "conversation": "conversations",
    "preference": "preferences",
    "feedback": "judged answers",
    "document": "documents",
    "prompt": "prompts without answers",
}
_SHOWN = 6
_WIDTH = 96
_BAD_ROWS = 3
"""Dropped rows that are named; `burnish data lint` names all."""


@dataclass
class Report:
    """One dataset, or all of them together. `tokens` is None without a model."""

    name: str
    tally: Tally = field(default_factory=Tally)
    text: TextStatistics = field(default_factory=TextStatistics)
    tokens: TokenStatistics | None = None
    batch_rows: int = 1

    @property
    def dropped(self) -> Counter[str]:
        """Reason → rows; what is too long for a run is in it."""
        return self.tally.dropped + (self.tokens.dropped if self.tokens else Counter())

    def add(self, other: Report) -> None:
        """Count all that another one has counted."""
        self.tally.rows += other.tally.rows
        self.tally.dropped.update(other.tally.dropped)
        self.text.merge(other.text)
        if self.tokens and other.tokens:
            self.tokens.merge(other.tokens)

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        shown = {"name": self.name, "rows_read": self.tally.rows, "dropped": dict(self.dropped.most_common())}
        shown |= self.text.as_dict()
        shown["used"] = self.used
        return shown | ({"tokens": self.tokens.as_dict(self.batch_rows)} if self.tokens else {})

    @property
    def used(self) -> int:
        """Rows that are left to train on."""
        return self.text.used - (self.tokens.dropped.total() if self.tokens else 0)

    def lengths(self) -> list[tuple[str, Lengths]]:
        """What is shown of lengths, by name: in tokens with a model, else in characters."""
        both = self.text.kinds["preference"] > 0
        if self.tokens:
            found = [("prompt", self.tokens.prompt), ("answer", self.tokens.answer), ("rejected", self.tokens.rejected)]
        else:
            text = self.text
            found = [("prompt", text.prompt_characters), ("answer", text.answer_characters)]
            found.append(("rejected", text.rejected_characters))
        names = {"answer": "chosen" if both else "text" if self.text.kinds["document"] else "answer"}
        return [(names.get(name, name), lengths) for name, lengths in found if lengths.number]

    @property
    def unit(self) -> str:
        return "tokens" if self.tokens else "characters"


def show(report: Report) -> None:
    """Print one report."""
    held = ", ".join(f"{count:,} {_NAMES[kind]}" for kind, count in report.text.kinds.most_common())
    log.say(f"{report.name}: {held or 'nothing to train on'}", style="bold")
    log.say(f"  {'rows':<18}{report.tally.rows:,} read, {report.used:,} used, {report.dropped.total():,} dropped")
    for reason, count in report.dropped.most_common():
        log.say(f"  {'':<18}dropped {count:,}: {reason}")
    for bad in report.tally.bad[:_BAD_ROWS]:
        log.say(f"  {'':<18}{Path(bad.file).name}, row {bad.row}: {bad.reason}", style="dim")
    if not report.text.used:
        return
    if report.text.turns.number:
        log.say(f"  {'turns':<18}{_spread(report.text.turns)}")
        log.say(f"  {'rows with':<18}{_traits(report.text)}")
    for line in _balance(report.text):
        log.say(f"  {line}")
    for line in _guesses(report.text):
        log.say(f"  {line}")
    log.say()
    for line in _table(report):
        log.say(f"  {line}".rstrip())
    for name, lengths in report.lengths():
        log.say()
        log.say(f"  {name}, {report.unit}")
        for line in histogram_chart(lengths.bars(), _WIDTH).splitlines():
            log.say(f"  {line}")
    if report.tokens:
        log.say()
        for line in _fit(report, report.tokens):
            log.say(f"  {line}")


def _spread(lengths: Lengths) -> str:
    smallest, largest = min(lengths.counts), lengths.largest
    if smallest == largest:
        return f"{largest} in every row"
    return f"{smallest} to {largest}, half of the rows at most {lengths.percentile(50)}"


def share(count: int, total: int) -> str:
    """A share as people read it: 0%, <0.1%, 3.1%, 42%, 100%."""
    percent = 100 * count / total if total else 0.0
    if count and percent < 0.1:
        return "<0.1%"
    return f"{percent:.0f}%" if percent in (0, 100) else f"{percent:.1f}%"


def _traits(text: TextStatistics) -> str:
    held = [f"{name} {share(text.traits[name], text.used)}" for name in TRAITS if text.traits[name]]
    lacking = [name for name in TRAITS if not text.traits[name]]
    if not held:
        return f"none of: {', '.join(lacking)}"
    return " · ".join(held) + (f" · none with {', '.join(lacking)}" if lacking else "")


def _balance(text: TextStatistics) -> Iterator[str]:
    pairs, judged = text.kinds["preference"], text.kinds["feedback"]
    if pairs:
        chosen, rejected = text.answer_characters.percentile(50), text.rejected_characters.percentile(50)
        yield (
            f"{'balance':<18}chosen is longer in {share(text.chosen_longer, pairs)} of the pairs, rejected in "
            f"{share(text.rejected_longer, pairs)} (median {chosen:,} against {rejected:,} characters)"
        )
    if judged:
        good, bad = text.desirable, judged - text.desirable
        yield f"{'judged':<18}{good:,} good ({share(good, judged)}), {bad:,} bad ({share(bad, judged)})"


def _guesses(text: TextStatistics) -> Iterator[str]:
    yield f"{'language (guess)':<18}{_ranking(text.languages)}"
    if text.tasks:
        yield f"{'tasks (guess)':<18}{_ranking(text.tasks)}"
    common = [(words, count) for words, count in text.openings.most_common(5) if count > 1]
    if common:
        listed = " · ".join(f"'{words}' {count:,}" for words, count in common)
        yield f"{'openings':<18}{listed}"


def _ranking(counts: Counter[str]) -> str:
    total = counts.total()
    first = counts.most_common(_SHOWN)
    left = total - sum(count for _, count in first)
    listed = " · ".join(f"{name} {share(count, total)}" for name, count in first)
    return listed + (f" · the rest {share(left, total)}" if left else "")


def _table(report: Report) -> Iterator[str]:
    heads = [*(f"p{percent}" for percent in PERCENTILES), "max", "mean", "total"]
    rows = [(f"{name}, {report.unit}", lengths) for name, lengths in report.lengths()]
    if report.tokens:
        whole = "longer of the pair" if report.text.kinds["preference"] else "whole row"
        if report.tokens.prompt.number and report.tokens.answer.number:
            rows.append((f"{whole}, tokens", report.tokens.whole))
    else:
        text = report.text
        names = [name for name, _ in report.lengths()]
        found = (text.prompt_words, text.answer_words, text.rejected_words)
        rows += zip((f"{name}, words" for name in names), (one for one in found if one.number), strict=False)
    margin = max(len(name) for name, _ in rows)
    yield " " * margin + "".join(f"{head:>{_column(head)}}" for head in heads)
    for name, lengths in rows:
        figures = [f"{lengths.percentile(percent):,}" for percent in PERCENTILES]
        figures += [f"{lengths.largest:,}", f"{lengths.mean:,.1f}", f"{lengths.total:,}"]
        cells = "".join(f"{figure:>{_column(head)}}" for head, figure in zip(heads, figures, strict=True))
        yield f"{name:<{margin}}{cells}"


def _column(head: str) -> int:
    return 14 if head == "total" else 9 if head in ("max", "mean") else 8


def _fit(report: Report, tokens: TokenStatistics) -> Iterator[str]:
    cutoff, samples = tokens.cutoff_len, tokens.whole.number
    if tokens.split:
        yield f"cutoff_len {cutoff:,}: {tokens.split:,} of {samples:,} documents are cut into parts; no text is lost"
    else:
        long = tokens.whole.above(cutoff)
        yield (
            f"cutoff_len {cutoff:,}: {long:,} of {samples:,} rows are longer ({share(long, samples)}), "
            f"{tokens.truncated:,} are truncated"
        )
    needed = [f"{tokens.cutoff_for(percent):,} for {percent}%" for percent in (95, 99, 100)]
    yield f"to keep rows whole, cutoff_len must be {', '.join(needed)}"
    if not tokens.fitted:
        return
    rows, filled = tokens.packing()
    wasted = tokens.padding(report.batch_rows)
    yield f"packing: all fits into {rows:,} rows of {cutoff:,} tokens, {100 * filled:.1f}% filled"
    yield f"padding: in batches of {report.batch_rows} without packing, {100 * wasted:.1f}% of the places are empty"


def panels(reports: Sequence[Report], most: int = 8) -> list[Panel]:
    """The histograms of a picture; with many datasets only of all together."""
    shown = [report for report in reports if report.text.used]
    if sum(len(report.lengths()) for report in shown) > most:
        shown = shown[-1:]
    found = []
    for report in shown:
        for name, lengths in report.lengths():
            marks = [("median", lengths.percentile(50)), ("p95", lengths.percentile(95))]
            found.append(Panel(f"{report.name}: {name}", report.unit, lengths.bars(24), marks))
    return found


def write_picture(reports: Sequence[Report], path: Path, title: str) -> None:
    """Write the histograms as one PNG."""
    drawn = panels(reports)
    if not drawn:
        raise BurnishError(
            "there is nothing to draw: no row can be used", at="--png", fix="look at `burnish data lint`"
        )
    try:
        plot_histograms(drawn, path, title)
    except OSError as error:
        raise BurnishError(
            f"the picture cannot be written: {error.strerror or error}",
            at=str(path),
            fix="name a file in a folder that is there",
        ) from error
