"""Progress as people see it: on terminals of any width, in pipes and in the log file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from burnish import log

FIGURES = {"loss": "1.2345", "tok/s": "1,234", "memory": "709 MB"}


class Clock:
    """Stands in for `time`, so that a test decides how long a step takes."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log, "time", clock)
    return clock


def paced(clock: Clock, steps: int = 12, seconds: float = 4.0, total: int = 60) -> log._Pace:
    pace = log._Pace("training", total, 2)
    for _ in range(steps - 2):
        clock.now += seconds
        pace.advance(1, FIGURES)
    return pace


def test_a_line_keeps_to_the_width_and_to_what_matters_most(clock: Clock) -> None:
    pace = paced(clock)
    assert pace.text(120, bar=True) == (
        "training ━━━━╸┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ 12/60  loss 1.2345  tok/s 1,234  memory 709 MB  40 s, 3 min 12 s left"
    )
    assert pace.text(95, bar=True).startswith("training ━━┄┄┄┄┄┄┄┄┄┄ 12/60  loss")
    assert pace.text(120, bar=False) == (
        "training 12/60  loss 1.2345  tok/s 1,234  memory 709 MB  40 s, 3 min 12 s left"
    )
    assert pace.text(74, bar=True) == "training 12/60  loss 1.2345  tok/s 1,234  memory 709 MB  3 min 12 s left"
    assert pace.text(57, bar=True) == "training 12/60  loss 1.2345  tok/s 1,234  3 min 12 s left"
    assert pace.text(10, bar=True) == "training 12/60  3 min 12 s left"
    for width in range(40, 130):
        assert len(pace.text(width, bar=True)) <= width


def test_a_title_may_hold_wide_characters_and_braces(clock: Clock) -> None:
    pace = log._Pace("准备 {x}", 4, 2)
    assert pace.text(60, bar=True) == "准备 {x} ━━━━━━━━━━━━┄┄┄┄┄┄┄┄┄┄┄┄ 2/4  0 s, ? left"
    assert pace.text(46, bar=True) == "准备 {x} ━━━━━━┄┄┄┄┄┄ 2/4  0 s, ? left"


def test_the_time_left_follows_the_last_steps(clock: Clock) -> None:
    pace = paced(clock, steps=12, seconds=100.0, total=200)  # slow at first: compiling, warming up
    assert pace.left() == "5 h 13 min left"  # 188 steps of 100 s
    for _ in range(60):
        clock.now += 2.0
        pace.advance(1, FIGURES)
    assert pace.left() == "4 min 16 s left"  # 128 steps of 2 s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(file=Terminal(), force_terminal=True, width=100, legacy_windows=False, _environ={})
    monkeypatch.setattr(log, "console", lambda: console)
    return console


def test_a_terminal_gets_one_line_that_moves_and_other_lines_above(screen: Console, tmp_path: Path) -> None:
    with log.log_to_file(tmp_path / "log.txt"), log.progress("training", 3) as bar:
        bar.advance(1, loss="2.0")
        log.say("a checkpoint was saved")
        bar.advance(2, loss="1.0")
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "a checkpoint was saved\n" in shown
    assert shown.rstrip().split("training")[-1].count("━") == 24
    assert "3/3  loss 1.0" in shown
    kept = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "training 3/3  loss 1.0" in kept
    assert "━" not in kept


def test_a_pipe_gets_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with log.log_to_file(tmp_path / "log.txt"), log.progress("training", 1000, done=10) as bar:
        for step in range(25):
            clock.now += 1.0
            bar.advance(1, loss=f"{step}")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "training 20/1000  loss 9  10 s, 16 min 20 s left",
        "training 30/1000  loss 19  20 s, 16 min 10 s left",
    ]
    assert [line in (tmp_path / "log.txt").read_text(encoding="utf-8") for line in lines] == [True, True]


def test_a_long_run_fills_no_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with log.progress("training", 100_000) as bar:
        for _ in range(36_000):
            clock.now += 1.0
            bar.advance()
    assert 600 < len(capsys.readouterr().out.splitlines()) < 800  # of ten hours


def test_nothing_to_do_and_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    with log.progress("training", 0) as bar:
        bar.advance()
    log.set_quiet(True)
    try:
        with log.progress("training", 1) as bar:
            bar.advance()
    finally:
        log.set_quiet(False)
    assert capsys.readouterr().out == ""
