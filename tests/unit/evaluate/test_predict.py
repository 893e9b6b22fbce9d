"""Predictions of whole datasets: what is asked, resuming, rows that cannot be predicted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Sample, ToolCall, Turn
from burnish.errors import DataError, RunFolderError
from burnish.evaluate.predict import TOO_LONG, make_items, predict, question_of
from burnish.evaluate.prediction_files import PredictionFiles, read_results, weights_digest
from burnish.evaluate.predictions_page import kind_of
from burnish.generate.chat import ChatModel
from burnish.generate.engine import Engine
from burnish.generate.request import Sampling
from burnish.model.source import find_model
from burnish.template import ChatTemplate, load_template
from tests.conftest import build_model, build_tokenizer, family_tokenizer


@pytest.fixture(scope="module")
def model():
    return ChatModel(
        build_model(max_position_embeddings=128).eval(),
        ChatTemplate(build_tokenizer()),
        "tiny",
        Sampling(max_new_tokens=12, do_sample=True, temperature=1.0),
    )


def talk(*words):
    return Conversation(tuple(Turn(("user", "assistant")[place % 2], word) for place, word in enumerate(words)))


def samples(count=7):
    return [Sample(talk(f"say {number}" * (1 + number % 3), str(number)), "numbers", number) for number in range(count)]


SAME = {"weights": "a", "data": "b", "settings": "c"}


def run(model, folder, rows=None, **changes):
    options = {"about": {"model": "tiny"}, "fingerprints": SAME, "batch_size": 3, "seed": 5, **changes}
    return predict(model, rows or samples(), folder, **options)


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_what_is_asked_and_what_is_the_answer():
    one = Sample(talk("a", "b", "c", "d"), "set", 3)
    assert question_of(one.record, one) == (talk("a", "b", "c"), Turn("assistant", "d"))
    pair = Preference(talk("a"), (Turn("assistant", "good"),), (Turn("assistant", "bad"),))
    assert question_of(pair, one)[1].content == "good"
    assert question_of(Feedback(talk("a", "b"), True), one)[1].content == "b"
    assert question_of(Feedback(talk("a", "b"), False), one)[1] is None
    assert question_of(Prompt(talk("a")), one) == (talk("a"), None)
    with pytest.raises(DataError, match="asks nothing") as caught:
        question_of(Document("text"), one)
    assert caught.value.at == "set, row 3"


def test_references_are_written_as_the_model_would():
    template = load_template(family_tokenizer("qwen3"), "qwen3")
    answer = Turn("assistant", "4", reasoning="two and two", tool_calls=(ToolCall("add", {"a": 2}),))
    [item] = make_items([Sample(Conversation((Turn("user", "2+2"), answer)), "set", 0)], template, 10_000)
    assert item.reference.startswith("<think>\ntwo and two\n</think>\n\n4\n<tool_call>\n")
    assert "<|im_end|>" not in item.reference
    assert item.prompt.endswith("<|im_start|>assistant\n")


def test_predictions_and_figures(model, tmp_path, capsys):
    results = run(model, tmp_path / "out")
    found = lines(tmp_path / "out")
    assert [line["index"] for line in found] == list(range(7))
    assert [line["reference"] for line in found] == [str(number) for number in range(7)]
    assert all(line["finish_reason"] in ("stop", "length") and line["tokens"] <= 12 for line in found)
    assert results["tokens"] == sum(line["tokens"] for line in found)
    assert read_results(tmp_path / "out")["status"] == "completed"
    assert results["metrics"]["pairs"] == 7
    page = (tmp_path / "out" / "predictions.html").read_text()
    assert page.count("<section") == 7
    assert "BLEU-4 (tokenizer 13a)" in capsys.readouterr().out


def test_the_batch_changes_nothing(model, tmp_path):
    greedy = replace(model, sampling=Sampling(max_new_tokens=12))
    for one in (model, greedy):
        kind = one.sampling.do_sample
        together, alone = tmp_path / f"together {kind}", tmp_path / f"alone {kind}"
        run(one, together, batch_size=4)
        run(one, alone, batch_size=1)
        assert lines(together) == lines(alone)


def test_a_killed_prediction_goes_on(model, tmp_path, monkeypatch, capsys):
    run(model, tmp_path / "whole")
    step, left = Engine.step, [15]

    def until(self):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", until)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut")
    monkeypatch.undo()
    begun = (tmp_path / "cut" / "predictions.jsonl").read_bytes()
    assert 0 < begun.count(b"\n") < 7
    (tmp_path / "cut" / "predictions.jsonl").write_bytes(begun + b'{"index": 6, "predic')  # killed while writing
    assert read_results(tmp_path / "cut")["status"] == "running"
    submitted = []
    submit = Engine.submit
    monkeypatch.setattr(Engine, "submit", lambda self, one: submitted.append(one) or submit(self, one))
    run(model, tmp_path / "cut", overwrite=True)
    assert len(submitted) == 7 - begun.count(b"\n"), "what was begun and is the same is gone on with"
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert f"{begun.count(chr(10).encode())} of 7 rows were predicted before" in capsys.readouterr().out
    submitted.clear()
    run(model, tmp_path / "cut")
    assert not submitted
    run(model, tmp_path / "cut", overwrite=True)
    assert len(submitted) == 7, "what was ended is done anew"


def test_other_settings_are_not_gone_on_with(model, tmp_path):
    run(model, tmp_path)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="made with other settings and other weights|weights and other settings"):
        run(model, tmp_path, fingerprints=SAME | {"weights": "x", "settings": "y"})
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    (tmp_path / "mine.txt").write_text("kept")
    run(model, tmp_path, samples(3), fingerprints=SAME | {"data": "x"}, overwrite=True)
    assert len(lines(tmp_path)) == 3
    assert (tmp_path / "mine.txt").exists()


def test_rows_that_do_not_fit_are_named(model, tmp_path, capsys):
    rows = [*samples(2), Sample(talk("x" * 200, "y"), "numbers", 2), Sample(talk("no answer"), "numbers", 3)]
    results = run(model, tmp_path, rows)
    assert results["skipped"] == {TOO_LONG: 1}
    assert (results["predicted"], results["without_reference"], results["metrics"]["pairs"]) == (3, 1, 2)
    third = lines(tmp_path)[2]
    assert third["prediction"] is None
    assert third["skipped"] == TOO_LONG
    assert [kind_of(line) for line in lines(tmp_path)[2:]] == ["skipped", "alone"]
    assert "numbers row 2" in capsys.readouterr().out


def test_two_processes_do_not_mix(tmp_path):
    with (
        PredictionFiles.open(tmp_path, SAME, overwrite=False),
        pytest.raises(RunFolderError, match="another process"),
        PredictionFiles.open(tmp_path, SAME, overwrite=False),
    ):
        pass


def test_another_training_gives_another_digest(tmp_path):
    from safetensors.torch import load_file, save_file

    build_model().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    source = find_model(str(tmp_path))
    first = weights_digest(source)
    assert weights_digest(source) == first
    tensors = load_file(tmp_path / "model.safetensors")
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] += 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert weights_digest(source) != first
