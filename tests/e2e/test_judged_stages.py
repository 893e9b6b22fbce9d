"""LLaMA-Factory's files for dpo, kto and rm run as they are, but for the paths of model and data."""

import json

import pytest

from tests.conftest import SHARED
from tests.judged import feedback_file, pair_file
from tests.llamafactory import lora_file
from tests.runs import burnish

EVAL = """
### eval
# eval_dataset: {dataset}
val_size: 0.25
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""
OWN = {
    "dpo": "pref_beta: 0.1\npref_loss: sigmoid  # choices: [sigmoid (dpo), orpo, simpo]\n",
    "kto": "pref_beta: 0.1\n",
    "rm": "",
}


def run(stage, model, dataset, folder, tmp_path, *more, **changes):
    values = {"count": 12, "rate": "5.0e-3", "logging": 1, "rest": EVAL.format(dataset=dataset), **changes}
    text = lora_file(model, dataset, folder, tmp_path / "saves", stage=stage, own=OWN[stage], **values)
    path = tmp_path / f"llama3_lora_{stage}.yaml"
    path.write_text(text, encoding="utf-8")
    done = burnish("train", str(path), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "saves" / "run.json").read_text())
    lines = (tmp_path / "saves" / "metrics.jsonl").read_text().splitlines()
    return record, [json.loads(line) for line in lines], done.stdout


@pytest.mark.parametrize("stage", ["dpo", "kto", "rm"])
def test_llamafactorys_files(tiny_folder, tmp_path, stage):
    info = {
        "pairs": {"file_name": "pairs.jsonl", "ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen"}},
        "marked": {
            "file_name": "feedback.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
    }
    info["pairs"]["columns"]["rejected"] = "rejected"
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    pair_file(tmp_path, 12)
    feedback_file(tmp_path, 12)
    record, rows, said = run(stage, tiny_folder, "marked" if stage == "kto" else "pairs", tmp_path, tmp_path)
    assert record["data"]["samples"] == 9
    assert record["data"]["eval_rows"] == 3
    assert record["train"]["steps"] == 6
    assert rows[-1]["eval_rewards/margins"] > 0  # of pairs that were held out
    assert "· margin " in said
    assert "right order 100%" in said
    assert rows[-1]["eval_rewards/accuracies"] == 1.0
    files = {path.name for path in (tmp_path / "saves").iterdir()}
    assert {"adapter_model.safetensors", "loss.png", "rewards.png"} <= files
    assert ("value_head.safetensors" in files) == (stage == "rm")
    assert ("reference: the model without its adapter" in said) == (stage != "rm")
    assert ("desirable and" in said) == (stage == "kto")


@pytest.mark.shared
@pytest.mark.parametrize("stage", ["dpo", "kto", "rm"])
def test_the_demo_sets(tiny_folder, tmp_path, stage):
    data = SHARED / "data"
    name = "kto_en_demo" if stage == "kto" else "dpo_en_demo"
    if not (data / f"{name}.json").is_file():
        pytest.skip("the demo sets are not beside this checkout")
    record, _, _ = run(
        stage, tiny_folder, name, data, tmp_path, "cutoff_len=512", template="llama2", count=12, rate="1.0e-4"
    )
    assert record["data"]["rows_read"] == 12
    assert record["data"]["dropped"] == {}
