"""Several processes: two ranks equal one, with every engine; nothing is lost by a kill; the failed rank speaks.

Each launch of two processes costs ten seconds or more, so one launch trains with several engines, and some checks are
marked `extended`: `pytest --extended tests/e2e/test_distributed.py` runs them too.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from burnish.api import train
from burnish.model.load import load_model
from burnish.model.source import find_model
from tests import forked
from tests.conftest import build_model
from tests.judged import feedback_file, pair_file, write
from tests.runs import settings, weights

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")


def has(package):
    import importlib.util

    return importlib.util.find_spec(package) is not None


def environment(**more):
    """Two processes on this machine, one thread each."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "NPROC_PER_NODE": "2",
        "FORCE_TORCHRUN": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        **more,
    }


def launch(*words, timeout=600, **more):
    """Run a launcher's command line to its end."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(**more),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def train_on_two(jobs):
    """Run a file of jobs on two ranks, without torchrun's own start."""
    return forked.two_ranks((str(jobs),), environment(), "tests.distributed_worker")


def rows(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def optimizer_state(folder):
    from safetensors.torch import load_file

    return load_file(folder / "optimizer.safetensors")


def uneven(folder):
    """Thirteen conversations of unequal length: the last step of an epoch leaves a rank without rows."""
    talks = [
        [("user", f"Say the number {n} {'please ' * (n % 4)}"), ("assistant", f"{n} " * (1 + n % 5))] for n in range(13)
    ]
    path = folder / "uneven.jsonl"
    made = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


# -- two ranks equal one ------------------------------------------------------------------------------------------

ENGINES = {
    "ddp": {},
    "fsdp": {"fsdp": True},
    "zero2": {
        "deepspeed": {"zero_optimization": {"stage": 2}, "gradient_clipping": "auto", "bf16": {"enabled": "auto"}}
    },
}
MORE_ENGINES = {
    "fsdp-zero2": {"fsdp": "shard_grad_op auto_wrap", "fsdp_config": {"transformer_layer_cls_to_wrap": "LlamaMLP"}},
    "fsdp-hybrid": {
        "fsdp": "hybrid_shard auto_wrap offload",
        "fsdp_config": {"min_num_params": 2000},
        "gradient_checkpointing": True,
    },
    "zero1": {"deepspeed": str(ROOT / "examples/deepspeed/zero1.json")},
    "zero2-offload": {"deepspeed": str(ROOT / "examples/deepspeed/zero2_offload.json")},
    "zero3": {"deepspeed": str(ROOT / "examples/deepspeed/zero3.json")},
    "zero3-offload": {"deepspeed": str(ROOT / "examples/deepspeed/zero3_offload.json")},
}


def jobs_for(engines, model, data, folder):
    """A full and a LoRA run for each engine, at a global batch of four."""
    common = {"eval_strategy": "steps", "eval_steps": 2, "val_size": 3, "per_device_eval_batch_size": 2}
    common |= {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1, "max_grad_norm": 0.5}
    kinds = {"full": {"finetuning_type": "full"}, "lora": {"lora_dropout": 0.0, "learning_rate": 1e-2}}
    return {
        f"{name}-{kind}": settings(
            model, data, folder / f"{name}-{kind}", **common, **changes, **engine, per_device_train_batch_size=1
        )
        for name, engine in engines.items()
        for kind, changes in kinds.items()
    }


def run_engines(engines, tiny_folder, folder, more=None):
    """Train on one process and, in one launch with `more` jobs, on two."""
    data = uneven(folder)
    jobs = jobs_for(engines, tiny_folder, data, folder) | (more or {})
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    for kind, job in {
        k: jobs_for({"one": {}}, tiny_folder, data, folder)[f"one-{k}"] for k in ("full", "lora")
    }.items():
        assert train({**job, "per_device_train_batch_size": 2})["status"] == "completed", kind
    done = train_on_two(folder / "jobs.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def engines(tiny_folder, tmp_path_factory):
    """Each engine's runs on two ranks, and the same runs on one."""
    folder = tmp_path_factory.mktemp("engines")
    chosen = {name: one for name, one in ENGINES.items() if "deepspeed" not in one or has("deepspeed")}
    more = judged_on_one(["ddp"], {"ddp": {}}, tiny_folder, folder) | streamed_on_one(tiny_folder, folder)
    return folder, run_engines(chosen, tiny_folder, folder, more)


def streamed_on_one(model, folder):
    """Train on streamed data in two lanes on one process; returns the same run for two ranks, from the start and on."""
    (folder / "files").mkdir()
    for number, count in enumerate([6, 5, 5, 4]):
        lines = [json.dumps({"instruction": f"{number} {row}", "output": "so " * row + "."}) for row in range(count)]
        (folder / "files" / f"{number}.jsonl").write_text("\n".join(lines))
    common = {"streaming": True, "max_steps": 6, "buffer_size": 3, "val_size": 2, "save_strategy": "steps"}
    common |= {"save_steps": 1, "per_device_train_batch_size": 1, "finetuning_type": "full", "max_grad_norm": 0.5}

    def job(name, **changes):
        return settings(model, f"{folder / 'files'}/", folder / name, **common, **changes)

    alone = job("one-streamed", stream_lanes=2, gradient_accumulation_steps=4)
    assert train(alone)["data"]["passes"] == [2, 2]
    shared = {"gradient_accumulation_steps": 2}
    mixed = mixed_streams(folder)
    assert train(job("one-mixed", **mixed, stream_lanes=2, gradient_accumulation_steps=4))["data"]["lanes"] == 2
    return {
        "ddp-mixed": job("ddp-mixed", **mixed, **shared),
        "ddp-mixed-resumed": job(
            "ddp-mixed-resumed", **mixed, **shared, resume_from_checkpoint=str(folder / "one-mixed/checkpoint-3")
        ),
        "ddp-streamed": job("ddp-streamed", **shared),
        "ddp-resumed": job("ddp-resumed", **shared, resume_from_checkpoint=str(folder / "one-streamed/checkpoint-2")),
    }


def mixed_streams(folder):
    """One file each of two datasets that take turns, and of the second one rows are drawn."""
    for name, count in (("talk", 30), ("drawn", 14)):
        lines = [json.dumps({"instruction": f"{name} {row}", "output": "no " * row + "."}) for row in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    about = {"talk": {"file_name": "talk.jsonl"}, "drawn": {"file_name": "drawn.jsonl", "num_samples": 24}}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    taking_turns = {"mix_strategy": "interleave_over", "interleave_probs": "0.6,0.4"}
    return {"dataset": ["talk", "drawn"], "dataset_dir": str(folder), **taking_turns}


def check_streamed(before, after, first=1):
    for one, two in zip(rows(before)[first - 1 :], rows(after), strict=True):
        assert [two[key] for key in ("step", "tokens", "epoch")] == [one[key] for key in ("step", "tokens", "epoch")]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, tensor in weights(before).items():
        torch.testing.assert_close(weights(after)[name], tensor, atol=1e-4, rtol=1e-4)


def test_two_ranks_that_read_their_own_files_equal_one_process_that_reads_all(engines):
    folder, done = engines
    check_streamed(folder / "one-streamed", folder / "ddp-streamed")
    assert "the data is read in 2 lanes, 1 by each process" in done.stdout
    record = json.loads((folder / "ddp-streamed" / "run.json").read_text())["data"]
    assert (record["lanes"], record["passes"]) == (2, [2, 2])


def test_two_ranks_take_turns_and_draw_as_one_process_does(engines):
    folder, _ = engines
    check_streamed(folder / "one-mixed", folder / "ddp-mixed")
    assert json.loads((folder / "ddp-mixed" / "run.json").read_text())["data"]["lanes"] == 2
    check_streamed(folder / "one-mixed", folder / "ddp-mixed-resumed", first=4)


def test_a_stream_goes_on_with_another_number_of_ranks(engines, tiny_folder):
    folder = engines[0]
    check_streamed(folder / "one-streamed", folder / "ddp-resumed", first=3)
    alone = json.loads((folder / "one-streamed" / "run.json").read_text())["settings"]
    values = settings(tiny_folder, alone["dataset"][0], folder / "resumed-on-one") | {
        key: alone[key] for key in ("streaming", "max_steps", "buffer_size", "val_size", "max_grad_norm")
    }
    values |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "finetuning_type": "full"}
    train({**values, "resume_from_checkpoint": str(folder / "ddp-streamed" / "checkpoint-3")})
    check_streamed(folder / "one-streamed", folder / "resumed-on-one", first=4)


WRAPPED = {
    "ddp": {"engine": "Engine", "module": "DistributedDataParallel", "sharded": "Parameter", "zero": None},
    "fsdp": {"engine": "ShardedEngine", "module": "FSDPSupervisedLoss", "sharded": "DTensor", "zero": None},
    "zero2": {"engine": "ZeroEngine", "module": "DeepSpeedEngine", "sharded": "Parameter", "zero": 2},
    "fsdp-zero2": {"engine": "ShardedEngine", "sharded": "DTensor"},
    "fsdp-hybrid": {"engine": "ShardedEngine", "sharded": "DTensor"},
    "zero1": {"engine": "ZeroEngine", "zero": 1},
    "zero2-offload": {"engine": "ZeroEngine", "zero": 2},
    "zero3": {"engine": "ZeroEngine", "zero": 3},
    "zero3-offload": {"engine": "ZeroEngine", "zero": 3},
}


def check_engine(folder, name, kind):
    """The run really was what its name says, and equals the run on one process."""
    if not (folder / f"{name}-{kind}").is_dir():
        pytest.skip("deepspeed is not installed")
    notes = [json.loads((folder / f"{name}-{kind}.seen-{rank}.json").read_text()) for rank in (0, 1)]
    for note in notes:
        assert note["world"] == 2
        assert {key: note[key] for key in WRAPPED[name]} == WRAPPED[name]
    if WRAPPED[name].get("sharded") == "DTensor":
        assert sum(note["here"] for note in notes) == notes[0]["whole"], "each weight is on one rank"
    one, two = folder / f"one-{kind}", folder / f"{name}-{kind}"
    for before, after in zip(rows(one), rows(two), strict=True):
        assert {key: after[key] for key in ("step", "tokens", "supervised_tokens")} == {
            key: before[key] for key in ("step", "tokens", "supervised_tokens")
        }
        for key in ("loss", "grad_norm", "eval_loss"):
            if key in before:
                assert after[key] == pytest.approx(before[key], rel=1e-5), (key, before["step"])
    # AdamW divides by the size of a gradient: where that is near zero, its last digit shows in the weight.
    for name_, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name_], tensor, atol=1e-4, rtol=1e-4)
    before, after = first_gradients(one), first_gradients(two)
    assert before
    assert after.keys() == before.keys()
    for weight, gradient in before.items():
        torch.testing.assert_close(after[weight], gradient, atol=1e-5, rtol=1e-5)


JUDGED = {
    "dpo": {"stage": "dpo"},
    "rm": {"stage": "rm", "center_rewards_coefficient": 0.01},
    "kto": {"stage": "kto"},
}
_FIGURES = ("loss", "grad_norm", "eval_loss", "rewards/margins", "rewards/chosen", "kl")
_FIGURES += ("eval_rewards/margins", "eval_rewards/accuracies")


def judged_on_one(engines, options, model, folder, stages=tuple(JUDGED)):
    """Train each stage of judged answers on one process; returns the same runs for two ranks.

    Nine samples, four a step: in the last step a rank has no rows.
    """
    made = [json.loads(line) for line in pair_file(folder, 12).read_text().splitlines()]
    margins = write(folder / "margins.jsonl", [row | {"margin": 0.1 * place} for place, row in enumerate(made)])
    data = {"dpo": folder / "pairs.jsonl", "rm": margins, "kto": feedback_file(folder, 12)}
    common = {"eval_strategy": "steps", "eval_steps": 2, "val_size": 3, "per_device_eval_batch_size": 2}
    common |= {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}

    def job(engine, stage, **changes):
        return settings(model, data[stage], folder / f"{engine}-{stage}", **common, **JUDGED[stage], **changes)

    for stage in stages:
        assert train({**job("one", stage), "per_device_train_batch_size": 2})["status"] == "completed"
    return {
        f"{engine}-{stage}": {**job(engine, stage, **options[engine]), "per_device_train_batch_size": 1}
        for engine in engines
        for stage in stages
    }


def check_judged(folder, engine, stage):
    """The same figures at each step, the same first gradients, the same weights at the end."""
    one, two = folder / f"one-{stage}", folder / f"{engine}-{stage}"
    for rank in (0, 1):
        assert json.loads((folder / f"{engine}-{stage}.seen-{rank}.json").read_text())["world"] == 2
    assert [row["step"] for row in rows(one)] == [1, 2, 3]
    for before, after in zip(rows(one), rows(two), strict=True):
        assert {key for key in _FIGURES if key in after} == {key for key in _FIGURES if key in before}
        for key in ("step", "tokens", "supervised_tokens"):
            assert after[key] == before[key], (key, before["step"])
        for key in _FIGURES:
            if key in before:
                assert after[key] == pytest.approx(before[key], rel=1e-4, abs=1e-6), (key, before["step"])
    before, after = first_gradients(one), first_gradients(two)
    assert before
    assert after.keys() == before.keys()
    for weight, gradient in before.items():
        torch.testing.assert_close(after[weight], gradient, atol=1e-5, rtol=1e-5)
    heads = [weights_of_head(place) for place in (one, two)] if stage == "rm" else [{}, {}]
    first, second = weights(one) | heads[0], weights(two) | heads[1]
    for weight, tensor in first.items():
        torch.testing.assert_close(second[weight], tensor, atol=2e-4, rtol=1e-4)


def weights_of_head(folder):
    from safetensors.torch import load_file

    return load_file(folder / "value_head.safetensors")


@pytest.mark.parametrize("stage", list(JUDGED))
def test_two_ranks_equal_one_for_judged_answers(engines, stage):
    check_judged(engines[0], "ddp", stage)


@pytest.mark.extended
@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp", "fsdp-zero2"])
def test_judged_answers_with_other_engines(tiny_folder, tmp_path, engine):
    if engine.startswith("zero") and not has("deepspeed"):
        pytest.skip("deepspeed is not installed")
    stages = list(JUDGED)
    jobs = judged_on_one([engine], ENGINES | MORE_ENGINES, tiny_folder, tmp_path, stages)
    (tmp_path / "jobs.json").write_text(json.dumps(list(jobs.values())))
    done = train_on_two(tmp_path / "jobs.json")
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in stages:
        check_judged(tmp_path, engine, stage)


def first_gradients(folder):
    """The clipped gradients of the first step: AdamW's first moment is a tenth of them then."""
    state = optimizer_state(folder / "checkpoint-1")
    return {key.rpartition("/")[2]: value * 10 for key, value in state.items() if "exp_avg/" in key}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("name", list(ENGINES))
def test_two_ranks_equal_one(engines, name, kind):
    check_engine(engines[0], name, kind)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("name", list(ENGINES))
def test_what_two_ranks_save_loads_without_burnish(engines, tiny_folder, name, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = engines[0] / f"{name}-{kind}"
    if not folder.is_dir():
        pytest.skip("deepspeed is not installed")
    if kind == "full":
        model = AutoModelForCausalLM.from_pretrained(folder)
    else:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    ids = AutoTokenizer.from_pretrained(folder)("Say the number", return_tensors="pt")["input_ids"]
    own = load_model(find_model(str(engines[0] / f"one-{kind}")), dtype=torch.float32, merge=True).model
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, own(ids).logits, atol=1e-4, rtol=1e-4)
    base = build_model()
    assert not torch.allclose(model(ids).logits, base(ids).logits, atol=1e-3), "it has learned something"


def test_only_rank_0_talks(engines):
    done = engines[1]
    runs = done.stdout.count("Saved in")
    assert runs == len(list(engines[0].glob("*.seen-0.json")))
    assert "Warning" not in done.stdout
    assert done.stdout.count("2 processes · ") == runs


@pytest.mark.extended
def test_further_engines_equal_one_process(tiny_folder, tmp_path):
    chosen = {name: one for name, one in MORE_ENGINES.items() if "deepspeed" not in one or has("deepspeed")}
    run_engines(chosen, tiny_folder, tmp_path)
    for name in chosen:
        for kind in ("full", "lora"):
            check_engine(tmp_path, name, kind)


# -- kill, stop and resume ----------------------------------------------------------------------------------------


def start(*words, **more):
    """Start `burnish train` with two processes; returns the launcher."""
    return subprocess.Popen(
        [sys.executable, "-m", "burnish", "train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**more),
        start_new_session=True,
    )


def wait_for(what, launcher, timeout_s=240):
    """Wait until a path is there; fails where the launcher ends before."""
    until = time.monotonic() + timeout_s
    while not what():
        assert launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.02)


def kill_all(launcher):
    """SIGKILL for the launcher and its workers at once."""
    family = [*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=30)
    launcher.communicate()


def slow_job(model, folder, output, **changes):
    """A LoRA run with dropout whose steps are slow enough to be killed; written as a YAML file."""
    slow = folder / "slow.py"
    slow.write_text(
        "import time\nfrom burnish.train.callbacks import Callback\n\n\n"
        "class Slow(Callback):\n    def on_step(self, run):\n        time.sleep(0.15)\n"
    )
    job = settings(model, uneven(folder), output, lora_dropout=0.2, num_train_epochs=6, save_strategy="steps")
    job |= {"save_steps": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, **changes}
    path = folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path, f"callbacks={slow}:Slow"


def assert_same_run(one, two):
    assert weights(one).keys() == weights(two).keys()
    for name, tensor in weights(one).items():
        assert torch.equal(weights(two)[name], tensor), name
    keys = ("step", "loss", "grad_norm", "learning_rate")
    assert [[row[key] for key in keys] for row in rows(one)] == [[row[key] for key in keys] for row in rows(two)]


@pytest.mark.extended
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero2"])
def test_stopped_then_killed_then_resumed_is_the_same_run(tiny_folder, tmp_path, engine):
    if engine == "zero2" and not has("deepspeed"):
        pytest.skip("deepspeed is not installed")
    changes = ENGINES[engine]
    straight, _ = slow_job(tiny_folder, tmp_path, tmp_path / "straight", **changes)
    done = launch("-m", "burnish", "train", straight)
    assert done.returncode == 0, done.stdout + done.stderr
    path, slowly = slow_job(tiny_folder, tmp_path, tmp_path / "broken", **changes)

    stopped = start(path, slowly)
    wait_for(lambda: (tmp_path / "broken" / "checkpoint-2").is_dir(), stopped)
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate(timeout=120)[0]
    assert stopped.returncode == 130, said
    assert said.count("Interrupted. Go on with") == 1, said
    assert said.count("stopping after this step") == 1, said
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["status"] == "interrupted"

    killed = start(path, slowly, "resume_from_checkpoint=true")
    wait_for(lambda: len(rows(tmp_path / "broken")) >= 9, killed)
    time.sleep(random.random() / 2)
    kill_all(killed)

    done = launch("-m", "burnish", "train", path, "resume_from_checkpoint=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resumed from checkpoint-\d+", done.stdout)
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


# -- Ray ------------------------------------------------------------------------------------------------------------


@pytest.mark.extended
@pytest.mark.skipif(not has("ray"), reason="ray is not installed")
def test_a_local_ray_cluster_trains_the_same(tiny_folder, tmp_path):
    data = uneven(tmp_path)
    one = settings(tiny_folder, data, tmp_path / "one")
    assert train(one)["status"] == "completed"
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump(settings(tiny_folder, data, tmp_path / "ray", per_device_train_batch_size=1))
    )
    words = ["-m", "burnish", "train", tmp_path / "job.yaml", "ray_num_workers=2"]
    done = launch(*words, FORCE_TORCHRUN="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 processes · DDP") == 1, done.stdout
    for before, after in zip(rows(tmp_path / "one"), rows(tmp_path / "ray"), strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-5)
    failed = launch(*words, f"dataset={tmp_path}/missing.jsonl", "overwrite_output_dir=true", FORCE_TORCHRUN="0")
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.count("error: ") == 1, failed.stderr
    assert "missing.jsonl" in failed.stderr


# -- failures -----------------------------------------------------------------------------------------------------

FAULTS = """
import os


def broken(logits, labels, weights):
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("only here")
    return (logits.logsumexp(-1) * weights).sum(), weights.sum()
"""


def test_the_failed_rank_is_the_one_that_speaks(tiny_folder, tmp_path):
    (tmp_path / "faults.py").write_text(FAULTS)
    job = settings(tiny_folder, uneven(tmp_path), tmp_path / "out", loss_function=f"{tmp_path}/faults.py:broken")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    done = launch("-m", "burnish", "train", path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "only here" in done.stderr
    assert "on rank 1 of 2" in done.stderr
    assert "Connection" not in done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "rank 1" in record["error"]
    assert "only here" in record["error"]


@pytest.mark.extended
def test_a_mistake_that_all_ranks_find_is_told_once(tiny_folder, tmp_path):
    job = settings(tiny_folder, tmp_path / "missing.jsonl", tmp_path / "out")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    done = launch("-m", "burnish", "train", path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("missing.jsonl") == 1, done.stderr
    assert "on rank" not in done.stderr  # which would be said of one rank alone
    plain = launch("-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "burnish", "train", path, "sede=1")
    assert plain.returncode == 1  # torchrun's own status for every failure
    assert plain.stderr.count("unknown setting 'sede'") == 1, plain.stderr
