"""Every verb through the real command line on a tiny model: what it writes, prints and exits with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests import crashes
from tests.runs import burnish, settings


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    """A run made by `burnish train`, with key=value and --key value on top of the file."""
    folder = tmp_path_factory.mktemp("路径 with 空格")
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n} {n}"} for n in range(10)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}))
    values = settings(tiny_folder, folder / "rows.json", folder / "run", template="default", plot_loss=True)
    values |= {"dataset": "mine", "dataset_dir": str(folder), "val_size": 2, "save_strategy": "epoch"}
    (folder / "run.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    done = burnish("train", str(folder / "run.yaml"), "num_train_epochs=3", "--learning_rate", "1e-3")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_the_run_folder_is_as_promised(trained):
    folder, done = trained
    run = folder / "run"
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["settings"]["learning_rate"] == 1e-3
    assert record["settings"]["num_train_epochs"] == 3
    assert record["data"]["rows_read"] == 10
    assert record["data"]["rows_used"] == 8
    assert record["data"]["dropped"] == {}
    assert record["train"]["steps"] == 12
    assert record["train"]["eval_loss"] > 0
    assert record["memory"]["peak_rss_mb"] > 50
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    wanted = {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "supervised_tokens"}
    assert wanted | {"tokens_per_second", "elapsed_s", "rss_mb"} <= rows[0].keys()
    assert rows[-1]["eval_loss"] == record["train"]["eval_loss"]
    assert (run / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert "12 optimizer steps" in (run / "log.txt").read_text(encoding="utf-8")
    assert sorted(p.name for p in run.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-4",
        "checkpoint-8",
    ]
    assert "8 of 10 rows" in done.stdout
    assert json.loads((run / "adapter_config.json").read_text())["r"] == 4


def test_a_run_is_never_overwritten_without_leave(trained):
    folder, _ = trained
    again = burnish("train", str(folder / "run.yaml"))
    assert again.returncode == 2
    assert "overwrite_output_dir" in again.stderr
    assert "resume_from_checkpoint" in again.stderr


def test_resuming_a_complete_run_does_nothing(trained):
    folder, _ = trained
    before = (folder / "run" / "adapter_model.safetensors").stat().st_mtime_ns
    done = burnish("train", str(folder / "run.yaml"), "num_train_epochs=3", "resume_from_checkpoint=true")
    assert done.returncode == 0
    assert "complete" in done.stdout
    assert (folder / "run" / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_chat_answers_once(trained):
    folder, _ = trained
    done = burnish("chat", str(folder / "run"), "--prompt", "Say 3", "max_new_tokens=8", "do_sample=false")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")


def test_chat_converses(trained):
    folder, _ = trained
    typed = "/help\nSay 3\n/system Be brief.\n/undo\n/clear\n/exit\n"
    done = burnish("chat", str(folder / "run"), "max_new_tokens=4", "do_sample=false", typed=typed)
    assert done.returncode == 0, done.stderr
    assert "/system TEXT" in done.stdout
    assert "tokens/s" in done.stderr


def test_inspect_prints_what_is_trained(trained):
    folder, _ = trained
    done = burnish("data", "inspect", str(folder / "run.yaml"), "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["row"] for line in lines] == list(range(10))
    assert lines[3]["supervised_text"] == "3 3<|im_end|>"
    assert lines[3]["tokens"] == len(lines[3]["input_ids"]) == len(lines[3]["labels"])
    assert lines[3].keys() == {"index", "dataset", "row", "input_ids", "labels", "tokens", "supervised_text"}


def test_inspect_for_people(trained, tmp_path):
    folder, _ = trained
    shown = burnish("data", "inspect", str(folder / "run.yaml"), "--limit", "1")
    assert "⟦0 0<|im_end|>⟧" in shown.stdout
    assert re.search(r"masked +the user's words", shown.stdout)
    third = burnish("data", "inspect", str(folder / "run.yaml"), "--row", "3").stdout
    assert "⟦3 3<|im_end|>⟧" in third
    assert "row 3 ·" in third
    assert burnish("data", "inspect", str(folder / "run.yaml"), "--row", "99").returncode == 2
    page = tmp_path / "page.html"
    assert burnish("data", "inspect", str(folder / "run.yaml"), "--html", str(page)).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert "class='answer'" in text
    assert "class='stop'" in text
    assert "src=" not in text


def test_lists_and_references(trained):
    folder, _ = trained
    assert "mine" in burnish("data", "list", "--dataset-dir", str(folder)).stdout
    assert "completed" in burnish("runs", "list", str(folder)).stdout
    assert "loss" in burnish("runs", "show", str(folder / "run")).stdout
    assert "torch" in burnish("env").stdout
    assert "default" in burnish("templates").stdout
    shown = burnish("templates", "show", "qwen3").stdout
    assert "⟦<think>\n\n</think>\n\nHi!<|im_end|>⟧" in shown
    assert "row 2 of 2" in shown
    assert burnish("templates", "show", "chatml", "--source").stdout.startswith("{%-")
    differs = burnish("templates", "show", "qwen", "--model", str(folder / "run"), "--diff").stdout
    assert "+You are Qwen, created by Alibaba Cloud." in differs
    refused = burnish("templates", "show", "chatml", "--diff")
    assert (refused.returncode, "whose template?" in refused.stderr) == (2, True)
    assert "lora_rank" in burnish("settings", "lora_rank").stdout
    schema = json.loads(burnish("settings", "--json-schema").stdout)
    assert "lora_rank" in schema["properties"]


def test_light_commands_never_load_torch(trained):
    folder, _ = trained
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["settings"],
        ["data", "list", "--dataset-dir", str(folder)],
    ):
        code = (
            "import sys, runpy; sys.argv = ['burnish', *sys.argv[1:]]\n"
            "try: runpy.run_module('burnish', run_name='__main__')\n"
            "except SystemExit: pass\n"
            "print('LOADED', [m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_a_signal_saves_and_exits_130_and_the_run_goes_on(tiny_folder, chat_file, tmp_path):
    values = settings(tiny_folder, chat_file, tmp_path / "run", num_train_epochs=2000, save_strategy="no")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    child = crashes.start("train", str(path), said=tmp_path / "said.txt")
    metrics = tmp_path / "run" / "metrics.jsonl"
    limit = time.monotonic() + 120
    while (not metrics.exists() or metrics.stat().st_size == 0) and time.monotonic() < limit:
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(120) == 130, child.output
    assert "resume_from_checkpoint" in child.output
    saved = list((tmp_path / "run").glob("checkpoint-*"))
    assert len(saved) == 1
    step = int(saved[0].name.split("-")[1])
    done = burnish("train", str(path), "resume_from_checkpoint=true", f"max_steps={step + 2}")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, step + 3))
    assert "max_steps was" in done.stdout


def test_nothing_is_written_outside_the_output_folder_and_the_cache(tiny_folder, chat_file, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    run = settings(tiny_folder, chat_file, tmp_path / "out", plot_loss=True, max_steps=1)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run), encoding="utf-8")
    environment = {"HOME": str(home), "BURNISH_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    environment |= {"XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    done = burnish("train", str(path), cwd=home, anew=True, **environment)
    assert done.returncode == 0, done.stderr
    left = [os.path.join(where, name) for where, _, names in os.walk(home) for name in names]
    assert left == []
