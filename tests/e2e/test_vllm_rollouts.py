"""Rollouts by vLLM, which a stand-in plays: what it is asked, which weights it has, and what comes of its answers."""

from __future__ import annotations

import copy
import os

import pytest
import torch

from burnish.api import train
from burnish.errors import BurnishError, MissingExtraError
from burnish.generate.vllm import VllmEngine
from burnish.model.adapter import attach_lora
from burnish.model.merge import merge_adapter, merged_weights
from tests import sampling_vllm
from tests.conftest import build_model
from tests.invariant.test_training import rows
from tests.rollouts import COMMON, prompt_file, reward_file
from tests.runs import settings, weights


@pytest.fixture
def vllm(monkeypatch):
    sampling_vllm.install(monkeypatch)
    yield sampling_vllm.LLMEngine
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)


def run(model, folder, name, **changes):
    common = {**COMMON, "reward_funcs": [f"{reward_file(folder)}:even"], "max_steps": 4, **changes}
    train(settings(model, prompt_file(folder), folder / name, **common))
    return rows(folder / name)


HELD_OUT = {"val_size": 3, "eval_strategy": "steps", "eval_steps": 2}
RUNS = {
    "grpo-lora": {"stage": "grpo", "num_iterations": 2, "generation_batch_size": 8, **HELD_OUT},
    "grpo-full": {"stage": "grpo", "finetuning_type": "full", "learning_rate": 1e-3},
    "ppo-lora": {"stage": "ppo", "ppo_epochs": 1},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_run_is_that_of_our_own_engine(tiny_folder, tmp_path, vllm, name):
    """The stand-in samples as we do from the weights that it was given: with others the rewards would differ."""
    ours = run(tiny_folder, tmp_path, "ours", **RUNS[name])
    theirs = run(tiny_folder, tmp_path, "theirs", use_vllm=True, vllm_gpu_memory_utilization=0.4, **RUNS[name])
    assert len({row["reward"] for row in ours}) > 1
    for one, two in zip(ours, theirs, strict=True):
        for key in ("reward", "loss", "completions/mean_length", "eval_reward", "entropy"):
            if key in one:
                assert two[key] == pytest.approx(one[key], abs=1e-5), (key, one["step"])
        assert two["sampling_gap"] < 1e-4, "our engine's and vLLM's are both after the temperature"
    assert vllm.made.args.gpu_memory_utilization == 0.4
    assert vllm.made.args.model == str(tiny_folder)
    assert vllm.made.args.dtype == "float32", "as it is trained, whatever the checkpoint says"
    assert vllm.made.closed == 1
    loads = vllm.made.weights.loads
    assert loads.count([]) == (4 if name != "grpo-lora" else 2 + 2), "once a rollout, and once an evaluation"
    assert not any("v_head" in one or "lora" in one for part in loads for one in part)
    first, second = (weights(tmp_path / folder) for folder in ("ours", "theirs"))
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, atol=1e-4, rtol=1e-3)


def test_another_policy_is_told(tiny_folder, tmp_path, vllm, monkeypatch, capsys):
    monkeypatch.setattr(VllmEngine, "load_weights", lambda *_: None)
    found = run(tiny_folder, tmp_path, "run", stage="grpo", use_vllm=True, max_steps=6, learning_rate=0.1)
    assert found[0]["sampling_gap"] < 1e-4
    assert found[-1]["sampling_gap"] > 0.1
    assert capsys.readouterr().out.count("the answers are those of another policy") == 1


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_merged_weights_leave_the_model_as_it_is(changes):
    base = build_model(tie_word_embeddings=False)
    plain = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    model, _ = attach_lora(base, rank=4, **changes)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = dict(merged_weights(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.keys() == plain.keys()
    wanted = dict(merge_adapter(copy.deepcopy(model)).named_parameters())
    assert any(not torch.equal(found[name], plain[name]) for name in plain)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor.detach(), atol=1e-6, rtol=1e-5)


def test_what_vllm_cannot_hold_is_told(tiny_folder, tmp_path, vllm):
    with pytest.raises(BurnishError, match="its base was changed"):
        run(tiny_folder, tmp_path, "run", stage="grpo", use_vllm=True, add_tokens="<new>", resize_vocab=True)
    with pytest.raises(BurnishError, match="vllm_mode"):
        run(tiny_folder, tmp_path, "run", stage="grpo", use_vllm=True, vllm_mode="server")


def test_without_vllm_the_extra_is_named(tiny_folder, tmp_path):
    with pytest.raises(MissingExtraError, match="vllm"):
        run(tiny_folder, tmp_path, "run", stage="grpo", use_vllm=True)
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
