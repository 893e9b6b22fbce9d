"""What the doctor says of answers, rows that stand out and rows of spikes; figures made by hand."""

import json
import random
from dataclasses import replace

import pytest

from burnish.runs.doctor import diagnose, render
from burnish.runs.doctor.curves import spiking_steps
from burnish.runs.doctor.probe import Asked, Dependence, Mean, Probe, Said
from burnish.runs.doctor.rows import RowLoss, odd_rows
from tests.unit.runs.doctor.test_diagnosis import falling, rows_of, run_of

HELPS, NOTHING, UNSURE = Mean(1.0, 0.8, 1.2), Mean(0.01, -0.05, 0.06), Mean(0.2, -0.4, 0.8)


def said(right, count=8, likeness=0.2, ended=True):
    return tuple(
        Said(
            *("chats", "/data/chats.jsonl", place, "Which colour?", "RED CAT"),
            answer="RED CAT" if place < right else "BLUE DOG AND",
            exact=place < right,
            likeness=1.0 if place < right else likeness,
            ended=ended,
        )
        for place in range(count)
    )


def depends(gain, dataset="", own=1.0):
    return (Dependence(dataset, 32, own, own + gain.value, gain),)


def asked(right=8, loss=0.5, base_loss=1.5, tuned=HELPS, base=HELPS, **changes):
    fall = base_loss - loss
    fields = {
        **{"said": said(right), "rows": 32, "loss": loss, "base_loss": base_loss},
        **{"gain": Mean(fall, fall - 0.1, fall + 0.1), "tuned": depends(tuned), "base": depends(base), "stops": 0.9},
    }
    return Asked(**{**fields, **changes})


OTHERS = tuple(replace(each, file="/data/others.jsonl") for each in said(8))


def probed(tmp_path, training, held_out=None, **changes):
    run = run_of(tmp_path, rows_of(falling()), **changes)
    return replace(run, probe=Probe(training, held_out, ("the base is gone",)))


def names(run):
    return [finding.name for finding in diagnose(run)]


def test_a_model_that_learned_raises_nothing(tmp_path):
    run = probed(tmp_path, asked(), asked(right=7, loss=0.6))
    assert names(run) == []
    text = render(run, [])
    assert "8 of 8" in text
    assert "note: the base is gone" in text
    assert "chats.jsonl:4" in text  # some answers are shown, evenly spaced
    assert "wanted RED CAT" in text
    told = json.loads(json.dumps(run.probe.as_json()))
    assert (told["held_out"]["exact"], told["held_out"]["asked"], told["training"]["gain"]["low"]) == (7, 8, 0.9)


def test_creative_answers_need_not_be_equal(tmp_path):
    long = tuple(replace(each, reference="word " * 60, exact=False, likeness=0.3) for each in said(0))
    assert names(probed(tmp_path, asked(said=long), asked(said=long))) == []


@pytest.mark.parametrize(
    ("training", "held_out", "wanted"),
    [
        (asked(base=NOTHING), asked(base=NOTHING, tuned=NOTHING), True),
        (asked(base=NOTHING), asked(base=UNSURE, tuned=UNSURE), True),
        (asked(base=NOTHING), asked(base=HELPS, tuned=NOTHING), False),  # chance: on other rows the base knows better
        (asked(base=NOTHING, tuned=NOTHING), replace(asked(), said=OTHERS), True),  # another file may be in order
        (asked(base=NOTHING), None, False),  # the tuned model may have found out
        (asked(base=NOTHING, tuned=NOTHING), None, True),
        (asked(base=NOTHING), asked(), False),  # it learned what the base did not know
        (asked(base=UNSURE), asked(tuned=NOTHING), False),  # too few rows to say
        (asked(tuned=NOTHING), asked(tuned=NOTHING), False),  # the base knows better
        (asked(base_loss=1.5, base=Mean(-0.3, -0.4, -0.2)), asked(base=NOTHING, tuned=NOTHING), True),
    ],
)
def test_shuffled_answers(tmp_path, training, held_out, wanted):
    run = probed(tmp_path, training, held_out, train={"epochs": 1.0})
    assert names(run) == (["answers-shuffled"] if wanted else [])


def test_shuffled_answers_known_by_heart(tmp_path):
    run = probed(tmp_path, asked(base=NOTHING), None, train={"epochs": 9.0})
    [finding] = diagnose(run)
    assert finding.name == "answers-shuffled"
    assert "0.01" in finding.evidence
    assert "32 rows" in finding.evidence


def test_a_model_that_understands_nothing_is_no_witness(tmp_path):
    assert names(probed(tmp_path, asked(base=NOTHING))) == ["answers-shuffled"]
    lost = depends(NOTHING, own=5.6)
    assert names(probed(tmp_path, replace(asked(), base=lost))) == []
    assert names(probed(tmp_path, replace(asked(tuned=NOTHING), base=lost))) == ["answers-shuffled"]
    assert names(probed(tmp_path, replace(asked(), base=lost, tuned=lost))) == []


def test_only_one_dataset_is_shuffled(tmp_path):
    training = replace(asked(), base=(*depends(HELPS, "good"), *depends(NOTHING, "bad")), tuned=())
    [finding] = diagnose(probed(tmp_path, training, train={"epochs": 3.0}))
    assert "in bad" in finding.what


def test_a_diverged_model_is_no_witness(tmp_path):
    run = run_of(tmp_path, rows_of(falling(1.5, 4.0)), learning_rate=0.02)
    wrong = replace(asked(right=0, tuned=NOTHING), base_loss=None, gain=None, base=())
    found = names(replace(run, probe=Probe(wrong, wrong)))
    assert found == ["loss-rises"]  # and not that the answers are still wrong, which would ask for a higher rate


def test_nothing_learned(tmp_path):
    part = asked(right=0, loss=1.49, gain=Mean(0.01, -0.02, 0.04))
    [finding] = diagnose(probed(tmp_path, part, learning_rate=1e-6))
    assert finding.name == "not-learned"
    assert "1.490, and was 1.500" in finding.evidence
    assert "raise learning_rate" in finding.advice
    assert "wanted “RED CAT”, said “BLUE DOG AND”" in finding.lines[0]
    assert "RED CAT" in render(probed(tmp_path, part), [finding])
    # The interval leaves 0 out, and the fall is none worth the name.
    assert names(probed(tmp_path, asked(loss=1.49, gain=Mean(0.01, 0.008, 0.012)))) == ["not-learned"]


def test_short_answers_that_are_still_wrong(tmp_path):
    assert names(probed(tmp_path, asked(right=2))) == ["train-wrong"]
    assert names(probed(tmp_path, asked(right=6))) == []


def test_right_on_training_rows_and_wrong_on_others(tmp_path):
    [finding] = diagnose(probed(tmp_path, asked(), asked(right=0)))
    assert finding.name == "only-by-heart"
    assert "8 of 8 training prompts are answered exactly" in finding.evidence
    assert "0 of 8 held-out prompts" in finding.evidence
    # Answers that are never alike: the losses tell.
    long = tuple(replace(each, reference="word " * 60, likeness=0.3, exact=False) for each in said(0))
    worse = asked(said=long, loss=1.9, gain=Mean(-0.4, -0.5, -0.3))
    assert names(probed(tmp_path, asked(said=long), worse)) == ["only-by-heart"]
    assert names(probed(tmp_path, asked(), asked(right=6))) == []


def test_answers_without_an_end(tmp_path):
    run_on = asked(stops=0.001, said=said(8, ended=False))
    [finding] = diagnose(probed(tmp_path, run_on))
    assert finding.name == "stop-not-learned"
    assert "0.1%" in finding.evidence
    assert "8 of 8 answers ran on" in finding.evidence
    assert names(probed(tmp_path, asked(stops=0.001))) == []  # it ends them, only not there
    assert names(probed(tmp_path, asked(stops=None))) == []


def losses(count=60, odd=()):
    rows = [RowLoss("a", "/d/a.jsonl", n, 1.0 + 0.2 * (n % 3), 5 + n % 40, f"text {n}") for n in range(count)]
    return [replace(row, loss=odd[row.row]) if row.row in odd else row for row in rows]


def test_rows_that_stand_out(tmp_path):
    found = odd_rows(losses(odd={7: 6.0, 31: 4.5}), 3)
    assert [each.row.row for each in found[:2]] == [7, 31]
    assert len(found) == 3
    assert found[0].usual == pytest.approx(1.2)
    # The median of |loss - 1.2| over its 40 neighbours is 0.2; times 1.4826 that is a deviation of 0.29652.
    assert found[0].deviations == pytest.approx((6.0 - 1.2) / 0.29652, rel=1e-3)
    run = replace(run_of(tmp_path, rows_of(falling())), odd_rows=found)
    [finding] = diagnose(run)
    assert finding.name == "rows-stand-out"
    assert "2 rows are much harder" in finding.what
    assert [row["row"] for row in finding.as_json()["details"]["rows"]] == [7, 31]
    text = render(run, [finding])
    assert "a.jsonl:7" in text
    assert "text 31" in text


def test_rows_are_compared_with_their_like(tmp_path):
    short = [RowLoss("a", "a.jsonl", n, 4.0 + 0.3 * (n % 4), 2, "") for n in range(60)]
    long = [RowLoss("a", "a.jsonl", n, 1.0 + 0.1 * (n % 4), 200, "") for n in range(60, 120)]
    other = [RowLoss("b", "b.jsonl", n, 6.0 + 0.1 * (n % 4), 200, "") for n in range(60)]
    long[5] = replace(long[5], loss=3.0)  # less than any short answer has
    mixed = [*short, *long, *other]
    random.Random(0).shuffle(mixed)
    [worst] = odd_rows(mixed, 1)
    assert worst.row.row == 65
    assert names(replace(run_of(tmp_path, rows_of(falling())), odd_rows=odd_rows(losses(), 5))) == []
    assert odd_rows([replace(row, loss=float("nan")) for row in losses()] + losses(5), 5) == []


def spiky(tmp_path, every=1):
    values = falling()
    values[40], values[70] = 5.0, 6.0
    rows = [row | {"step": row["step"] * every} for row in rows_of(values)]
    return run_of(tmp_path, rows)


def test_the_rows_of_spikes(tmp_path):
    run = spiky(tmp_path)
    assert [(each.first, each.last) for each in spiking_steps(run)] == [(41, 41), (71, 71)]
    good = [("a", "/d/a.jsonl", number) for number in range(20)]
    batches = {41: [*good[:10], ("a", "/d/a.jsonl", 99)], 71: [("a", "/d/a.jsonl", 99), *good[10:12]]}
    [finding] = diagnose(replace(run, batches=batches))
    assert finding.lines[0].startswith("step 41: a.jsonl:99 (in 2 spikes), a.jsonl:0, ")
    assert "and 3 more" in finding.lines[0]
    assert finding.lines[1] == "step 71: a.jsonl:99 (in 2 spikes), a.jsonl:10, a.jsonl:11"
    spikes = finding.as_json()["details"]["spikes"]
    assert [len(each["rows"]) for each in spikes] == [11, 3]
    assert spikes[1]["rows"][0] == {"dataset": "a", "file": "/d/a.jsonl", "row": 99, "spikes": 2}
    # Where the loss of rows is known, the worst one comes first.
    known = replace(run, batches={41: good[:3], 71: good[3:6]}, losses={good[1]: 7.5, good[0]: 1.0})
    [finding] = diagnose(known)
    assert finding.lines[0] == "step 41: a.jsonl:1 (loss 7.50), a.jsonl:0 (loss 1.00), a.jsonl:2"


def test_spikes_of_means_over_steps(tmp_path):
    run = spiky(tmp_path, every=5)
    assert [(each.first, each.last) for each in spiking_steps(run)] == [(201, 205), (351, 355)]
    batches = {step: [("a", "a.jsonl", step)] for step in (*range(201, 206), *range(351, 356))}
    [finding] = diagnose(replace(run, batches=batches))
    assert finding.lines[0].startswith("steps 201 to 205: a.jsonl:201, a.jsonl:202")
    assert "logging_steps: 1" in finding.lines[-1]


def test_rows_that_cannot_be_told(tmp_path):
    [finding] = diagnose(replace(spiky(tmp_path), batches="the data has changed"))
    assert finding.lines == ("their rows cannot be told: the data has changed",)
    [finding] = diagnose(spiky(tmp_path))  # nobody has looked
    assert finding.lines == ()
    assert [each["first"] for each in finding.details["spikes"]] == [41, 71]
