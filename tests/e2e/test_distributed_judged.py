"""Two gloo ranks equal one process for the stages of judged answers; the last step leaves a rank without rows."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from burnish.api import train
from tests.e2e.test_distributed import ENGINES, first_gradients, has, launch, rows
from tests.judged import feedback_file, pair_file, write
from tests.runs import settings, weights

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")

STAGES = {
    "dpo": {"stage": "dpo"},
    "rm": {"stage": "rm", "center_rewards_coefficient": 0.01},
    "kto": {"stage": "kto"},
}
FIGURES = ("loss", "grad_norm", "eval_loss", "rewards/margins", "rewards/chosen", "kl", "eval_rewards/margins")


def jobs_for(names, engine, model, folder, **changes):
    """A run for each stage, at a global batch of four samples."""
    made = [json.loads(line) for line in pair_file(folder, 12).read_text().splitlines()]
    margins = write(folder / "margins.jsonl", [row | {"margin": 0.1 * place} for place, row in enumerate(made)])
    data = {"kto": feedback_file(folder, 12), "rm": margins}
    common = {"eval_strategy": "steps", "eval_steps": 2, "val_size": 3, "per_device_eval_batch_size": 2}
    common |= {
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
    }
    return {
        name: settings(
            *(model, data.get(name, folder / "pairs.jsonl"), folder / f"{engine}-{name}"),
            **{**common, **STAGES[name], **changes},
        )
        for name in names
    }


def on_two_ranks(names, engines, model, folder):
    """Train on one process, then with each engine on two ranks in one launch."""
    for job in jobs_for(names, "one", model, folder, per_device_train_batch_size=2).values():
        assert train(job)["status"] == "completed"
    chosen = {name: one for name, one in engines.items() if "deepspeed" not in one or has("deepspeed")}
    jobs = [
        job
        for name, engine in chosen.items()
        for job in jobs_for(names, name, model, folder, per_device_train_batch_size=1, **engine).values()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "tests.distributed_worker")
    done = launch(*run, folder / "jobs.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return chosen


def check(folder, engine, name):
    """The same figures at each step, the same first gradients, the same weights at the end."""
    one, two = folder / f"one-{name}", folder / f"{engine}-{name}"
    for rank in (0, 1):
        assert json.loads((folder / f"{engine}-{name}.seen-{rank}.json").read_text())["world"] == 2
    assert [row["step"] for row in rows(one)] == [1, 2, 3]
    for before, after in zip(rows(one), rows(two), strict=True):
        assert {key for key in FIGURES if key in after} == {key for key in FIGURES if key in before}
        for key in ("step", "tokens", "supervised_tokens"):
            assert after[key] == before[key], (key, before["step"])
        for key in FIGURES:
            if key in before:
                assert after[key] == pytest.approx(before[key], rel=1e-4, abs=1e-6), (key, before["step"])
    before, after = first_gradients(one), first_gradients(two)
    assert before
    assert after.keys() == before.keys()
    for weight, gradient in before.items():
        torch.testing.assert_close(after[weight], gradient, atol=1e-5, rtol=1e-5)
    for weight, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[weight], tensor, atol=2e-4, rtol=1e-4)
    if name == "rm":
        heads = [load_file(place / "value_head.safetensors") for place in (one, two)]
        for weight, tensor in heads[0].items():
            torch.testing.assert_close(heads[1][weight], tensor, atol=2e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def ddp(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    on_two_ranks(STAGES, {"ddp": {}}, tiny_folder, folder)
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_two_ranks_equal_one(ddp, name):
    check(ddp, "ddp", name)


@pytest.mark.extended
def test_sharded_engines_equal_one_process(tiny_folder, tmp_path):
    """rm saves its head whole and says so under FSDP; dpo and kto shard."""
    engines = {name: one for name, one in ENGINES.items() if name != "ddp"}
    for engine in on_two_ranks(("dpo", "kto"), engines, tiny_folder, tmp_path):
        for name in ("dpo", "kto"):
            check(tmp_path, engine, name)
