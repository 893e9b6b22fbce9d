"""Runs of every kind, killed at random moments and at each change of a file: none may differ from a whole run."""

from __future__ import annotations

import random
import signal
import sys
import time

import pytest

from tests.crashes import Fault, Trial, assert_same
from tests.runs import BASE

pytestmark = pytest.mark.extended

COMMON = {
    **BASE,
    "num_train_epochs": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "logging_steps": 2,
}
DATA = {
    "map": {
        "val_size": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "gradient_accumulation_steps": 2,
        "plot_loss": True,
    },
    "packed": {"packing": True, "cutoff_len": 80, "num_train_epochs": 3},
    "streaming": {"streaming": True, "max_steps": 9, "buffer_size": 5},
    "streaming-packed": {"streaming": True, "max_steps": 6, "buffer_size": 7, "packing": True, "cutoff_len": 80},
    "streaming-mixed": {
        "streaming": True,
        "max_steps": 9,
        "buffer_size": 5,
        "mix_strategy": "interleave_over",
        "interleave_probs": "0.7,0.3",
    },
    "best": {
        "val_size": 3,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "save_total_limit": 1,
        "learning_rate": 0.1,
        "eval_on_start": True,
    },
}
TUNING = {
    "lora": {"lora_dropout": 0.1},
    "full": {"finetuning_type": "full", "learning_rate": 1e-3},
}
KINDS = [(data, tuning) for data in DATA for tuning in TUNING]
LAUNCHERS = {
    "one process": sys.executable,
    "two processes": f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2",
}
KILLS = 4  # in a row, for each kind


def settings(model, chats, data, tuning):
    return {
        **COMMON,
        "model_name_or_path": str(model),
        "dataset": [str(chats)] * (2 if "mix_strategy" in DATA[data] else 1),
        **TUNING[tuning],
        **DATA[data],
    }


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """The uninterrupted run of a kind, its settings and how long it takes, each made once."""
    made = {}

    def get(kind, chats, launcher=""):
        if (kind, launcher) not in made:
            folder = tmp_path_factory.mktemp("whole")
            kept = folder / "chats.jsonl"
            kept.write_bytes(chats.read_bytes())
            chosen = settings(tiny_folder, kept, *kind)
            trial = Trial(folder, chosen, launcher)
            made[kind, launcher] = (trial, chosen, trial.finish())
        return made[kind, launcher]

    return get


def kill_at_random(trial, seed, seconds, kills):
    """Kill the run up to `kills` times, then let it finish; returns how often it was killed."""
    chance = random.Random(seed)
    done = 0
    while done < kills and trial.killed_after(chance.uniform(0.0, seconds)):
        done += 1
    trial.finish()
    return done


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_killed_at_random(whole, chat_file, tmp_path, kind, request):
    expected, chosen, seconds = whole(kind, chat_file)
    seed = request.config.getoption("--kill-seed") or time.time_ns() % 10**6
    print(f"seed {seed}, {kind}")
    killed = 0
    for attempt in range(6):
        trial = Trial(tmp_path / str(attempt), chosen)
        killed += kill_at_random(trial, f"{seed}/{attempt}", seconds, KILLS)
        print(f"killed: {trial.deaths}")
        assert_same(trial, expected)
        if killed >= KILLS:
            break
    assert killed >= KILLS


@pytest.mark.parametrize("processes", LAUNCHERS)
def test_the_plain_command_killed_at_random(whole, chat_file, tmp_path, processes, request):
    kind, launcher = ("map", "lora"), LAUNCHERS[processes]
    expected, chosen, _ = whole(kind, chat_file, launcher)
    seed = request.config.getoption("--kill-seed") or time.time_ns() % 10**6
    trial = Trial(tmp_path / "killed", chosen, launcher)
    chance = random.Random(seed)
    killed = sum(trial.killed_past(step, chance.uniform(0.0, 0.3)) for step in (1, 2, 3))
    trial.finish()
    print(f"seed {seed}, killed: {trial.deaths}")
    assert killed > 0
    assert_same(trial, expected)


@pytest.mark.parametrize("kind", [("map", "lora"), ("best", "full"), ("streaming", "lora")], ids="-".join)
def test_killed_at_every_change_of_a_file(whole, chat_file, tmp_path, kind, request):
    """A process dies before each of the changes that a run makes on disk: no order of them may lose anything."""
    expected, chosen, _ = whole(kind, chat_file)
    events = len(expected.events())
    every = request.config.getoption("--kill-every")
    for event in range(1, events + 1, every):
        trial = Trial(tmp_path / str(event), chosen)
        assert trial.struck(Fault(event=event, number=signal.SIGKILL))
        trial.finish()
        assert_same(trial, expected)
    print(f"killed before {len(range(1, events + 1, every))} of {events} changes")


@pytest.mark.parametrize("kind", [("map", "lora"), ("map", "full")], ids="-".join)
def test_killed_within_a_file(whole, chat_file, tmp_path, kind):
    """The kernel kills the process in the middle of writing weights or the optimizer's state."""
    expected, chosen, _ = whole(kind, chat_file)
    sizes = sorted({file.stat().st_size for file in expected.run.glob("checkpoint-*/*.safetensors")})
    for number, size in enumerate(sizes):
        trial = Trial(tmp_path / str(number), chosen)
        assert trial.struck(Fault(largest_file=size - 100))
        trial.finish()
        assert_same(trial, expected)
    print(f"killed within files of {sizes} bytes")
