"""Find rows that harm a training: one pass, with a hash or two for each row and counters."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.data.iterate import NamedBadRow
from burnish.data.lengths import Lengths
from burnish.data.lint_rules import BAD_ROWS, ROW_RULES, RULES, Found, around
from burnish.data.near import NearDuplicates
from burnish.data.records import Sample
from burnish.data.statistics import opening, without_rare
from burnish.data.views import View, said, view
from burnish.data.views import words as words_of
from burnish.errors import BurnishError
from burnish.registry import did_you_mean

OPENING_SHARE = 0.30
LENGTH_FACTOR = 20
PAIR_SHARE, PAIR_FACTOR = 0.75, 1.5
_ENOUGH_ROWS = 50
_ROW_BITS, _SET_BITS = 40, 64
_LONG_ANSWER = 2000
_LONGEST_KEPT = 1000
_OPENINGS_KEPT = 20_000
Place = tuple[str, str, int]
"""Dataset, file and row."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at. `row` counts from 0 in `file`; None where the finding is about the whole dataset."""

    rule: str
    dataset: str
    file: str
    row: int | None
    what: str
    excerpt: str = ""

    @property
    def level(self) -> str:
        return RULES[self.rule].level

    def as_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        shown: dict[str, Any] = {"level": self.level, "rule": self.rule, "dataset": self.dataset, "file": self.file}
        return shown | {"row": self.row, "what": self.what, "excerpt": self.excerpt}


def choose_rules(only: Iterable[str] = (), skip: Iterable[str] = ()) -> frozenset[str]:
    """The names of the rules to apply. Raises BurnishError for a name that is not a rule."""
    only, skip = list(only), list(skip)
    for option, names in (("--rules", only), ("--skip", skip)):
        for name in names:
            if name not in RULES:
                raise BurnishError(f"unknown rule '{name}'", at=option, fix=did_you_mean(name, RULES))
    return frozenset(only or RULES) - frozenset(skip)


def prompt_hash(seen: View) -> int:
    """64 bits of what is asked, whatever its case and spaces; of a document, of its text."""
    return _hash(seen.text if seen.kind == "document" else seen.key)


def _hash(*texts: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(" ".join(text.split()).casefold().encode("utf-8", "surrogatepass") + b"\xff")
    return int.from_bytes(digest.digest(), "big", signed=True)


class Linter:
    """Looks at samples one after the other, then at what they have in common.

    Args:
        rules: names of the rules to apply.
        held_out: `prompt_hash` of the evaluation data.
    """

    def __init__(self, rules: Collection[str] = frozenset(RULES), held_out: Collection[int] = frozenset()) -> None:
        self.rules = frozenset(rules)
        self.held_out = held_out
        self.rows = 0
        self._row_rules = [(name, rule) for name, rule in ROW_RULES.items() if name in self.rules]
        self._seen: dict[int, int] = {}
        self._prompts: dict[int, int] = {}
        self._files: dict[str, int] = {}
        self._sets: dict[str, _Whole] = {}
        self._near = NearDuplicates()

    def add(self, sample: Sample) -> list[Finding]:
        """What is wrong with one sample, seen beside those before it."""
        self.rows += 1
        seen = view(sample.record)
        if sample.dataset not in self._sets:
            self._sets[sample.dataset] = _Whole(sample.dataset, len(self._sets))
        whole = self._sets[sample.dataset]
        found = [(name, hit) for name, rule in self._row_rules if (hit := rule(seen)) is not None]
        found += self._repeated(seen, sample)
        if "near-duplicate" in self.rules and not any(name == "duplicate" for name, _ in found):
            self._near.add(whole.number << _SET_BITS | self._place(sample), _all_words(seen))
        whole.add(seen, sample)
        return [Finding(name, sample.dataset, sample.file, sample.row, what, text) for name, (what, text) in found]

    def finish(self) -> Iterator[Finding]:
        """What is wrong with the datasets as a whole; call it after the last sample."""
        for whole in self._sets.values():
            yield from (finding for finding in whole.findings() if finding.rule in self.rules)
        yield from self._nearly()

    def _nearly(self) -> Iterator[Finding]:
        sets, files = list(self._sets), list(self._files)
        for number, first, share in self._near.pairs():
            place = number & ((1 << _SET_BITS) - 1)
            file, row = files[place >> _ROW_BITS], place & ((1 << _ROW_BITS) - 1)
            what = f"about {100 * share:.0f}% the same as {self._name(first & ((1 << _SET_BITS) - 1), file)}"
            yield Finding("near-duplicate", sets[number >> _SET_BITS], file, row, what)
        if self._near.left_out:
            what = f"{self._near.left_out:,} rows were not compared: only the first {self._near.most_rows:,} are"
            yield Finding("near-duplicate", sets[-1], files[-1], None, what)

    def _repeated(self, seen: View, sample: Sample) -> list[tuple[str, Found]]:
        prompt = prompt_hash(seen)
        found: list[tuple[str, str]] = []
        if prompt in self.held_out:
            found.append(("overlap", "this prompt is in the evaluation data too"))
        if self.rules & {"duplicate", "contradiction", "same-prompt"}:
            found += self._known(seen, sample, prompt)
        excerpt = around(seen.text or seen.asked) if found else ""
        return [(name, (what, excerpt)) for name, what in found if name in self.rules]

    def _known(self, seen: View, sample: Sample, prompt: int) -> Iterator[tuple[str, str]]:
        """Whether prompt and answer came before, alone or together; takes note of them."""
        answers = (said(seen.answer), said(seen.rejected))
        pair, here = _hash(str(prompt), *answers), self._place(sample)
        if pair in self._seen:
            first, judged = self._seen[pair] >> 1, bool(self._seen[pair] & 1)
            if seen.kind == "feedback" and judged != seen.desirable:
                yield "contradiction", f"judged the other way in {self._name(first, sample.file)}"
            else:
                yield "duplicate", f"the same as {self._name(first, sample.file)}"
        elif seen.kind == "preference" and (swapped := _hash(str(prompt), *reversed(answers))) in self._seen:
            yield "contradiction", f"{self._name(self._seen[swapped] >> 1, sample.file)} prefers the other answer"
        elif seen.kind == "conversation" and prompt in self._prompts:
            yield "same-prompt", f"{self._name(self._prompts[prompt], sample.file)} answers this otherwise"
        self._seen.setdefault(pair, here << 1 | bool(seen.desirable))
        if seen.kind == "conversation":
            self._prompts.setdefault(prompt, here)

    def _place(self, sample: Sample) -> int:
        number = self._files.setdefault(sample.file, len(self._files))
        return number << _ROW_BITS | sample.row

    def _name(self, place: int, beside: str) -> str:
        file, row = list(self._files)[place >> _ROW_BITS], place & ((1 << _ROW_BITS) - 1)
        return f"row {row}" if file == beside else f"row {row} of {Path(file).name}"


def _all_words(seen: View) -> str:
    """What a row asks and answers, without the system turn that many rows share."""
    said_so = (words_of(turn) for turn in (*seen.turns, *seen.rejected) if turn.role != "system")
    return seen.text or "\n".join(said_so)


def bad_row_finding(bad: NamedBadRow) -> Finding:
    """A row that the loader could not use, as a finding."""
    reason = bad.reason
    rule = next((rule for start, rule in BAD_ROWS.items() if reason.startswith(start)), "bad-row")
    return Finding(rule, bad.dataset, bad.file, bad.row, reason)


class _Whole:
    """What shows only once a dataset has been read."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.rows = 0
        self.file = ""
        self.openings: Counter[str] = Counter()
        self.first: dict[str, tuple[str, int]] = {}
        self.lengths = Lengths()
        self.longest: list[tuple[int, int, str, int, str]] = []
        self.chosen, self.rejected = Lengths(), Lengths()
        self.longer: Counter[str] = Counter()

    def add(self, seen: View, sample: Sample) -> None:
        self.rows += 1
        self.file = self.file or sample.file
        self._add_opening(opening(seen.asked), sample)
        if seen.kind == "prompt":
            return
        answer = seen.last_answer
        self.lengths.add(len(answer))
        if len(answer) > _LONG_ANSWER:
            keep = heapq.heappush if len(self.longest) < _LONGEST_KEPT else heapq.heappushpop
            keep(self.longest, (len(answer), -self.rows, sample.file, sample.row, around(answer)))
        if seen.kind == "preference":
            other = said(seen.rejected)
            self.chosen.add(len(answer))
            self.rejected.add(len(other))
            self.longer.update(["chosen"] * (len(answer) > len(other)) + ["rejected"] * (len(answer) < len(other)))

    def _add_opening(self, words: str, sample: Sample) -> None:
        if not words:
            return
        self.openings[words] += 1
        self.first.setdefault(words, (sample.file, sample.row))
        if len(self.openings) > _OPENINGS_KEPT:
            self.openings = without_rare(self.openings, _OPENINGS_KEPT // 2)
            self.first = {words: self.first[words] for words in self.openings}

    def findings(self) -> Iterator[Finding]:
        yield from self._alike()
        yield from self._too_long()
        yield from self._pairs()

    def _alike(self) -> Iterator[Finding]:
        if self.rows < _ENOUGH_ROWS:
            return
        for words, count in self.openings.most_common(3):
            if count > OPENING_SHARE * self.rows:
                file, row = self.first[words]
                what = f"{count} of {self.rows} prompts ({100 * count / self.rows:.0f}%) begin with '{words}'"
                yield Finding("same-opening", self.name, file, None, f"{what}, first in row {row}")

    def _too_long(self) -> Iterator[Finding]:
        median = self.lengths.percentile(50)
        limit = max(LENGTH_FACTOR * median, _LONG_ANSWER)
        for length, _, file, row, excerpt in sorted(self.longest, reverse=True):
            if length > limit:
                what = f"{length:,} characters, {length / max(median, 1):.0f} times the median of {median:,}"
                yield Finding("length", self.name, file, row, what, excerpt)

    def _pairs(self) -> Iterator[Finding]:
        if self.chosen.number < _ENOUGH_ROWS:
            return
        for longer, one, other in (
            ("chosen", self.chosen, self.rejected),
            ("rejected", self.rejected, self.chosen),
        ):
            share = self.longer[longer] / self.chosen.number
            if share > PAIR_SHARE and one.percentile(50) > PAIR_FACTOR * other.percentile(50):
                what = (
                    f"the {longer} answer is the longer one in {100 * share:.0f}% of the pairs "
                    f"(median {one.percentile(50):,} against {other.percentile(50):,} characters): "
                    "a model can learn the length instead of the quality"
                )
                yield Finding("pair-length", self.name, self.file, None, what)
