"""metrics.jsonl: one whole row a line, before and after a crash."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from burnish.errors import RunFolderError
from burnish.runs.metrics import MetricsLog


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.jsonl")


def test_rows_are_on_disk_at_once_and_in_order(log: MetricsLog) -> None:
    log.append({"step": 1, "loss": 2.5})
    assert log.path.read_text() == '{"step": 1, "loss": 2.5}\n'
    log.append({"step": 2, "loss": 2.0})
    assert log.read() == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]


def test_nan_and_infinities_become_null(log: MetricsLog) -> None:
    log.append({"step": 1, "loss": math.nan, "grad_norm": math.inf, "low": -math.inf})
    assert log.path.read_text() == '{"step": 1, "loss": null, "grad_norm": null, "low": null}\n'


def test_numpy_numbers_are_written_plain(log: MetricsLog) -> None:
    log.append({"step": np.int64(3), "loss": np.float32(0.5), "bad": np.float32("nan"), "done": np.bool_(True)})
    assert log.read() == [{"step": 3, "loss": 0.5, "bad": None, "done": True}]


def test_no_file_has_no_rows(log: MetricsLog) -> None:
    assert log.read() == []
    assert log.truncate_after(5) == 0
    assert not log.path.exists()


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2', "\x00\x00\x00"])
def test_a_torn_last_line_is_dropped_before_the_next_row(log: MetricsLog, torn: str) -> None:
    log.path.write_text('{"step": 1}\n' + torn)
    assert log.read() == [{"step": 1}]
    log.append({"step": 2})
    assert log.path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_last_row_that_lacks_only_its_newline_is_kept(log: MetricsLog) -> None:
    log.path.write_text('{"step": 1}')
    log.append({"step": 2})
    assert log.read() == [{"step": 1}, {"step": 2}]


def test_a_broken_line_in_the_middle_is_left_out_aloud(log: MetricsLog, capsys: pytest.CaptureFixture[str]) -> None:
    log.path.write_text('{"step": 1}\n{"st\n[3]\n{"step": 4}\n')
    assert log.read() == [{"step": 1}, {"step": 4}]
    assert "metrics.jsonl: 2 broken line(s) left out" in capsys.readouterr().out


def test_truncating_leaves_no_step_twice(log: MetricsLog) -> None:
    for step in (5, 10, 15, 20):
        log.append({"step": step, "loss": 1.0})
    log.append({"step": 10, "eval_loss": 1.1})
    log.append({"note": "no step"})
    assert log.truncate_after(10) == 2
    log.append({"step": 15, "loss": 0.9})
    assert [row.get("step") for row in log.read()] == [5, 10, 10, None, 15]


def test_truncating_to_zero_drops_every_step(log: MetricsLog) -> None:
    log.append({"step": 1})
    assert log.truncate_after(0) == 1
    assert log.path.read_text() == ""


def test_truncating_drops_a_torn_line_too(log: MetricsLog) -> None:
    log.path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert log.truncate_after(1) == 1
    assert log.path.read_text() == '{"step": 1}\n'
    assert [path.name for path in log.path.parent.iterdir()] == ["metrics.jsonl"]


def test_text_stays_readable(log: MetricsLog) -> None:
    log.append({"step": 1, "sample": "订单"})
    assert "订单" in log.path.read_text(encoding="utf-8")
    assert json.loads(log.path.read_text(encoding="utf-8"))["sample"] == "订单"


def test_a_row_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="could not be written"):
        MetricsLog(tmp_path / "absent" / "metrics.jsonl").append({"step": 1})
