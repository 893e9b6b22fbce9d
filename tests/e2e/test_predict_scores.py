"""`burnish predict` with a reward model: pairs, single answers, one score everywhere, going on after a kill."""

from __future__ import annotations

import json

import pytest
import yaml

from burnish import api
from burnish.api import load_reward_model, predict_with
from burnish.cli.predict import understand
from burnish.cli.train import run_train
from burnish.data.records import Conversation, Prompt, Sample, Turn
from burnish.errors import BurnishError, DataError
from burnish.evaluate.predict_scores import NO_ANSWER, TOO_LONG, make_judged
from burnish.generate.reward import RewardModel
from burnish.rewards import RewardSample
from burnish.runs.figures import wilson_interval
from burnish.train.rollouts.rewarding import ByModel
from tests.invariant.test_training import rows
from tests.judged import feedback_file, pair_file, write
from tests.runs import settings


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A reward model that has scored the pairs it held out, after its training."""
    folder = tmp_path_factory.mktemp("scoring")
    data = pair_file(folder, 24)
    values = {"stage": "rm", "val_size": 9, "do_train": True, "do_predict": True, "max_steps": 1, "learning_rate": 1e-5}
    record = api.train(settings(tiny_folder, data, folder / "run", **values))
    return folder, data, record


def again(run, output, *words):
    asked, name = understand(str(run[0] / "run"), None, [f"eval_dataset={run[1]}", f"output_dir={output}", *words])
    return predict_with(asked, name)


def test_held_out_pairs_are_scored_as_training_evaluates_them(run):
    folder, _, record = run
    found, evaluated = lines(folder / "run"), rows(folder / "run")[-1]
    assert len(found) == 9
    metrics = record["predict"]
    right = sum(line["chosen_score"] > line["rejected_score"] for line in found)
    assert 0 < right < 9, "an untrained model gets some wrong, or the figures below say nothing"
    assert metrics["accuracy"] == pytest.approx(100 * right / 9, abs=1e-3)
    assert metrics["accuracy_interval"] == pytest.approx([100 * end for end in wilson_interval(right, 9)], abs=1e-3)
    assert metrics["accuracy"] == pytest.approx(100 * evaluated["eval_rewards/accuracies"], abs=1e-3)
    assert metrics["mean_margin"] == pytest.approx(evaluated["eval_rewards/margins"], abs=1e-5)
    assert metrics["mean_chosen_score"] == pytest.approx(evaluated["eval_rewards/chosen"], abs=1e-5)
    assert all(line["margin"] == line["chosen_score"] - line["rejected_score"] for line in found)
    kept = json.loads((folder / "run" / "predict.json").read_text())
    assert kept["metrics"] == metrics
    assert kept["held_out"]
    page = (folder / "run" / "predictions.html").read_text()
    assert page.count("<section class='equal'") == right
    assert page.count("<section class='other'") == 9 - right


def test_the_score_is_that_of_python_and_of_rollouts(run, tmp_path):
    """/v1/score is held to Python's in test_serving."""
    again(run, tmp_path)
    model = load_reward_model(str(run[0] / "run"), use_cpu=True)
    judge, data = ByModel(model, None, 4), [json.loads(line) for line in run[1].read_text().splitlines()]
    for line in lines(tmp_path)[::5]:
        asked = Turn("user", data[line["row"]]["prompt"])
        for kind in ("chosen", "rejected"):
            answer = data[line["row"]][kind]
            assert line[kind] == answer
            talk = Conversation((asked, Turn("assistant", answer)))
            assert line[f"{kind}_score"] == pytest.approx(model.score([talk])[0], abs=1e-5)
            sample = RewardSample(Conversation((asked,)), answer, {}, "set", 0, (1,), True)
            assert line[f"{kind}_score"] == pytest.approx(judge.score([sample]).totals[0], abs=1e-5)


def test_a_killed_call_goes_on_to_the_same_bits(run, tmp_path, monkeypatch):
    again(run, tmp_path / "whole", "per_device_eval_batch_size=4")
    score, left = RewardModel.score_ids, [3]

    def until(self, ids):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return score(self, ids)

    monkeypatch.setattr(RewardModel, "score_ids", until)
    with pytest.raises(KeyboardInterrupt):
        again(run, tmp_path / "cut", "per_device_eval_batch_size=4")
    begun = (tmp_path / "cut" / "predictions.jsonl").read_text().splitlines()
    assert len(begun) == 8
    # Killed in the middle of a batch: one of its rows is there, and the others are scored beside it all the same.
    (tmp_path / "cut" / "predictions.jsonl").write_text("\n".join(begun[:5]) + "\n" + begun[5][:20])
    asked = []
    monkeypatch.setattr(RewardModel, "score_ids", lambda self, ids: asked.append(len(ids)) or score(self, ids))
    again(run, tmp_path / "cut", "per_device_eval_batch_size=4")
    assert asked == [8] * 5, "24 pairs in 6 batches, of which one was done"
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    with pytest.raises(BurnishError, match="other settings"):
        again(run, tmp_path / "cut", "per_device_eval_batch_size=3")


def test_a_prediction_file_of_llamafactory(run, tiny_folder, tmp_path, capsys):
    """It names the base, and the reward model as an adapter on it."""
    values = {
        **{"model_name_or_path": str(tiny_folder), "adapter_name_or_path": str(run[0] / "run"), "stage": "rm"},
        **{"do_predict": True, "finetuning_type": "lora", "eval_dataset": str(run[1]), "cutoff_len": 2048},
        **{"output_dir": str(tmp_path / "out"), "overwrite_output_dir": True, "per_device_eval_batch_size": 8},
        **{"predict_with_generate": False, "use_cpu": True},
    }
    (tmp_path / "predict.yaml").write_text(yaml.safe_dump(values))
    run_train(str(tmp_path / "predict.yaml"), [])
    assert "pairs in the right order" in capsys.readouterr().out
    again(run, tmp_path / "again", "per_device_eval_batch_size=8")
    for one, two in zip(lines(tmp_path / "out"), lines(tmp_path / "again"), strict=True):
        assert one["margin"] == pytest.approx(two["margin"], abs=1e-6)


def test_single_answers_have_one_score_each(run, tmp_path):
    talks = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]}
        for text in ("one", "two", "x" * 600)
    ]
    data = write(tmp_path / "talks.jsonl", talks)
    words = [f"eval_dataset={data}", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(DataError, match="holds conversations") as caught:
        predict_with(*understand(str(run[0] / "run"), None, words))
    assert "set stage to sft" in caught.value.fix
    results = predict_with(*understand(str(run[0] / "run"), None, [*words, "stage=sft"]))
    assert results["skipped"] == {TOO_LONG: 1}
    one, two, long = lines(tmp_path / "out")
    talk = Conversation((Turn("user", "two"), Turn("assistant", "yes")))
    model = load_reward_model(str(run[0] / "run"), use_cpu=True)
    assert two["score"] == pytest.approx(model.score([talk])[0], abs=1e-5)
    assert two["tokens"] == len(model.ids(talk))
    [unanswered] = make_judged([Sample(Prompt(Conversation(talk.turns[:1])), "set", 0)], model)
    assert unanswered.skipped == NO_ANSWER
    assert long["score"] is None
    assert results["metrics"] | {"score_std": 0} == {
        "pairs": 0,
        "scores": 2,
        "mean_score": pytest.approx((one["score"] + two["score"]) / 2),
        "score_std": 0,
    }


def test_marked_answers_are_told_apart(run, tmp_path):
    data = feedback_file(tmp_path, 12)
    words = [f"eval_dataset={data}", f"output_dir={tmp_path / 'out'}", "stage=kto"]
    metrics = predict_with(*understand(str(run[0] / "run"), None, words))["metrics"]
    found = lines(tmp_path / "out")
    liked = [line["score"] for line in found if line["desirable"]]
    assert len(liked) == 8
    assert metrics["mean_desirable_score"] == pytest.approx(sum(liked) / len(liked))
    assert metrics["mean_undesirable_score"] != metrics["mean_desirable_score"]
    others = [line["score"] for line in found if line["desirable"] is False]
    order = sum((one > other) + (one == other) / 2 for one in liked for other in others)
    assert metrics["marks_in_order"] == pytest.approx(100 * order / 32, abs=1e-3)


def test_sampling_has_no_effect_on_scores(run, tmp_path):
    with pytest.raises(BurnishError, match="'temperature' has no effect on a reward model's scores"):
        again(run, tmp_path, "temperature=0.5")
