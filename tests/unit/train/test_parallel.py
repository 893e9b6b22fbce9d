"""Which engine is chosen from settings and accelerate's variables; DeepSpeed's "auto"; what launchers are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from burnish.config import load_settings
from burnish.errors import BurnishError, SettingsError
from burnish.model.precision import Precision
from burnish.train.deepspeed_config import fill_config, fill_sizes, zero_stage
from burnish.train.launch import launcher_arguments, wants_launch
from burnish.train.on_ray import rank_environments
from burnish.train.parallel import FsdpOptions, choose_engine

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FP32 = Precision(torch.float32, "no", "fp32")
BF16 = Precision(torch.bfloat16, "no", "bf16")


def chosen(environ=None, **given):
    return choose_engine(load_settings(given), {} if environ is None else environ)


# -- the engine -----------------------------------------------------------------------------------------------------


def test_without_a_wish_each_process_holds_everything():
    assert chosen().kind == "ddp"
    assert chosen(fsdp=False).kind == "ddp"


@pytest.mark.parametrize(
    ("fsdp", "options"),
    [
        (True, FsdpOptions()),
        ("full_shard auto_wrap", FsdpOptions()),
        ("shard_grad_op", FsdpOptions(reshard=False)),
        (["hybrid_shard", "offload"], FsdpOptions(hybrid=True, offload=True)),
        ("hybrid_shard_zero2 auto_wrap", FsdpOptions(reshard=False, hybrid=True)),
    ],
)
def test_words_of_fsdp(fsdp, options):
    plan = chosen(fsdp=fsdp)
    assert (plan.kind, plan.fsdp) == ("fsdp", options)


def test_fsdp_config_as_mapping_and_as_file(tmp_path):
    config = {"fsdp_version": 2, "fsdp_transformer_layer_cls_to_wrap": "A,B", "reshard_after_forward": False}
    config |= {"offload_params": "true", "min_num_params": 1000, "use_orig_params": True}
    wanted = FsdpOptions(reshard=False, offload=True, layers=("A", "B"), min_params=1000)
    assert chosen(fsdp=True, fsdp_config=config).fsdp == wanted
    (tmp_path / "fsdp.json").write_text(json.dumps(config))
    assert chosen(fsdp=True, fsdp_config=str(tmp_path / "fsdp.json")).fsdp == wanted


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"reshard_after_forwrad": True}, "did you mean 'reshard_after_forward'"),
        ({"version": 1}, "FSDP2 only"),
        ({"activation_checkpointing": True}, "set gradient_checkpointing: true"),
        ({"sharding_strategy": "NO_SHARD"}, "FSDP2 has no strategy 'NO_SHARD'"),
    ],
)
def test_wrong_options_of_fsdp(config, words):
    with pytest.raises(BurnishError) as caught:
        chosen(fsdp=True, fsdp_config=config)
    assert words in str(caught.value)


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for path in (tmp_path / "bad.json", tmp_path / "none.json"):
        with pytest.raises(BurnishError, match="cannot be read as JSON"):
            chosen(deepspeed=str(path))


def test_accelerates_variables_are_honoured_and_taken_away(tmp_path):
    environ = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false"}
    environ |= {"FSDP_OFFLOAD_PARAMS": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    environ |= {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    assert chosen(environ).fsdp == FsdpOptions(reshard=False, offload=True)
    assert "ACCELERATE_USE_FSDP" not in environ
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environ, "accelerate would divide the loss once more"
    assert environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false", "transformers would load nothing on rank 1"

    environ = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    environ |= {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}
    assert chosen(dict(environ)).deepspeed == {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(tmp_path / "ds.json")
    assert zero_stage(chosen(dict(environ)).deepspeed) == 1
    assert chosen(dict(environ), fsdp=True).kind == "fsdp", "the settings win"


@pytest.mark.parametrize("name", ["MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_accelerate_has_and_burnish_has_not_is_refused(name):
    with pytest.raises(BurnishError, match="does not use accelerate's"):
        chosen({f"ACCELERATE_USE_{name}": "true"})


# -- DeepSpeed's configuration --------------------------------------------------------------------------------------

GIVEN = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "max_grad_norm": 0.7}


@pytest.mark.parametrize("path", sorted((EXAMPLES / "deepspeed").glob("*.json")), ids=lambda path: path.stem)
def test_each_example_is_filled(path):
    config = fill_config(json.loads(path.read_text()), load_settings(GIVEN), BF16, 2)
    config = fill_sizes(config, 64)
    assert '"auto"' not in json.dumps(config)
    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 4
    assert config["gradient_clipping"] == 0.7
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)
    assert zero_stage(config) == int(path.stem[4])
    offload = {key for key in config["zero_optimization"] if key.startswith("offload")}
    assert bool(offload) == path.stem.endswith("offload")
    if zero_stage(config) == 3:
        assert config["zero_optimization"]["reduce_bucket_size"] == 64 * 64


def test_a_file_that_contradicts_the_settings_is_refused():
    config = {"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0, "bf16": {"enabled": True}}
    with pytest.raises(SettingsError) as caught:
        fill_config(config, load_settings(GIVEN), FP32, 2)
    assert [problem.at for problem in caught.value.problems] == [
        "deepspeed: train_micro_batch_size_per_gpu",
        "deepspeed: gradient_clipping",
        "deepspeed: bf16.enabled",
    ]


def test_auto_that_nothing_can_fill():
    config = fill_config({"zero_optimization": {"stage": 2, "sub_group_size": "auto"}}, load_settings({}), FP32, 1)
    with pytest.raises(BurnishError, match="sub_group_size"):
        fill_sizes(config, 64)


def test_round_robin_is_turned_off_because_the_state_would_be_saved_wrong(capsys):
    config = {"zero_optimization": {"stage": 2, "round_robin_gradients": True}}
    filled = fill_config(config, load_settings({}), FP32, 2)
    assert filled["zero_optimization"]["round_robin_gradients"] is False
    assert "round_robin_gradients is turned off" in capsys.readouterr().out
    assert config["zero_optimization"]["round_robin_gradients"] is True, "the user's mapping stays as it is"


def test_optimizer_and_scheduler_are_ours(capsys):
    config = fill_config({"optimizer": {"type": "AdamW"}, "scheduler": {}}, load_settings({}), FP32, 1)
    assert "optimizer" not in config
    assert "scheduler" not in config
    assert "optim says which it is" in capsys.readouterr().out


# -- launchers ------------------------------------------------------------------------------------------------------


def test_machines_by_the_usual_variables():
    assert launcher_arguments({}, 4) == ["--nproc_per_node", "4", "--nnodes", "1"]
    environ = {"NNODES": "2", "NODE_RANK": "0", "NPROC_PER_NODE": "8", "MASTER_ADDR": "10.0.0.1"}
    words = launcher_arguments(environ, 1)
    assert words[:4] == ["--nproc_per_node", "8", "--nnodes", "2"]
    assert words[4:] == ["--node_rank", "0", "--master_addr", "10.0.0.1", "--master_port", "29500"]
    assert launcher_arguments({"MASTER_PORT": "1234"}, 1)[-1] == "1234"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"NNODES": "2"}, "NNODES=2 needs NODE_RANK"),
        ({"NNODES": "2", "NODE_RANK": "1"}, "NNODES=2 needs MASTER_ADDR"),
        ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE must be a whole number, not 'two'"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE must be a whole number, not '0'"),
    ],
)
def test_variables_that_are_missing_or_wrong(environ, words):
    with pytest.raises(BurnishError) as caught:
        launcher_arguments(environ, 1)
    assert words in caught.value.what


def test_who_starts_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert wants_launch({}, use_cpu=False)
    assert not wants_launch({}, use_cpu=True)
    assert wants_launch({"FORCE_TORCHRUN": "1"}, use_cpu=True)
    assert not wants_launch({"FORCE_TORCHRUN": "1", "RANK": "0"}, use_cpu=False), "a launcher has started this one"
    assert not wants_launch({"ACCELERATE_MIXED_PRECISION": "no"}, use_cpu=False), "accelerate was told to start one"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not wants_launch({}, use_cpu=False)


def test_ranks_on_ray():
    places = [("a", "10.0.0.1", 11, [2]), ("a", "10.0.0.1", 12, [3]), ("b", "10.0.0.2", 13, [0])]
    found = rank_environments(places, 4321)
    assert [one["RANK"] for one in found] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in found] == ["0", "1", "0"]
    assert [one["LOCAL_WORLD_SIZE"] for one in found] == ["2", "2", "1"]
    assert {one["MASTER_ADDR"] for one in found} == {"10.0.0.1"}
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["2,3", "2,3", "0"]
