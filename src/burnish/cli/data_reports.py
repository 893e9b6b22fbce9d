"""`burnish data stats`, `lint` and `convert`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.cli.data_target import Target, find_target, limited, tell
from burnish.data.iterate import Tally
from burnish.data.records import Sample
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.cli.data_lint import Collected
    from burnish.cli.data_stats import Report
    from burnish.data.lint import Finding

_LIST_AT_MOST = 20


def run_stats(
    source: str,
    overrides: Sequence[str],
    *,
    dataset_dir: str | None = None,
    max_samples: int | None = None,
    png: str | None = None,
    as_json: bool = False,
) -> None:
    """Print what datasets hold."""
    from burnish.cli.data_stats import show, write_picture

    log.set_quiet(as_json)
    target = limited(find_target(source, overrides, dataset_dir), max_samples)
    reports = list(_reports(target))
    together = _together(reports)
    if as_json:
        print(
            json.dumps(
                {"datasets": [each.as_dict() for each in reports], "together": together.as_dict()},
                indent=2,
                ensure_ascii=False,
            )
        )
    for number, report in enumerate([*reports, together] if len(reports) > 1 else reports):
        if number:
            log.say()
        show(report)
    if png:
        write_picture([*reports, together] if len(reports) > 1 else reports, Path(png), f"Lengths: {Path(source).name}")
        log.say()
        log.say(f"wrote the histograms to {png}")
    if not target.model:
        log.say()
        log.say("For lengths in tokens, truncation and packing name a RUN.yaml, or add model_name_or_path=…")


def _reports(target: Target) -> Iterator[Report]:
    from burnish.cli.data_stats import Report

    counter = _token_counter(target)
    for name in target.names:
        report = Report(name)
        samples = target.samples(name, report.tally)
        if counter is None:
            for sample in samples:
                report.text.add(sample)
        else:
            counter.count(samples, report)
        tell(report.tally)
        yield report


class _TokenCounter:
    """Renders samples with the template of a run and counts tokens."""

    def __init__(self, target: Target) -> None:
        from burnish.train.data import build_template, label_options
        from burnish.train.origin import model_source

        assert target.settings is not None
        self.template = build_template(target.settings, model_source(target.settings))
        self.options = label_options(target.settings)
        self.batch_rows = target.settings.training.per_device_train_batch_size

    def count(self, samples: Iterator[Sample], report: Report) -> None:
        from burnish.batch.statistics import TokenStatistics, count_tokens

        report.tokens = TokenStatistics(self.options.limits.cutoff_len)
        report.batch_rows = self.batch_rows
        for sample, counted in count_tokens(samples, self.template, self.options):
            report.text.add(sample)
            report.tokens.merge(counted)


def _token_counter(target: Target) -> _TokenCounter | None:
    return _TokenCounter(target) if target.model else None


def _together(reports: Sequence[Report]) -> Report:
    from burnish.cli.data_stats import Report

    together = Report("together", batch_rows=reports[0].batch_rows)
    if reports[0].tokens:
        from burnish.batch.statistics import TokenStatistics

        together.tokens = TokenStatistics(reports[0].tokens.cutoff_len)
    for report in reports:
        together.add(report)
    return together


def run_lint(
    source: str,
    overrides: Sequence[str],
    *,
    dataset_dir: str | None = None,
    max_samples: int | None = None,
    max_findings: int | None = None,
    fail_above: float = 0.05,
    rules: str | None = None,
    skip: str | None = None,
    as_json: bool = False,
) -> None:
    """Print what may harm a training; an error if too many rows have one."""
    from burnish.cli.data_lint import Collected, show_counts, show_findings
    from burnish.data.lint import choose_rules

    log.set_quiet(as_json)
    chosen = choose_rules(_listed(rules), _listed(skip))
    if not 0 <= fail_above <= 1:
        raise BurnishError(
            "this is no share", at=f"--fail-above {fail_above}", fix="give a number from 0 to 1, such as 0.05"
        )
    target = limited(find_target(source, overrides, dataset_dir), max_samples)
    shown = _LIST_AT_MOST if max_findings is None else max_findings
    found = Collected(shown)
    rows = 0
    for number, finding in enumerate(_findings(target, chosen, found)):
        if isinstance(finding, Tally):
            rows += finding.rows
            tell(finding)
        elif as_json and (max_findings is None or number < max_findings):
            print(json.dumps(finding.as_dict(), ensure_ascii=False))
    if not rows:
        raise BurnishError("there are no rows to look at", at=source, fix="name a file with data in it")
    show_findings(found, shown)
    show_counts(found, rows)
    part = found.bad_rows / rows
    if part > fail_above:
        raise BurnishError(
            f"{100 * part:.1f}% of the rows have an error; {100 * fail_above:g}% are allowed",
            at=f"{source}: {found.bad_rows:,} of {rows:,} rows",
            fix="mend or remove these rows, leave rules out with --skip, or raise --fail-above",
        )
    if found.bad_rows:
        log.say(f"passed: at most {100 * fail_above:g}% may have an error (--fail-above)")


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _findings(target: Target, rules: frozenset[str], found: Collected) -> Iterator[Finding | Tally]:
    """All findings as they come, and the tally of each dataset once it is read."""
    from burnish.data.lint import Linter, prompt_hash
    from burnish.data.views import view

    held_out: set[int] = set()
    if "overlap" in rules:
        for name in target.eval_names:
            held_out.update(prompt_hash(view(sample.record)) for sample in target.samples(name, Tally()))
    linter = Linter(rules, held_out)
    for name in target.names:
        tally = Tally()
        for sample in target.samples(name, tally):
            findings = linter.add(sample)
            found.add(findings)
            yield from findings
        yield from found.add_dropped(tally, rules)
        yield tally
    for finding in linter.finish():
        found.add([finding])
        yield finding


def run_convert(
    source: str,
    *,
    to: str,
    format: str,
    dataset_dir: str,
    stage: str | None,
    max_samples: int | None,
    skip_unfit: bool,
    overwrite: bool,
) -> None:
    """Write datasets as one file in another format."""
    from burnish.data.convert import convert
    from burnish.data.registry import dataset_names

    done = convert(
        dataset_names(source),
        Path(dataset_dir).expanduser(),
        Path(to).expanduser(),
        formatting=format,
        stage=stage,
        max_samples=max_samples,
        skip_unfit=skip_unfit,
        overwrite=overwrite,
    )
    for line in done.notes:
        log.note(line)
    log.say(f"wrote {done.rows:,} of {done.tally.rows:,} rows to {to}")
    for reason, count in (*done.tally.dropped.most_common(), *done.unfit.most_common()):
        log.say(f"dropped {count:,}: {reason}")
    for bad in done.tally.bad:
        log.say(f"  {Path(bad.file).name}, row {bad.row}: {bad.reason}")
    entry: dict[str, Any] = {Path(to).name.split(".")[0]: done.entry}
    log.say()
    log.say("To use it by name, add this to dataset_info.json:")
    log.say(json.dumps(entry, indent=2, ensure_ascii=False))
    log.say(f"Or by its path: dataset: {to}")
