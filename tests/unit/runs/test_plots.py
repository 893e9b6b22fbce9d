"""The loss as a picture and as text."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest

from burnish.runs.charts import loss_chart
from burnish.runs.plots import plot_loss, series, smooth

PNG = b"\x89PNG\r\n\x1a\n"


def falling(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 2 * math.exp(-step / 20) + 0.3, **more} for step in range(1, count + 1)]


def chunks(path: Path) -> dict[bytes, bytes]:
    """The parts of a PNG by their type, with checked sums; the pixels' parts are joined."""
    content = path.read_bytes()
    assert content.startswith(PNG)
    parts: dict[bytes, bytes] = {}
    place = len(PNG)
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack(">I", content[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        parts[kind] = parts.get(kind, b"") + body
        place += 12 + length
    return parts


def has_colour(path: Path, colour: str) -> bool:
    """Whether some pixel of a PNG is close to a colour such as `#1f5fa8`."""
    import matplotlib.image

    pixels = matplotlib.image.imread(path)[..., :3]
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return bool((abs(pixels - wanted).max(axis=-1) < 0.02).any())


def test_the_picture_is_a_whole_png_with_both_curves(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    rows = [*falling(40, epoch=0.5), {"step": 20, "eval_loss": 1.2}, {"step": 40, "eval_loss": 0.8}]
    assert plot_loss(rows, path, "a run")
    parts = chunks(path)
    assert struct.unpack(">II", parts[b"IHDR"][:8]) == (1200, 720)
    assert len(set(zlib.decompress(parts[b"IDAT"]))) > 10
    assert has_colour(path, "#1f5fa8")
    assert has_colour(path, "#a9c6e8")
    assert has_colour(path, "#d2601a")
    assert [item.name for item in tmp_path.iterdir()] == ["loss.png"]


def test_one_row_is_enough_and_none_draws_nothing(tmp_path: Path) -> None:
    assert plot_loss([{"step": 1, "loss": 2.0, "epoch": 0.1}], tmp_path / "one.png")
    assert has_colour(tmp_path / "one.png", "#1f5fa8")
    assert plot_loss([{"step": 1, "eval_loss": 2.0}], tmp_path / "eval.png")
    assert not plot_loss([{"step": 1, "loss": math.nan}, {"step": 2}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    "title", ["订单 → JSON", "$x_1$ and \\frac", "two\nlines\x07", "", "😀" * 200, "한국어 العربية"]
)
def test_no_title_makes_trouble(tmp_path: Path, title: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plot_loss(falling(3), tmp_path / "loss.png", title)


def test_the_list_of_fonts_stays_in_the_cache(tmp_path: Path) -> None:
    script = (
        "import sys, os\nfrom pathlib import Path\nfrom burnish.runs.plots import plot_loss\n"
        "assert plot_loss([{'step': 1, 'loss': 1.0}], Path(sys.argv[1]) / 'loss.png')\n"
        "assert 'MPLCONFIGDIR' not in os.environ"
    )
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"HOME": str(home), "BURNISH_CACHE": str(cache), "PATH": "/usr/bin:/bin"},
        check=True,
        timeout=120,
    )
    assert list(home.iterdir()) == []
    assert (cache / "matplotlib").is_dir()


def test_series_are_sorted_and_count_what_is_not_finite() -> None:
    rows = [
        {"step": 2, "loss": 1},
        {"step": 1, "loss": 2.0},
        {"step": 3, "loss": None},
        {"step": 4},
        {"loss": 1},
    ]
    assert series(rows, "loss") == ([(1.0, 2.0), (2.0, 1.0)], 1)


def test_smoothing_by_hand() -> None:
    # Inside, the mean of three. The first three, 0, 3, 0, have mean 1 and slope 0; the last three, 3, 0, 6,
    # have mean 3 and slope (6 - 3) / 2, and the last place is one right of their middle.
    assert smooth([0.0, 3.0, 0.0, 6.0], 1) == pytest.approx([1.0, 1.0, 3.0, 4.5])
    # A window wider than the values: the line through all; mean 9/4, slope (-0.5 · 3 + 1.5 · 6) / 5 = 3/2.
    assert smooth([0.0, 3.0, 0.0, 6.0], 2) == pytest.approx([0.0, 1.5, 3.0, 4.5])
    assert smooth([5.0], 3) == [5.0]
    assert smooth([], 3) == []


def test_smoothing_leaves_a_straight_line_alone() -> None:
    line = [10 - 0.5 * place for place in range(30)]
    assert smooth(line, 4) == pytest.approx(line)


def test_the_chart_as_it_stands() -> None:
    rows = [{"step": step, "loss": loss} for step, loss in ((10, 4.0), (20, 2.0), (30, 1.0), (40, 1.0))]
    rows.append({"step": 40, "eval_loss": 2.0})
    assert loss_chart(rows, width=30, height=4).split("\n") == [
        "4 ┤⠑⠢⢄⡀",
        "  │   ⠈⠑⠤⣀",
        "2 ┤       ⠉⠒⠤⣀⣀              o",
        "  │            ⠉⠑⠒⠤⠤⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀",
        "  └┬────────┬────────────────┬",
        "  10       20          step 40",
        "   ⠒ train   o eval",
    ]


def test_the_chart_of_one_step_and_of_a_flat_loss() -> None:
    assert loss_chart([{"step": 7, "loss": 2.0}], 30, 4).split("\n") == [
        "2.2 ┤",
        "    │",
        "2.0 ┤x",
        "1.8 ┤",
        "    └┬────────────────────────",
        "  step 7",
        "     x train",
    ]
    assert "⠤⠤⠤⠤" in loss_chart([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}], 40, 5)


def test_the_chart_keeps_to_its_size() -> None:
    rows = [*falling(500), {"step": 250, "eval_loss": 0.9}, {"step": 501, "loss": None}]
    for width, height in ((72, 12), (40, 6), (120, 20), (3, 1)):
        lines = loss_chart(rows, width, height).split("\n")
        assert len(lines) == max(4, height) + 3
        assert max(map(len, lines[:-1])) <= max(30, width)  # a long legend may stand out
    assert "⠒ train, smoothed (1 not finite)   o eval" in loss_chart(rows)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e6, 1e12])
def test_the_chart_labels_any_scale(scale: float) -> None:
    lines = loss_chart([{"step": step, "loss": scale * step} for step in range(1, 9)], 60, 10).split("\n")
    values = [float(line.split("┤")[0]) for line in lines if "┤" in line]
    assert len(values) >= 2
    assert values == sorted(set(values), reverse=True)
    assert 0.99 * scale <= values[-1] <= values[0] <= 8.01 * scale


def test_nothing_to_draw() -> None:
    assert loss_chart([]) == loss_chart([{"step": 1, "loss": math.inf}]) == "no finite loss was logged"
