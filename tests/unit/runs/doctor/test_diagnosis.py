"""Each check sees what it is for, and a healthy run raises nothing."""

import json
import math
import random

import pytest
import torch
from safetensors.torch import save_file

from burnish.errors import RunFolderError
from burnish.runs.doctor import Evidence, diagnose, render
from burnish.runs.doctor.evidence import ends, noise

SETTINGS = {
    "stage": "sft",
    "finetuning_type": "lora",
    "learning_rate": 2e-4,
    "lora_rank": 8,
    "lora_alpha": 16,
    "max_grad_norm": 1.0,
    "cutoff_len": 1024,
}
DATA = {"rows_read": 900, "rows_used": 800, "samples": 800, "eval_rows": 100, "dropped": {}, "teaches_stop": 1.0}
TRAIN = {"steps": 100, "epochs": 2.0}


def falling(start=2.0, end=1.2, count=100, scatter=0.05):
    draw = random.Random(0)
    return [end + (start - end) * math.exp(-step / 25) + draw.gauss(0, scatter) for step in range(count)]


def rows_of(losses, norms=None, evals=None, **columns):
    rows = []
    for place, loss in enumerate(losses):
        row = {"step": place + 1, "loss": loss, "grad_norm": norms[place] if norms else 0.8}
        row |= {name: values[place] for name, values in columns.items()}
        rows.append(row)
        if evals and (place + 1) in evals:
            rows.append({"step": place + 1, "eval_loss": evals[place + 1]})
    return rows


def run_of(tmp_path, rows, status="completed", error=None, data=None, train=None, model=None, **settings):
    summary = {
        "schema": 1,
        "status": status,
        "error": error,
        "settings": {**SETTINGS, **settings},
        "model": model or {"parameters": 135_000_000},
        "data": {**DATA, **(data or {})},
        "train": {**TRAIN, **(train or {})},
    }
    (tmp_path / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Evidence.of(tmp_path)


def names(run):
    return [finding.name for finding in diagnose(run)]


HEALTHY_EVALS = {25: 1.7, 50: 1.5, 75: 1.42, 100: 1.41}


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(falling(), evals=HEALTHY_EVALS),
        rows_of(falling(scatter=0.3)),
        rows_of(falling(), norms=[3.0] * 100),
        rows_of(falling(1.2, 0.9, 12)),
        rows_of(falling(count=3)),
        [],
    ],
    ids=["usual", "noisy", "clipped a little", "short", "three rows", "nothing logged"],
)
def test_healthy_runs_raise_nothing(tmp_path, rows):
    assert names(run_of(tmp_path, rows)) == []


def test_a_loss_that_rises(tmp_path):
    assert names(run_of(tmp_path, rows_of(falling(1.5, 4.0)), learning_rate=0.02)) == ["loss-rises"]


def test_a_loss_that_rises_before_it_falls(tmp_path):
    losses = [1.8, 2.5, 6.0, 7.0, 6.5, *falling(5.0, 1.6, 60)]
    [finding] = diagnose(run_of(tmp_path, rows_of(losses), learning_rate=0.02))
    assert finding.name == "loss-rises"
    assert "1.800 to 6.500" in finding.evidence
    assert "0.02, and 0.0001 to 0.001 is usual" in finding.advice


def test_a_loss_that_rises_after_it_fell_and_stays_there(tmp_path):
    losses = [*falling(4.0, 0.5, 120), *falling(1.9, 1.4, 30)]
    [finding] = diagnose(run_of(tmp_path, rows_of(losses), learning_rate=0.02))
    assert finding.name == "loss-rises"
    back = [*falling(4.0, 0.5, 120), *falling(1.9, 0.5, 60)]  # it came back: no divergence
    assert "loss-rises" not in names(run_of(tmp_path, rows_of(back), learning_rate=0.02))


def test_a_flat_loss(tmp_path):
    [finding] = diagnose(run_of(tmp_path, rows_of(falling(1.50, 1.49)), learning_rate=2e-7))
    assert finding.name == "loss-flat"
    assert "raise learning_rate" in finding.advice
    [finding] = diagnose(run_of(tmp_path, rows_of(falling(1.50, 1.49))))
    assert "inspect" in finding.advice  # the rate is a usual one


def test_spikes(tmp_path):
    losses = falling()
    losses[40], losses[70] = 5.0, 6.0
    [finding] = diagnose(run_of(tmp_path, rows_of(losses)))
    assert (finding.name, finding.level) == ("loss-spikes", "warning")
    assert "step 41: 5.00" in finding.evidence


def test_rows_that_are_learned_one_by_one_are_no_spikes(tmp_path):
    """Batches of one row: for a while rows that are not known yet stand out, and most of the run is near 0."""
    draw = random.Random(0)
    known = [0.02 + draw.uniform(0, 0.01) for _ in range(300)]
    fall = [2.5, 2.1, 2.4, 1.9, 1.7, 1.8, 1.1, 0.8]
    losses = [*fall, *known]
    for step in range(40, 80, 4):  # 10 of 308: rare enough
        losses[step] = draw.uniform(0.6, 1.4)
    assert names(run_of(tmp_path, rows_of(losses), learning_rate=5e-4)) == []
    late = [*fall, *known]
    late[200] = late[280] = 0.7  # two alone, and not far on the way back to the start
    assert names(run_of(tmp_path, rows_of(late), learning_rate=5e-4)) == []
    losses[60] = losses[200] = 9.0  # far above those rows
    [finding] = diagnose(run_of(tmp_path, rows_of(losses), learning_rate=5e-4))
    assert finding.name == "loss-spikes"
    assert finding.evidence == "step 61: 9.00 among 0.03, step 201: 9.00 among 0.02"


def test_gradients_that_are_always_clipped_by_far(tmp_path):
    assert names(run_of(tmp_path, rows_of(falling(), norms=[40.0] * 100))) == ["always-clipped"]


def test_overfitting_and_the_checkpoint_to_use(tmp_path):
    for step in (20, 40, 60):
        (tmp_path / f"checkpoint-{step}").mkdir()
    run = run_of(tmp_path, rows_of(falling(2.0, 0.2), evals={25: 1.6, 50: 1.4, 75: 1.6, 100: 1.9}))
    [finding] = diagnose(run)
    assert finding.name == "overfit"
    assert finding.what.startswith("From step 50 on")
    assert "checkpoint-40" in finding.advice


def test_rows_by_heart_that_help_with_no_others(tmp_path):
    run = run_of(tmp_path, rows_of(falling(2.0, 0.5), evals={25: 1.6, 50: 1.7, 75: 1.9, 100: 2.4}))
    assert names(run) == ["never-generalised"]


def test_a_small_set_seen_too_often(tmp_path):
    run = run_of(tmp_path, rows_of(falling(2.0, 0.02, scatter=0.001)), data={"rows_used": 12}, train={"epochs": 20.0})
    [finding] = diagnose(run)
    assert finding.name == "memorised"
    assert finding.what.startswith("12 rows were seen 20 times")


def test_first_losses(tmp_path):
    assert names(run_of(tmp_path, rows_of(falling(9.0, 3.0)))) == ["first-loss-high"]
    assert names(run_of(tmp_path, rows_of(falling(9.0, 3.0)), train_from_scratch=True)) == []
    odd = [5.2, 4.2, 4.9, 3.6, 4.6, 4.0, 4.5, 3.7, *falling(4.0, 1.0)]  # batches of one row: the first one is odd
    assert "first-loss-high" not in names(run_of(tmp_path, rows_of(odd)))
    low = [0.004] * 100
    assert names(run_of(tmp_path, rows_of(low))) == ["first-loss-low"]


def test_a_dataset_that_lags(tmp_path):
    columns = {"loss_a": falling(2, 1), "loss_b": falling(2, 1), "loss_c": falling(2, 1.97)}
    [finding] = diagnose(run_of(tmp_path, rows_of(falling(), **columns)))
    assert finding.name == "dataset-lags"
    assert "dataset c" in finding.what


def test_no_preference(tmp_path):
    coin = {"rewards/accuracies": [0.5] * 100}
    run = run_of(tmp_path, rows_of([0.69] * 100, **coin), stage="dpo", learning_rate=1e-9)
    assert names(run) == ["no-preference"]


def test_what_the_data_lost(tmp_path):
    lost = {"dropped": {"no labels": 200}, "shortened": 600, "teaches_stop": 0.1}
    found = names(run_of(tmp_path, rows_of(falling()), data=lost))
    assert found == ["stop-not-taught", "rows-dropped", "rows-cut"]


def test_settings_of_the_adapter(tmp_path):
    assert names(run_of(tmp_path, rows_of(falling()), lora_alpha=256)) == ["adapter-scale"]
    big = run_of(tmp_path, rows_of(falling()), lora_rank=256, lora_alpha=512)
    assert names(big) == ["adapter-large"]


def test_a_dead_adapter(tmp_path):
    tensors = {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.zeros(3, 2)}
    tensors["b.lora_B.weight"] = torch.full((3, 2), 0.5, dtype=torch.bfloat16)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    [finding] = diagnose(run_of(tmp_path, rows_of(falling())))
    assert finding.name == "dead-adapter"
    assert "1 of 2" in finding.evidence


def test_runs_that_did_not_end(tmp_path):
    run = run_of(tmp_path, rows_of(falling(count=5)), status="failed", error="the disk is full\nmore")
    [finding] = diagnose(run)
    assert (finding.name, finding.evidence) == ("not-finished", "the disk is full")
    losses = falling()
    losses[10] = None
    assert names(run_of(tmp_path, rows_of(losses))) == ["not-finite"]


def test_text(tmp_path):
    run = run_of(tmp_path, rows_of(falling(1.5, 4.0)))
    text = render(run, diagnose(run))
    assert "✗ The training diverged. [loss-rises]" in text
    assert "    seen: the loss was" in text
    assert "    try:  lower learning_rate" in text
    assert "nothing wrong was found in 0 rows" in render(run_of(tmp_path, []), [])
    with pytest.raises(RunFolderError):
        Evidence.of(tmp_path / "elsewhere")


def test_medians_and_noise():
    assert ends([(step, float(step)) for step in range(100)]) == (4.5, 94.5)
    # Neighbours differ by 2, so the standard deviation is 1.4826 · 2 / √2.
    assert noise([(step, float(step % 2) * 2) for step in range(10)]) == pytest.approx(2.0967, abs=1e-3)
