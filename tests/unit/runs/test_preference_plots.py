"""The picture of margins and accuracies."""

from burnish.runs.preference_plots import plot_rewards


def test_margins_and_accuracy_are_drawn(tmp_path):
    rows = [{"step": n, "rewards/margins": 0.1 * n, "rewards/accuracies": min(1.0, 0.2 * n)} for n in range(1, 9)]
    rows[3] |= {"eval_rewards/margins": 0.2, "eval_rewards/accuracies": 0.5}
    both, one = tmp_path / "both.png", tmp_path / "one.png"
    assert plot_rewards(rows, both)
    assert plot_rewards([{"step": 1, "rewards/margins": 0.1}, {"step": 2, "rewards/margins": 0.3}], one)
    assert both.read_bytes()[:8] == one.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    height = [int.from_bytes(path.read_bytes()[20:24], "big") for path in (both, one)]
    assert height[0] > 1.5 * height[1]  # two pictures one above the other, and one


def test_rows_without_margins_draw_nothing(tmp_path):
    assert not plot_rewards([{"step": 1, "loss": 2.0}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
