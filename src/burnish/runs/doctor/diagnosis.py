"""All checks, and their findings as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from burnish.runs.doctor import asked, curves, rises, sawtooth, state
from burnish.runs.doctor.evidence import Evidence, Finding
from burnish.runs.doctor.probe import render_probe
from burnish.runs.doctor.rows import render_rows

CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    state.not_finished,
    state.not_finite,
    asked.answers_shuffled,
    rises.loss_rises,
    curves.spikes,
    sawtooth.sawtooth,
    curves.always_clipped,
    curves.loss_flat,
    curves.overfits,
    curves.memorised,
    curves.preference_stays,
    state.dead_adapter,
    state.never_stops,
    state.first_loss,
    asked.not_learned,
    asked.answers_wrong,
    asked.only_by_heart,
    asked.never_ends,
    asked.rows_stand_out,
    curves.dataset_lags,
    state.rows_lost,
    state.adapter_size,
)

_OF_DATA = {"sawtooth-mix", "sawtooth-length", "sawtooth-order"}
_SAID_BY_THEM = {"loss-rises", "loss-spikes"}


def diagnose(run: Evidence) -> list[Finding]:
    """What all checks find, problems first.

    Where batches that are not alike move the loss, a rise or a leap of it tells nothing more.
    """
    found = [finding for check in CHECKS for finding in check(run)]
    if any(finding.name in _OF_DATA for finding in found):
        found = [finding for finding in found if finding.name not in _SAID_BY_THEM]
    return sorted(found, key=lambda finding: finding.level != "problem")


def render(run: Evidence, findings: Sequence[Finding]) -> str:
    """The findings for people, and below them what was measured."""
    parts = [f"{run.path.name}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"]
    if not findings:
        parts = [f"{run.path.name}: nothing wrong was found in {len(run.rows)} rows of metrics."]
    for finding in findings:
        mark = "✗" if finding.level == "problem" else "!"
        parts.append(
            "\n".join(
                (
                    f"{mark} {finding.what} [{finding.name}]",
                    f"    seen: {finding.evidence}",
                    *(f"          {line}" for line in finding.lines),
                    f"    try:  {finding.advice}",
                )
            )
        )
    if run.probe:
        parts.append(render_probe(run.probe))
    if run.odd_rows:
        parts.append(render_rows(run.odd_rows))
    return "\n\n".join(parts)
