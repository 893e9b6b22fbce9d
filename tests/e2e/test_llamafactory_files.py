"""A LLaMA-Factory SFT file and its dataset_info.json run as they are, but for the model path."""

import json

import pytest
import yaml

from tests.conftest import SHARED
from tests.llamafactory import lora_file
from tests.runs import burnish


def run(model, dataset, folder, tmp_path, own=""):
    path = tmp_path / "lora_sft.yaml"
    text = lora_file(model, dataset, folder, tmp_path / "saves", own=own)
    path.write_text(text, encoding="utf-8")
    yaml.safe_load(text)
    done = burnish("train", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "saves" / "run.json").read_text())


def test_alpaca_and_sharegpt_by_their_registry(tiny_folder, tmp_path):
    alpaca = [{"instruction": f"Add {n}", "input": str(n), "output": str(2 * n)} for n in range(8)]
    share = [
        {"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": "Yo"}]} for n in range(8)
    ]
    (tmp_path / "a.json").write_text(json.dumps(alpaca))
    (tmp_path / "b.json").write_text(json.dumps(share))
    info = {"a": {"file_name": "a.json"}, "b": {"file_name": "b.json", "formatting": "sharegpt"}}
    info["b"]["columns"] = {"messages": "conversations"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    record = run(tiny_folder, "a,b", tmp_path, tmp_path)
    assert record["data"]["rows_used"] == 16
    assert record["train"]["steps"] == 6  # 16 rows in steps of 8, three times


@pytest.mark.shared
def test_the_demo_set(tiny_folder, tmp_path):
    data = SHARED / "data"
    if not (data / "alpaca_en_demo.json").is_file():
        pytest.skip("the demo sets are not beside this checkout")
    record = run(tiny_folder, "identity,alpaca_en_demo", data, tmp_path)
    assert record["data"]["rows_read"] == 40
    assert record["data"]["dropped"] == {}


# What the method block of each kind of example says, besides stage and do_train; the rest is as above.
METHODS = {
    "pretrain": ("pt", {"finetuning_type": "lora", "lora_rank": 8, "lora_target": "all"}),
    "qlora": (
        "sft",
        {
            **{"quantization_bit": 4, "quantization_method": "bnb"},
            **{"finetuning_type": "lora", "lora_rank": 8, "lora_target": "all"},
        },
    ),
    "full": ("sft", {"finetuning_type": "full"}),
    "freeze": (
        "sft",
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "freeze_trainable_modules": "all"},
    ),
    "pissa": (
        "sft",
        {
            **{"finetuning_type": "lora", "lora_rank": 8, "lora_target": "all"},
            **{"pissa_init": True, "pissa_iter": 16, "pissa_convert": True},
        },
    ),
    "loraplus": (
        "sft",
        {"finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "loraplus_lr_ratio": 16.0},
    ),
    "adam_mini": ("sft", {"finetuning_type": "full", "use_adam_mini": True}),
    "muon": ("sft", {"finetuning_type": "full", "use_muon": True}),
}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_block(tiny_folder, tmp_path, method):
    from burnish.api import train

    stage, block = METHODS[method]
    rows = [{"text": f"document {n}, " + "on and on " * 9} for n in range(16)]
    if stage == "sft":
        rows = [{"instruction": f"Add {n}", "input": str(n), "output": str(2 * n)} for n in range(16)]
    (tmp_path / "demo.json").write_text(json.dumps(rows))
    info = {"demo": {"file_name": "demo.json"}}
    if stage == "pt":
        info["demo"]["columns"] = {"prompt": "text"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    text = lora_file(tiny_folder, "demo", tmp_path, tmp_path / "saves")
    values = yaml.safe_load(text)
    for key in ("finetuning_type", "lora_rank", "lora_target", *(["template"] if stage == "pt" else [])):
        del values[key]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**values, "stage": stage, **block}), encoding="utf-8")
    record = train(path, ["use_cpu=true", "max_steps=3", "cutoff_len=128"])
    assert record["status"] == "completed"
    assert record["train"]["steps"] == 3
    assert 0 < record["model"]["trainable"] <= record["model"]["parameters"]
    assert (record["model"]["trainable"] == record["model"]["parameters"]) == (block["finetuning_type"] == "full")


def test_a_qlora_file(tiny_folder, tmp_path):
    """LLaMA-Factory's QLoRA example: the LoRA file with the lines of quantization while loading."""
    pytest.importorskip("bitsandbytes")
    rows = [{"instruction": f"Add {n}", "input": str(n), "output": str(2 * n)} for n in range(8)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": {"file_name": "a.json"}}))
    lines = "quantization_bit: 4\nquantization_method: bnb\ndouble_quantization: true\n"
    record = run(tiny_folder, "a", tmp_path, tmp_path, lines)
    assert record["model"]["quantization"] == "4-bit nf4 (double)"
    assert record["train"]["steps"] == 3
    asked = burnish("chat", str(tmp_path / "saves"), "--prompt", "Add 1", "max_new_tokens=2", "use_cpu=true")
    assert asked.returncode == 0, asked.stderr
    said = [line for line in asked.stderr.splitlines() if not line.startswith("(the model ended its answer")]
    assert said == ["note: tokens are made without the decoding kernel: Linear4bit is no plain linear layer"]
