"""ppo, grpo and rloo through the real command line: LLaMA-Factory's file, two ranks, mistakes that people make."""

from __future__ import annotations

import json

import pytest
import torch

from burnish.api import train
from tests.e2e.test_distributed import ROOT, train_on_two
from tests.invariant.test_training import rows, untimed
from tests.judged import pair_file
from tests.llamafactory import lora_file
from tests.rollouts import COMMON, prompt_file, reward_file
from tests.runs import burnish, settings, weights

STAGES = {
    "grpo": {"stage": "grpo", "beta": 0.05, "num_iterations": 2, "dynamic_sample": True},
    "rloo": {"stage": "rloo", "beta": 0.05, "generation_batch_size": 16},
    "ppo": {"stage": "ppo", "ppo_epochs": 2, "ppo_whiten_rewards": True, "ppo_score_norm": True},
    "streamed": {"stage": "grpo", "streaming": True, "buffer_size": 3},
}


ENGINES = {"ddp": {}, "fsdp": {"fsdp": True}}
PAIRS = [("ddp", "grpo"), ("ddp", "rloo"), ("ddp", "ppo"), ("ddp", "streamed"), ("fsdp", "grpo"), ("fsdp", "ppo")]
ZERO_3 = {"deepspeed": str(ROOT / "examples/deepspeed/zero3.json")}


def jobs(model, folder, name, rows_a_rank, **engine):
    """A run of each stage; picky rewards leave one rank with fewer answers than the other."""
    common = {**COMMON, "max_steps": 4, "reward_funcs": [f"{reward_file(folder)}:picky"]}
    common |= {"per_device_train_batch_size": rows_a_rank, "learning_rate": 1e-3}
    common |= {"val_size": 3, "eval_strategy": "steps", "eval_steps": 2}
    data = prompt_file(folder)
    return [
        settings(model, data, folder / f"{name}-{stage}", **{**common, **changes, **engine})
        for stage, changes in STAGES.items()
    ]


def on_two_ranks(tiny_folder, folder, engines):
    """Each stage on two ranks with half the answers each, with several engines in one launch, and on one."""
    for job in jobs(tiny_folder, folder, "one", 8):
        train(job)
    shared = [job for name, engine in engines.items() for job in jobs(tiny_folder, folder, name, 4, **engine)]
    shared = [job for job in shared if not job["output_dir"].endswith(("fsdp-rloo", "fsdp-streamed"))]  # as others
    (folder / "jobs.json").write_text(json.dumps(shared))
    done = train_on_two(folder / "jobs.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def two_ranks(tiny_folder, tmp_path_factory):
    return on_two_ranks(tiny_folder, tmp_path_factory.mktemp("ranks"), ENGINES)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize(("engine", "stage"), PAIRS)
def test_two_ranks_equal_one(two_ranks, engine, stage):
    """With FSDP2 the weights are cut into shards, and put together for the answers alone."""
    check_ranks(two_ranks, engine, stage)


@pytest.mark.extended
def test_shards_of_deepspeed_equal_one_process(tiny_folder, tmp_path):
    pytest.importorskip("deepspeed")
    on_two_ranks(tiny_folder, tmp_path, {"zero3": ZERO_3})
    for stage in STAGES:
        check_ranks(tmp_path, "zero3", stage)


def check_ranks(folder, engine, stage):
    one, two = folder / f"one-{stage}", folder / f"{engine}-{stage}"
    seen = json.loads((folder / f"{engine}-{stage}.seen-1.json").read_text())
    assert seen["world"] == 2
    assert seen["engine"] == {"ddp": "Engine", "fsdp": "ShardedEngine", "zero3": "ZeroEngine"}[engine]
    assert len(rows(one)) == len(rows(two)) == 4
    for before, after in zip(untimed(rows(one)), untimed(rows(two)), strict=True):
        assert before.keys() == after.keys()
        for key in ("reward", "rewards/picky", "unscored", "kl", "completions/mean_length", "loss", "grad_norm"):
            if key in before:
                # AdamW divides by the size of a gradient: after some steps its last digits show.
                rel = 1e-4 if before["step"] < 3 else 1e-3
                assert after[key] == pytest.approx(before[key], rel=rel, abs=1e-6), (key, before["step"])
        if before["step"] == 2:  # three prompts: one rank has two of them
            assert after["eval_answers"] == before["eval_answers"] == 3
            assert after["eval_unscored"] == before["eval_unscored"]
            assert after["eval_reward"] == pytest.approx(before["eval_reward"], rel=1e-4)
        assert after["tokens"] == before["tokens"]
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, atol=2e-4, rtol=1e-3)
    assert (one / "completions.md").read_text() == (two / "completions.md").read_text()


# -- LLaMA-Factory's file ---------------------------------------------------------------------------------------------


def test_llamafactorys_example_of_ppo_runs_as_it_is(tiny_folder, tmp_path):
    train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "reward", stage="rm", max_steps=4))
    rows_ = [{"instruction": f"Say {n}", "input": "", "output": f"{n} it is"} for n in range(12)]
    (tmp_path / "demo.json").write_text(json.dumps(rows_))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"demo": {"file_name": "demo.json"}}))
    text = lora_file(
        tiny_folder,
        "demo",
        tmp_path,
        tmp_path / "ppo",
        stage="ppo",
        own=f"reward_model: {tmp_path / 'reward'}\n",
    )
    text += "\n### generate\nmax_new_tokens: 8\ntop_k: 0\ntop_p: 0.9\n"
    file = tmp_path / "llama3_lora_ppo.yaml"
    file.write_text(text)
    done = burnish("train", str(file), "use_cpu=true")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "ppo" / "run.json").read_text())
    assert found["status"] == "completed"
    # 12 prompts, 3 times, 8 a rollout: 5 rollouts, each gone over 4 times
    assert found["train"]["steps"] == 20
    [*_, last] = rows(tmp_path / "ppo")
    assert "rewards/reward_model" in last
    assert {"kl", "kl_coef", "loss_value", "clip_ratio/high"} <= last.keys()
    assert "reward model" in done.stdout
    assert (tmp_path / "ppo" / "rewards.png").is_file()


def test_a_reward_model_and_functions_add_up(tiny_folder, tmp_path):
    train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "reward", stage="rm", max_steps=4))
    changes = {**COMMON, "stage": "grpo", "max_steps": 1, "reward_funcs": [f"{reward_file(tmp_path)}:even"]}
    made = settings(tiny_folder, prompt_file(tmp_path), tmp_path / "run", **changes)
    train({**made, "reward_model": str(tmp_path / "reward")})
    [row] = rows(tmp_path / "run")
    assert row["reward"] == pytest.approx(row["rewards/reward_model"] + row["rewards/even"], abs=1e-6)


# -- mistakes ---------------------------------------------------------------------------------------------------------

STREAMED = {"streaming": True, "max_steps": 2, "buffer_size": 4}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward_model": "nowhere"}, "reward_model: nowhere"),
        ({"reward_funcs": "math_eqal"}, "did you mean 'math_equal'"),
        ({"reward_funcs": "exact_match", "generation_batch_size": 12}, "generation_batch_size: 12 is no multiple"),
        ({"reward_funcs": [{"name": "exact_match", "column": "right"}]}, "'right', which no row has"),
        ({**STREAMED, "reward_funcs": [{"name": "exact_match", "column": "right"}]}, "'right', which no row has"),
        ({**STREAMED, "reward_funcs": "exact_match", "cutoff_len": 512}, "a streamed prompt may have 512 tokens"),
        ({"reward_funcs": "exact_match", "cutoff_len": 600}, "the model reads 512"),
    ],
    ids=["no model", "no function", "sizes", "no column", "no column in a stream", "long stream", "too long"],
)
def test_mistakes_are_told_before_training(tiny_folder, tmp_path, changes, words):
    from burnish.errors import BurnishError

    data = prompt_file(tmp_path)
    if "cutoff_len" in changes:
        row = {"messages": [{"role": "user", "content": "so " * 180}, {"role": "assistant", "content": "yes"}]}
        data.write_text(json.dumps(row) + "\n")
    with pytest.raises(BurnishError) as caught:
        train({**settings(tiny_folder, data, tmp_path / "run", **COMMON, stage="grpo"), **changes})
    error = caught.value
    assert words in f"{error.what} {error.at} {error.fix}"
    assert error.exit_code == 2
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
