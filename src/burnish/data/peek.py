"""What a dataset is good for, told before it is read: for commands that look at data without a run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from burnish.data.checks import STAGE_RECORD
from burnish.data.detect import guess
from burnish.data.registry import resolve
from burnish.data.sources import source_stretches

_STAGES = {"conversation": "sft", "document": "pt", "preference": "dpo", "feedback": "kto", "prompt": "grpo"}
assert all(STAGE_RECORD[stage] == kind for kind, stage in _STAGES.items())
_HEAD = 50


def natural_stage(name: str, dataset_dir: Path) -> str:
    """A stage that can train on all that a dataset holds, such as `dpo` for preferences.

    Where no format is written down it is told from the first rows; rows of an unknown kind count as `sft`.

    Raises:
        DataError: the dataset is unknown, or its files are not there.
    """
    spec = resolve(name, dataset_dir)
    if spec.formatting is None:
        rows = (row for stretch in source_stretches(spec, []) for _, row in stretch.rows([], go_on=True))
        head = list(islice(rows, _HEAD))
        found = guess(head, spec) or guess(head, spec, "prompt")
        if found is None:
            return "sft"
        spec = found[0]
    return _STAGES[spec.holds]
