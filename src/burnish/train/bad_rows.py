"""The rows of a step whose loss is not a number: named in the error, and saved whole beside the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from burnish.batch.store import Selection
from burnish.batch.windows import Windows
from burnish.template import Example

BAD_ROWS = "nonfinite_rows.jsonl"
_NAMED = 5


class BadRows:
    """Called with sample numbers, it writes them to a file and returns the words for an error's `at`.

    Args:
        file: where the rows go; replaced each time.
        samples: where the samples came from; None for streamed data, whose rows are not kept.
        example: sample number → Example.
    """

    def __init__(
        self, file: Path, samples: Selection | Windows | None, example: Callable[[int], Example], tokenizer: Any
    ) -> None:
        self.file, self.samples, self.example, self.tokenizer = file, samples, example, tokenizer

    def __call__(self, numbers: Sequence[int]) -> str:
        lines, names = [], []
        for number in numbers:
            example = self.example(number)
            row: dict[str, Any] = {"sample": number}
            name = f"sample {number}"
            if self.samples is not None:
                dataset, file, place = self.samples.origin(number)
                row |= {"dataset": dataset, "file": file, "row": place}
                name = f"{dataset}, row {place}"
            row |= {
                "tokens": len(example.input_ids),
                "text": self.tokenizer.decode(example.input_ids),
                "input_ids": list(example.input_ids),
                "labels": list(example.labels),
            }
            lines.append(json.dumps(row, ensure_ascii=False))
            names.append(name)
        self.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"{'; '.join(names[:_NAMED])}{more} (saved in {self.file})"
