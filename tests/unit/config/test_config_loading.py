"""From files, mappings and command lines to settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from burnish.config import Settings, TrainingSettings, load_settings
from burnish.errors import SettingsError

FIRST_LORA_RUN = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
overwrite_cache: true
"""


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(source: object, *overrides: str, **more: object) -> list[tuple[str, str | None, str | None]]:
    with pytest.raises(SettingsError) as caught:
        load_settings(source, overrides, **more)  # type: ignore[arg-type]
    return [(problem.what, problem.at, problem.fix) for problem in caught.value.problems]


def test_defaults_are_those_users_know() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert settings.training.learning_rate == 5e-5
    assert settings.training.per_device_train_batch_size == 8
    assert settings.training.num_train_epochs == 3.0
    assert settings.training.logging_steps == 10
    assert settings.training.do_train is True
    assert settings.training.bf16 is None
    assert settings.data.cutoff_len == 2048
    assert settings.data.dataset_dir == "data"
    assert settings.tuning.finetuning_type == "lora"
    assert settings.tuning.lora_target == ("all",)
    assert settings.generating.temperature == 0.95
    assert settings.given == frozenset()


def test_a_llama_factory_file_loads_unchanged(tmp_path: Path) -> None:
    path = write(tmp_path, FIRST_LORA_RUN)
    settings = load_settings(path)
    assert settings.model.model_name_or_path == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert settings.model.trust_remote_code is True
    assert settings.data.dataset == ("identity", "alpaca_en_demo")
    assert settings.training.learning_rate == 1e-4
    assert settings.training.bf16 is True
    assert settings.training.report_to == ("none",)
    assert settings.training.resume_from_checkpoint is False
    assert settings.origins["lora_rank"] == f"{path}:9"
    assert settings.source_path == Path(path)
    assert "resume_from_checkpoint" not in settings.given
    assert {"stage", "ddp_timeout", "lora_rank"} <= settings.given
    assert settings.notes == ("dataloader_num_workers changes nothing here: batches are made in the training process",)


def test_settings_are_frozen() -> None:
    settings = load_settings({})
    with pytest.raises(ValidationError):
        settings.training.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rte=1.0)  # type: ignore[call-arg]


def test_flat_is_json_and_loads_to_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, FIRST_LORA_RUN)
    flat = load_settings(path, ["lora_rank=16", "val_size=0.1", "eval_strategy=steps", "neat_packing=true"]).flat()
    assert flat["lora_alpha"] == 32
    assert flat["dataset"] == ["identity", "alpaca_en_demo"]
    again = load_settings(json.loads(json.dumps(flat, allow_nan=False)))
    assert again.flat() == flat


def test_flat_of_every_adjusted_value_loads_to_the_same() -> None:
    for given in (
        {"temperature": 0},
        {"max_length": 64},
        {"disable_gradient_checkpointing": True},
        {"do_eval": True, "val_size": 3},
        {"resume_from_checkpoint": True, "overwrite_output_dir": True},
        {"finetuning_type": "full", "lora_rank": 4},
        {"seed": 7},
    ):
        flat = load_settings(given).flat()
        again = load_settings(flat)
        assert again.flat() == flat


def test_secrets_are_neither_shown_nor_written() -> None:
    settings = load_settings({"hf_hub_token": "hf_abc"})
    assert settings.model.hf_hub_token == "hf_abc"
    assert settings.flat()["hf_hub_token"] is None
    assert "hf_abc" not in repr(settings)
    assert problems_of({"hf_hub_token": ["hf_abc"]})[0][0] == "'hf_hub_token' must be text, not this value"


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "1E-4", "0.0001", "'1e-4'", ".1e-3", "1.e-4"])
def test_rates_are_floats_however_written(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, f"learning_rate: {written}\n")
    assert load_settings(path).training.learning_rate == 1e-4
    assert load_settings({}, [f"learning_rate={written}"]).training.learning_rate == 1e-4
    assert load_settings({"learning_rate": "1e-4"}).training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("eval_strategy", "no", "no"),
        ("save_strategy", "no", "no"),
        ("bf16", "yes", True),
        ("bf16", "off", False),
        ("bf16", "1", True),
        ("run_name", "007", "007"),
        ("run_name", "2024-01-31", "2024-01-31"),
        ("run_name", "1:30", "1:30"),
        ("run_name", "1e3", "1e3"),
        ("model_revision", "4711", "4711"),
        ("lora_target", "q_proj, v_proj,", ["q_proj", "v_proj"]),
        ("lora_target", "[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("dataset", "2024", ["2024"]),
        ("save_steps", "1_000", 1000),
        ("save_steps", "100.0", 100),
        ("save_total_limit", "null", None),
        ("resume_from_checkpoint", "true", True),
        ("resume_from_checkpoint", "out/checkpoint-8", "out/checkpoint-8"),
        ("report_to", "none", ["none"]),
        ("report_to", "no", ["none"]),
        ("report_to", "[]", ["none"]),
        ("report_to", "tensorboard, WandB", ["tensorboard", "wandb"]),
        ("report_to", "[all]", ["all"]),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("cutoff_len", "", 2048),
        ("optim", "adamw_torch_fused", "adamw_torch_fused"),
        ("warmup_steps", "0.05", 0.05),
        ("warmup_steps", "20", 20),
    ],
)
def test_values_mean_the_same_in_a_file_and_on_the_command_line(
    tmp_path: Path, key: str, written: str, value: object
) -> None:
    assert load_settings(write(tmp_path, f"{key}: {written}\n")).flat()[key] == value
    assert load_settings({}, [f"{key}={written}"]).flat()[key] == value


@pytest.mark.parametrize(
    "written", ["momentum=0.9, nesterov=true,dampening=0", '{"momentum": 0.9, "nesterov": true, "dampening": 0}']
)
def test_values_of_the_optimizer_are_pairs_or_a_mapping(tmp_path: Path, written: str) -> None:
    value = {"momentum": 0.9, "nesterov": True, "dampening": 0}
    assert load_settings(write(tmp_path, f"optim: sgd\noptim_args: {written}\n")).training.optim_args == value
    assert load_settings({"optim": "sgd"}, [f"optim_args={written}"]).training.optim_args == value


def test_json_files_load_and_know_their_lines(tmp_path: Path) -> None:
    text = '{\n  "stage": "sft",\n  "lr_scheduler_kwargs": {"num_cycles":\n 2},\n\t"seed": 5\n}'
    path = write(tmp_path, text, "run.json")
    settings = load_settings(path)
    assert settings.training.seed == 5
    assert settings.origins == {"stage": f"{path}:2", "lr_scheduler_kwargs": f"{path}:3", "seed": f"{path}:5"}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "运行 one.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 5\n")
    assert load_settings(path).training.seed == 5


def test_command_line_forms_and_their_origin(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\nbf16: false\nmax_samples: 5\n")
    words = ["seed=2", "--lora-rank", "4", "--learning_rate=1e-3", "--bf16", "--do_eval", "val_size=0.2"]
    settings = load_settings(path, [*words, "--max_steps", "-1", "--max_samples", "null"])
    assert (settings.training.seed, settings.tuning.lora_rank, settings.training.learning_rate) == (
        2,
        4,
        1e-3,
    )
    assert settings.training.bf16 is True
    assert settings.training.do_eval is True
    assert settings.data.val_size == 0.2
    assert settings.data.max_samples is None
    assert settings.origins["lora_rank"] == "command line"
    assert "max_samples" not in settings.given


def test_text_on_the_command_line_is_taken_as_it_stands() -> None:
    settings = load_settings({}, ["default_system=You: a # bot", "run_name=no", "template='null'"])
    assert settings.data.default_system == "You: a # bot"
    assert settings.training.run_name == "no"
    assert settings.data.template == "null"


def test_the_last_value_on_the_command_line_counts_and_says_so() -> None:
    settings = load_settings({}, ["seed=1", "--seed", "2"])
    assert settings.training.seed == 2
    assert settings.notes == ("'seed' stands twice on the command line; the last value is used",)


def test_older_names_work(tmp_path: Path) -> None:
    path = write(tmp_path, "dev_ratio: 0.1\nevaluation_strategy: epoch\n")
    settings = load_settings(path)
    assert settings.data.val_size == 0.1
    assert settings.training.eval_strategy == "epoch"
    assert settings.origins["val_size"] == f"{path}:1"
    assert load_settings(path, ["val_size=0.2"]).data.val_size == 0.2


def test_home_is_expanded_in_paths_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load_settings(
        {
            "output_dir": "~/out",
            "run_name": "~/out",
            "adapter_name_or_path": "~/a,b",
            "cache_dir": Path("c/$X"),
        }
    )
    assert settings.training.output_dir == "/home/someone/out"
    assert settings.training.run_name == "~/out"
    assert settings.model.adapter_name_or_path == ("/home/someone/a", "b")
    assert settings.model.cache_dir == "c/$X"


def test_null_means_the_default_even_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "lora_rank: 16\nseed:\n")
    settings = load_settings(path, ["lora_rank=null"])
    assert settings.tuning.lora_rank == 8
    assert settings.given == frozenset()


def test_required_names_are_reported_with_the_other_problems(tmp_path: Path) -> None:
    path = write(tmp_path, "lora_rnak: 3\n")
    found = problems_of(path, require=("dataset", "output_dir"))
    assert [(what, at) for what, at, _ in found] == [
        ("'dataset' is not set", path),
        ("'output_dir' is not set", path),
        ("unknown setting 'lora_rnak'", f"{path}:1: lora_rnak"),
    ]
    assert found[1][2] == ("add a line `output_dir: …`. Folder that receives the run: weights, metrics, plots and log.")
    assert load_settings({"dataset": "a"}, require=("dataset",)).data.dataset == ("a",)


def test_config_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, burnish.config, burnish.config.reference as reference;"
        "reference.json_schema(); burnish.config.load_settings({});"
        "print([m for m in ('torch', 'transformers', 'peft', 'accelerate', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
