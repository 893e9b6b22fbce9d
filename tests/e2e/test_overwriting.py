"""A run in the folder of an earlier one: nothing of the earlier run may speak for the new one."""

from __future__ import annotations

import pytest

import burnish
from burnish.api import train
from burnish.data.records import Conversation, Turn
from burnish.errors import BurnishError, ModelError
from burnish.model.base import BASE_FILE
from burnish.model.reward import CRITIC_FILE, HEAD_FILE
from burnish.model.save import MERGED_FILE
from burnish.runs.folder import OWN_FILES
from burnish.runs.preference_plots import REWARDS_PLOT
from burnish.train.bad_rows import BAD_ROWS
from burnish.train.rollouts.completions import COMPLETIONS
from tests.judged import pair_file
from tests.runs import settings


def test_every_file_of_a_stage_is_one_of_a_run():
    assert {HEAD_FILE, CRITIC_FILE, BASE_FILE, MERGED_FILE, REWARDS_PLOT, BAD_ROWS, COMPLETIONS} <= OWN_FILES


def test_a_run_in_the_place_of_another(tiny_folder, chat_file, tmp_path):
    """A reward model, then a run over an adapter, then a plain one: each is what it was trained to be."""
    data, out = chat_file, tmp_path / "run"
    train(settings(tiny_folder, data, tmp_path / "below", max_steps=2, learning_rate=0.05))
    again = {"overwrite_output_dir": True, "max_steps": 1}
    train(settings(tiny_folder, pair_file(tmp_path), out, stage="rm", max_steps=1))
    over = {"adapter_name_or_path": str(tmp_path / "below"), "create_new_adapter": True}
    train(settings(tiny_folder, data, out, **again, **over))
    assert (out / MERGED_FILE).is_file()
    train(settings(tiny_folder, data, out, **again))
    train(settings(tiny_folder, data, tmp_path / "alone", max_steps=1))
    answers = [
        burnish.load(str(folder), use_cpu=True).answer(
            Conversation((Turn("user", "Hi"),)).turns, do_sample=False, max_new_tokens=8
        )
        for folder in (out, tmp_path / "alone")
    ]
    assert answers[0] == answers[1]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "alone").iterdir())


def test_a_reference_that_is_not_there_is_told_by_its_own_name(tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="there is no model 'nope'") as refused:
        train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "run", stage="dpo", ref_model="nope"))
    assert refused.value.at == "ref_model: nope"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"dataset": "no_such_set"}, "no_such_set"),
        ({"model_name_or_path": "no/such-model"}, "no/such-model"),
        ({"lora_target": "no_such_layer"}, "no_such_layer"),
    ],
)
def test_a_mistake_does_not_cost_the_earlier_run(wrong, told, tiny_folder, chat_file, tmp_path, capsys):
    out = tmp_path / "run"
    train(settings(tiny_folder, chat_file, out, max_steps=1, save_strategy="steps", save_steps=1))
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    mistaken = settings(tiny_folder, chat_file, out, max_steps=1, overwrite_output_dir=True) | wrong
    with pytest.raises(BurnishError, match=told):
        train(mistaken)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert list(out.glob("checkpoint-*"))
    assert "the earlier run is back" in capsys.readouterr().out
