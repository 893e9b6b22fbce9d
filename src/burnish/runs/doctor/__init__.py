"""The doctor: reads a run and says in plain words what happened, with the evidence and what to try."""

from burnish.runs.doctor.diagnosis import diagnose, render
from burnish.runs.doctor.evidence import Evidence, Finding

__all__ = ["Evidence", "Finding", "diagnose", "render"]
