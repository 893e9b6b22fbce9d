"""How findings look on the terminal: those of a rule together, and a table of counts at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from burnish import log
from burnish.cli.data_stats import share
from burnish.data.iterate import Tally
from burnish.data.lint import Finding, bad_row_finding
from burnish.data.lint_rules import BAD_ROWS, LEVELS, RULES

_STYLES = {"error": "bold red", "warning": "bold yellow", "hint": "bold cyan"}
_FIXES = {
    "bad-row": "mend or remove these rows; training leaves them out, and stops at a line that is no JSON",
    "empty-answer": "write an answer, or remove these rows; training leaves them out",
    "wrong-role": "mend the roles or name them under tags; training leaves these rows out",
    "control-token": "remove the token from the text",
    "mojibake": "read the source again with its right character set",
    "duplicate": "remove the repeated rows; the model would learn them by heart",
    "near-duplicate": "keep one of each, unless the small difference is what shall be learned",
    "contradiction": "decide which one is right and remove the other",
    "overlap": "remove these rows from one of the two; else the evaluation shows memory, not skill",
    "unfinished": "complete or remove these rows; the model would learn to stop early",
    "other-turn": "cut the answer before that turn",
    "placeholder": "write what belongs there, or remove these rows",
    "same-opening": "vary the prompts, or be sure that they will begin like this in use as well",
    "length": "look at these rows; one may weigh as much as many others",
    "pair-length": "balance the pairs, or watch the length of the answers after training",
    "same-prompt": "keep both if either answer is good",
    "refusal": "keep them if the model shall refuse these things",
}


class Collected:
    """Findings: all are counted, the first of each rule are kept to be shown."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Finding]] = defaultdict(list)
        self.bad_rows = 0
        """Rows with an error."""

    def add(self, findings: Iterable[Finding]) -> None:
        """Take the findings of one row, or those of a whole dataset."""
        error = False
        for finding in findings:
            self.counts[finding.rule] += 1
            error |= finding.level == "error"
            if len(self.kept[finding.rule]) < self.keep:
                self.kept[finding.rule].append(finding)
        self.bad_rows += error

    def add_dropped(self, tally: Tally, rules: Collection[str]) -> list[Finding]:
        """Take the rows that the loader could not use; returns those that are named."""
        for reason, count in tally.dropped.items():
            rule = BAD_ROWS.get(reason, "bad-row")
            if rule in rules:
                self.counts[rule] += count
                self.bad_rows += count
        named = [finding for finding in map(bad_row_finding, tally.bad) if finding.rule in rules]
        for finding in named:
            if len(self.kept[finding.rule]) < self.keep:
                self.kept[finding.rule].append(finding)
        return named


def by_weight(rules: Iterable[str]) -> list[str]:
    """Rules with errors first, in the order of the table of rules."""
    order = list(RULES)
    return sorted(rules, key=lambda name: (LEVELS.index(RULES[name].level), order.index(name)))


def dealt(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """How many findings of each rule to show: `most` in all, dealt out one by one so that no rule hides another."""
    shown = dict.fromkeys(by_weight(counts), 0)
    left = min(most, sum(counts.values()))
    while left:
        for rule in shown:
            if left and shown[rule] < counts[rule]:
                shown[rule] += 1
                left -= 1
    return shown


def show_findings(found: Collected, most: int) -> None:
    """Print findings, rule by rule, each with its file and row."""
    shown = dealt(Counter({rule: len(kept) for rule, kept in found.kept.items()}), most)
    several = _shortened([finding.file for kept in found.kept.values() for finding in kept])
    for rule, number in shown.items():
        if not number:
            continue
        level, about = RULES[rule]
        log.say(f"{level}: {rule}, {about}", style=_STYLES[level])
        log.say(f"  {_FIXES[rule]}", style="dim")
        for finding in found.kept[rule][:number]:
            place = several[finding.file] + ("" if finding.row is None else f", row {finding.row}")
            log.say(f"  {place}: {finding.what}")
            if finding.excerpt:
                log.say(f"      {finding.excerpt}", style="dim")
        if found.counts[rule] > number:
            log.say(f"  … and {found.counts[rule] - number:,} more")
        log.say()


def _shortened(files: Sequence[str]) -> dict[str, str]:
    """Each path by its last part, or as it stands where two would look alike."""
    names = Counter(Path(file).name for file in set(files))
    return {file: Path(file).name if names[Path(file).name] == 1 else file for file in files}


def show_counts(found: Collected, rows: int) -> None:
    """Print how often each rule found something."""
    if not found.counts:
        log.say(f"{rows:,} rows, nothing found")
        return
    margin = max(len(rule) for rule in found.counts)
    log.say(f"{'rule':<{margin}}  {'level':<8}{'findings':>9}{'of rows':>9}", style="bold")
    for rule in by_weight(found.counts):
        count, level = found.counts[rule], RULES[rule].level
        log.say(f"{rule:<{margin}}  {level:<8}{count:>9,}{share(count, rows):>9}")
    log.say(f"{rows:,} rows, {found.bad_rows:,} with an error ({share(found.bad_rows, rows)})")
