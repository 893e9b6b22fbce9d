"""All checks, and their findings as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from burnish.runs.doctor import curves, state
from burnish.runs.doctor.evidence import Evidence, Finding

CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    state.not_finished,
    state.not_finite,
    curves.loss_rises,
    curves.spikes,
    curves.always_clipped,
    curves.loss_flat,
    curves.overfits,
    curves.memorised,
    curves.preference_stays,
    state.dead_adapter,
    state.never_stops,
    state.first_loss,
    curves.dataset_lags,
    state.rows_lost,
    state.adapter_size,
)


def diagnose(run: Evidence) -> list[Finding]:
    """What all checks find, problems first."""
    found = [finding for check in CHECKS for finding in check(run)]
    return sorted(found, key=lambda finding: finding.level != "problem")


def render(run: Evidence, findings: Sequence[Finding]) -> str:
    """The findings for people."""
    if not findings:
        return f"{run.path.name}: nothing wrong was found in {len(run.rows)} rows of metrics."
    parts = [f"{run.path.name}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"]
    for finding in findings:
        mark = "✗" if finding.level == "problem" else "!"
        parts.append(
            f"{mark} {finding.what} [{finding.name}]\n    seen: {finding.evidence}\n    try:  {finding.advice}"
        )
    return "\n\n".join(parts)
