"""What must hold for dpo, kto and rm: the reference is the start, batches may be cut and stopped as one likes."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from burnish.api import load, load_reward_model, train
from burnish.batch.collate import Layout, collate_feedback
from burnish.batch.pairs import collate_pairs
from burnish.batch.plan import BatchPlan, SingleRows
from burnish.data.records import Conversation, Turn
from burnish.errors import DataError, ModelError
from burnish.kernels.attention import packed_rows
from burnish.model.adapter import attach_lora
from burnish.model.reward import attach_value_head
from burnish.template import Example
from burnish.train.preference import FeedbackLoss, PairLoss, ScoreLoss, answer_scores
from burnish.train.reference import start_reference, without_dropout
from tests.conftest import build_model
from tests.invariant.test_training import check_same_run, interrupted, rows
from tests.judged import feedback_file, pair_file, write
from tests.runs import settings, weights

PACKED, PADDED = Layout(True), Layout(False, 2)


def example(number, mark=0.0):
    """An answer of unequal length to a prompt that its neighbour shares."""
    random = torch.Generator().manual_seed(number // 2)
    prompt = torch.randint(3, 259, (2 + (number // 2 * 7) % 13,), generator=random).tolist()
    random.manual_seed(1000 + number)
    answer = torch.randint(3, 259, (1 + (number * 5) % 9,), generator=random).tolist()
    return Example(prompt + answer, [-100] * len(prompt) + answer, mark=mark)


def pairs(count):
    return [example(number, 1.0 - number % 2) for number in range(2 * count)]


def next_of(changes):
    """A name for a case: its first setting."""
    return next(iter(changes))


def learnt(model, seed=1):
    """The model with a LoRA adapter that does something."""
    tuned, _ = attach_lora(model, rank=4)
    torch.manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return tuned


# -- the reference ------------------------------------------------------------------------------------------------


def first_row(model, data, output, **changes):
    common = {"stage": "dpo", "max_steps": 2, "per_device_train_batch_size": 4, **changes}
    train(settings(model, data, output, **common))
    return rows(output)[0]


@pytest.fixture(scope="module")
def tuned(tiny_folder, tmp_path_factory):
    """A run folder with an adapter that does something."""
    folder = tmp_path_factory.mktemp("tuned")
    train(settings(tiny_folder, pair_file(folder), folder / "run", stage="dpo", max_steps=3, learning_rate=3e-2))
    return folder / "run"


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.3},
        {"use_dora": True},
        {"additional_target": "lm_head"},
        {"packing": True},
        {"flash_attn": "disabled"},
        {"finetuning_type": "full"},
        {"gradient_checkpointing": True},
        {"streaming": True, "buffer_size": 4},
    ],
    ids=next_of,
)
def test_the_first_loss_is_ln_2(tiny_folder, tmp_path, changes):
    row = first_row(tiny_folder, pair_file(tmp_path), tmp_path / "run", **changes)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert row["rewards/chosen"] == row["rewards/rejected"] == row["rewards/margins"] == 0.0


@pytest.mark.parametrize("fresh", [False, True], ids=["trained on", "merged"])
def test_the_reference_of_a_continued_adapter_is_that_adapter(tiny_folder, tuned, tmp_path, fresh):
    changes = {"adapter_name_or_path": str(tuned), "create_new_adapter": fresh, "lora_dropout": 0.2}
    row = first_row(tiny_folder, pair_file(tmp_path), tmp_path / "run", **changes)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert row["rewards/margins"] == 0.0
    assert rows(tmp_path / "run")[1]["rewards/margins"] > 0
    assert not (tmp_path / "run" / "reference").exists()  # the twin is not saved
    assert len(weights(tmp_path / "run")) == len(weights(tuned))


@pytest.mark.parametrize("changes", [{"lora_rank": 4}, {"finetuning_type": "full"}, {"packing": True}], ids=next_of)
def test_a_precomputed_reference_gives_the_same_run(tiny_folder, tmp_path, changes, capsys):
    data = pair_file(tmp_path)
    common = {**changes, "val_size": 3, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-3}
    first_row(tiny_folder, data, tmp_path / "asked", **common)
    known = first_row(tiny_folder, data, tmp_path / "known", precompute_ref=True, **common)
    assert known["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for one, other in zip(rows(tmp_path / "asked"), rows(tmp_path / "known"), strict=True):
        for key in ("loss", "eval_loss", "rewards/margins", "eval_rewards/margins", "grad_norm"):
            assert one[key] == pytest.approx(other[key], abs=1e-5), key
    capsys.readouterr()
    first_row(tiny_folder, data, tmp_path / "again", precompute_ref=True, seed=4, **common)
    assert "in the cache" in capsys.readouterr().out
    assert rows(tmp_path / "again")[1]["eval_loss"] != rows(tmp_path / "known")[1]["eval_loss"]


def test_what_is_in_the_cache_belongs_to_its_model(tiny_folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    model = build_model()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1.0
    model.save_pretrained(other)
    data = pair_file(tmp_path)
    first_row(tiny_folder, data, tmp_path / "a", precompute_ref=True)
    capsys.readouterr()
    row = first_row(other, data, tmp_path / "b", precompute_ref=True)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert "reference is in the cache" not in capsys.readouterr().out


def test_a_reference_model_of_its_own(tiny_folder, tuned, tmp_path):
    data = pair_file(tmp_path)
    same = first_row(tiny_folder, data, tmp_path / "same", ref_model=str(tiny_folder))
    assert same["loss"] == pytest.approx(math.log(2), abs=1e-7)
    by_run = first_row(tiny_folder, data, tmp_path / "run", ref_model=str(tuned))
    by_adapter = first_row(
        tiny_folder, data, tmp_path / "adapter", ref_model=str(tiny_folder), ref_model_adapters=str(tuned)
    )
    assert by_run["rewards/margins"] == pytest.approx(by_adapter["rewards/margins"])
    assert abs(by_run["rewards/margins"]) > 1e-3


def test_asking_the_reference_leaves_the_model_as_it_was():
    for model, adapted in ((learnt(build_model()), True), (attach_lora(build_model(), rank=4)[0], False)):
        base = build_model()
        model.train()
        reference = start_reference(model)
        if adapted:  # as after some training; the twin stays
            for name, parameter in model.named_parameters():
                if "lora_B.default" in name:
                    parameter.data.mul_(2.0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trains
        assert not any("reference" in name for name in trains)
        batch = collate_pairs(pairs(2), range(4), PACKED)
        said = reference.logprobs(batch, packed=True).total
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trains
        assert all(module.training for module in model.modules())
        wanted = start_reference(learnt(base) if adapted else base).logprobs(batch, packed=True).total
        torch.testing.assert_close(said, wanted)


def test_dropout_is_off_everywhere():
    model, _ = attach_lora(build_model(attention_dropout=0.5), rank=4, dropout=0.5)
    without_dropout(model)
    model.train()
    ids = torch.randint(3, 259, (1, 12))
    assert torch.equal(model(ids).logits, model(ids).logits)


# -- batches --------------------------------------------------------------------------------------------------------


def losses(layout, made):
    """The loss of each stage over the same examples, in float64."""
    model = learnt(build_model().double())
    attach_value_head(model, seed=1)
    reference = start_reference(build_model().double())
    found = {}
    with torch.no_grad(), packed_rows(model.get_base_model()):
        batch = collate_pairs(made, range(len(made)), layout)
        found["dpo"] = PairLoss(model, packed=layout.packed, reference=reference)(batch)
        found["rm"] = ScoreLoss(model, packed=layout.packed)(batch)
        batch = collate_feedback(made, range(len(made)), layout)
        found["kto"] = FeedbackLoss(model, packed=layout.packed, reference=reference, beta=0.5)(batch)
    return found


def test_packed_equals_padded():
    made = pairs(5)
    packed = losses(PACKED, made)
    model = learnt(build_model().double())
    attach_value_head(model, seed=1)
    reference = start_reference(build_model().double())
    batch, crossed = collate_pairs(made, range(10), PADDED), collate_feedback(made, range(10), PADDED)
    padded = {
        "dpo": PairLoss(model, packed=False, reference=reference)(batch),
        "rm": ScoreLoss(model, packed=False)(batch),
        "kto": FeedbackLoss(model, packed=False, reference=reference, beta=0.5)(crossed),
    }
    for name, loss in packed.items():
        torch.testing.assert_close(loss.total, padded[name].total, atol=1e-5, rtol=1e-5)
        assert loss.count == padded[name].count == (10 if name == "kto" else 5)
        for figure, (total, _) in loss.figures.items():
            torch.testing.assert_close(total, padded[name].figures[figure][0], atol=1e-4, rtol=1e-5)
    assert packed["kto"].figures["kl"][1] == 1


def test_a_margin_moves_the_scores_of_a_pair_apart():
    """Bradley-Terry with a margin, by hand, on the scores that the model gives (arXiv:2307.09288, eq. 2)."""
    made = pairs(3)
    marked = [
        replace(one, mark=(1.0, -0.7)[place % 2] if place < 4 else 1.0 - place % 2) for place, one in enumerate(made)
    ]
    model = learnt(build_model().double())
    attach_value_head(model, seed=1)
    with torch.no_grad(), packed_rows(model.get_base_model()):
        plain, batch = collate_pairs(made, range(6), PACKED), collate_pairs(marked, range(6), PACKED)
        scores = answer_scores(model, plain, packed=True)
        found = ScoreLoss(model, packed=True)(batch)
        without = ScoreLoss(model, packed=True)(plain)
    gaps = (scores[0::2] - scores[1::2]).double()
    expected = torch.log1p(torch.exp(-(gaps - torch.tensor([0.7, 0.7, 0.0])))).sum()
    torch.testing.assert_close(found.total.double(), expected, atol=1e-5, rtol=1e-5)
    assert found.total > without.total


def test_a_pair_alone_loses_what_it_loses_among_others():
    made = pairs(4)
    together = losses(PACKED, made)
    alone = [losses(PACKED, made[start : start + 2]) for start in range(0, 8, 2)]
    for stage in ("dpo", "rm"):
        total = sum(one[stage].total for one in alone)
        torch.testing.assert_close(together[stage].total, total, atol=1e-5, rtol=1e-5)


def gradients(stage, count, batch_rows, accumulation):
    """Gradients of the first step, by the loop itself."""
    from burnish.train.engine import build_accelerator
    from burnish.train.loop import Hooks, Loop, LoopOptions
    from burnish.train.optimizers import OptimizerOptions, build_optimizer
    from burnish.train.state import Progress

    made = pairs(count)
    model = learnt(build_model())
    reference = start_reference(build_model())
    if stage == "rm":
        attach_value_head(model, seed=1)
        module = ScoreLoss(model, packed=True)
    else:
        module = PairLoss(model, packed=True, reference=reference, pref_loss=stage, pref_ftx=0.3)
    optimizer = build_optimizer(model, OptimizerOptions(learning_rate=0.0))
    kept = {}
    loop = Loop(
        build_accelerator(torch.device("cpu"), "no"),
        module,
        optimizer,
        optimizer,
        BatchPlan(SingleRows(count, 2), batch_rows, accumulation, seed=1),
        lambda numbers: collate_pairs([made[n] for n in numbers], numbers, PACKED),
        lambda _: 0.0,
        LoopOptions(total_steps=1, max_grad_norm=0.0, unit=2),
        Hooks(),
        Progress(),
    )
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer.zero_grad = lambda *_: kept.update({name: value.grad.clone() for name, value in names.items()})
    with packed_rows(model.get_base_model()):
        figures = loop.step()
    assert loop.progress.samples == count
    return kept, figures["loss"]


@pytest.mark.parametrize("stage", ["sigmoid", "simpo", "rm"])
def test_how_a_batch_is_cut_does_not_change_the_gradient(stage):
    whole, loss = gradients(stage, 7, 8, 1)
    for batch_rows, accumulation in ((1, 8), (2, 4), (4, 2)):  # the last micro-batch is smaller than the others
        cut, cut_loss = gradients(stage, 7, batch_rows, accumulation)
        assert cut_loss == pytest.approx(loss, rel=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, atol=1e-5, rtol=1e-4)


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("dpo", {"lora_dropout": 0.1, "disable_dropout": False, "val_size": 2, "eval_strategy": "steps"}),
        ("dpo", {"adapter": True}),
        ("dpo", {"finetuning_type": "full", "learning_rate": 1e-3}),
        ("dpo", {"finetuning_type": "full", "learning_rate": 1e-3, "precompute_ref": True}),
        ("dpo", {"streaming": True, "max_steps": 9, "buffer_size": 5}),
        ("kto", {"packing": True, "cutoff_len": 90, "num_train_epochs": 4}),
        ("kto", {"per_device_train_batch_size": 3, "num_train_epochs": 3}),
        ("rm", {}),
        ("rm", {"finetuning_type": "full", "learning_rate": 1e-3, "center_rewards_coefficient": 0.01}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_resumed_twice_equals_uninterrupted(tiny_folder, tuned, tmp_path, stage, changes):
    data = feedback_file(tmp_path) if stage == "kto" else pair_file(tmp_path)
    common = {"stage": stage, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2, **changes}
    if common.pop("adapter", False):
        common["adapter_name_or_path"] = str(tuned)
    train(settings(tiny_folder, data, tmp_path / "whole", **common))
    interrupted(tiny_folder, data, tmp_path / "parts", 2, **common)
    interrupted(tiny_folder, data, tmp_path / "parts", 4, **common)
    shutil.rmtree(tmp_path / "parts" / "checkpoint-4")
    train(settings(tiny_folder, data, tmp_path / "parts", **common, resume_from_checkpoint=True))
    if stage == "rm":
        heads = [(tmp_path / run / "value_head.safetensors").read_bytes() for run in ("whole", "parts")]
        assert heads[0] == heads[1]
    check_same_run(tmp_path / "parts", tmp_path / "whole")


# -- what is learnt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "robust", "orpo", "simpo", "kto_pair"])
def test_margins_rise(tiny_folder, tmp_path, loss):
    changes = {"stage": "dpo", "pref_loss": loss, "num_train_epochs": 8, "learning_rate": 1e-2}
    own = {"robust": {"dpo_label_smoothing": 0.1}, "orpo": {"pref_beta": 1.0}, "simpo": {"pref_beta": 2.0}}
    changes |= own.get(loss, {})
    record = train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "run", **changes))
    found = rows(tmp_path / "run")
    assert found[-1]["rewards/margins"] > found[0]["rewards/margins"] + 0.05
    assert found[-1]["rewards/accuracies"] == 1.0
    assert record["data"]["samples"] == 11
    assert record["data"]["rows_used"] == 11


def test_kto_learns_to_tell_the_marks_apart(tiny_folder, tmp_path):
    changes = {"stage": "kto", "num_train_epochs": 10, "learning_rate": 1e-2, "per_device_train_batch_size": 6}
    train(settings(tiny_folder, feedback_file(tmp_path), tmp_path / "run", **changes))
    first, *_, last = rows(tmp_path / "run")
    assert first["loss"] == pytest.approx(0.5, abs=1e-6)  # 1 - sigma(0), and the KL of equal policies is 0
    assert first["kl"] == 0.0
    assert last["rewards/chosen"] > 0 > last["rewards/rejected"]
    assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"])


@pytest.mark.parametrize("changes", [{}, {"finetuning_type": "full", "learning_rate": 3e-3}], ids=["lora", "full"])
def test_a_reward_model_scores_after_saving_as_before(tiny_folder, tmp_path, changes):
    from safetensors.torch import load_file

    data = pair_file(tmp_path)
    common = {"stage": "rm", "num_train_epochs": 6, "save_strategy": "epoch", **changes}
    held = {"eval_dataset": [str(data)], "do_eval": True, "do_train": True}
    train(settings(tiny_folder, data, tmp_path / "run", **common, **held))
    last = rows(tmp_path / "run")[-1]
    assert last["eval_rewards/accuracies"] == 1.0
    head = load_file(tmp_path / "run" / "value_head.safetensors")
    assert {name: list(value.shape) for name, value in head.items()} == {
        "v_head.summary.weight": [1, 32],
        "v_head.summary.bias": [1],
    }
    assert not any("v_head" in name for name in weights(tmp_path / "run"))
    conversations = []
    for row in map(json.loads, data.read_text().splitlines()):
        for answer in (row["chosen"], row["rejected"]):
            conversations.append(Conversation((Turn("user", row["prompt"]), Turn("assistant", answer))))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-36"):
        scores = load_reward_model(str(folder), use_cpu=True).score(conversations, batch_size=5)
        better, worse = scores[0::2], scores[1::2]
        assert sum(better) / 11 == pytest.approx(last["eval_rewards/chosen"], abs=1e-4)
        assert sum(worse) / 11 == pytest.approx(last["eval_rewards/rejected"], abs=1e-4)


def test_a_reward_model_does_not_chat_and_a_chat_model_does_not_score(tiny_folder, tmp_path):
    train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "run", stage="rm", max_steps=1))
    with pytest.raises(ModelError, match="a reward model: it scores answers and writes none"):
        load(str(tmp_path / "run"), use_cpu=True)
    with pytest.raises(ModelError, match="no reward model"):
        load_reward_model(str(tiny_folder), use_cpu=True)


def test_a_reward_model_may_be_trained_on(tiny_folder, tmp_path):
    data = pair_file(tmp_path)
    train(settings(tiny_folder, data, tmp_path / "one", stage="rm", num_train_epochs=5))
    last = rows(tmp_path / "one")[-1]["loss"]
    train(settings(tiny_folder, data, tmp_path / "two", stage="rm", adapter_name_or_path=str(tmp_path / "one")))
    assert rows(tmp_path / "two")[0]["loss"] < 0.5 * math.log(2)
    assert last < 0.5 * math.log(2)


# -- marked answers ---------------------------------------------------------------------------------------------------


def test_a_prompt_is_crossed_with_the_answer_to_another():
    made = [example(number, 1.0) for number in (0, 1, 2, 4, 6)]  # the first two share a prompt
    batch = collate_feedback(made, range(5), PACKED)
    crossed = batch.mismatched
    ids = crossed.input_ids[0].tolist()
    start = 0
    for one, length in zip(made, crossed.document_lengths, strict=True):
        first = one.labels.index(next(label for label in one.labels if label != -100))
        document = ids[start : start + length]
        start += length
        assert document[:first] == one.input_ids[:first]
        owners = [other for other in made if other.input_ids[-len(document[first:]) :] == document[first:]]
        assert owners
        assert all(other.input_ids[:first] != one.input_ids[:first] for other in owners)
    assert batch.units == 5
    assert batch.loss_count == 5.0


def test_a_crossed_answer_is_cut_to_fit():
    made = [example(number, 1.0) for number in (0, 2, 4)]
    longest = max(len(one.input_ids) for one in made)
    batch = collate_feedback(made, range(3), Layout(True, cutoff_len=longest))
    assert max(batch.mismatched.document_lengths) <= longest


@pytest.mark.parametrize(("batch_rows", "accumulation"), [(1, 8), (2, 4), (3, 3)])
def test_how_a_step_is_cut_changes_nothing_in_kto(tiny_folder, tmp_path, batch_rows, accumulation):
    """The KL is one number a step, so even micro-batches of one have it."""
    data = feedback_file(tmp_path, 8)
    for name, rows_, parts in (("whole", 8, 1), ("cut", batch_rows, accumulation)):
        sizes = {"per_device_train_batch_size": rows_, "gradient_accumulation_steps": parts}
        sizes |= {"kto_rejected_weight": 0.01, "learning_rate": 3e-2}  # all answers become likelier, so the KL rises
        train(settings(tiny_folder, data, tmp_path / name, stage="kto", max_steps=4, **sizes))
    for one, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True):
        for key in ("loss", "kl", "grad_norm", "rewards/margins", "logps/chosen"):
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
    assert max(row["kl"] for row in rows(tmp_path / "cut")) > 0


def test_a_step_of_one_has_no_kl_and_says_so_once(tiny_folder, tmp_path, capsys):
    changes = {"stage": "kto", "per_device_train_batch_size": 1, "max_steps": 3}
    train(settings(tiny_folder, feedback_file(tmp_path), tmp_path / "run", **changes))
    assert capsys.readouterr().out.count("the KL in its loss is taken as 0") == 1
    assert all("kl" not in row for row in rows(tmp_path / "run"))


def test_the_balance_of_the_labels_is_said_with_weights_that_mend_it(tiny_folder, tmp_path, capsys):
    rows_ = [json.loads(line) for line in feedback_file(tmp_path).read_text().splitlines()]
    liked = [row for row in rows_ if row["label"]][:2]
    few = write(tmp_path / "few.jsonl", liked + [row for row in rows_ if not row["label"]])
    train(settings(tiny_folder, few, tmp_path / "run", stage="kto", max_steps=1))
    said = " ".join(capsys.readouterr().out.split())
    assert "2 desirable and 4 undesirable answers" in said
    assert "set kto_chosen_weight to 2.00 to 2.67, or kto_rejected_weight to 0.38 to 0.50" in said
    train(settings(tiny_folder, few, tmp_path / "mended", stage="kto", max_steps=1, kto_chosen_weight=2.0))
    assert "out of balance" not in capsys.readouterr().out
    only = write(tmp_path / "only.jsonl", liked)
    with pytest.raises(DataError, match="there is no undesirable one"):
        train(settings(tiny_folder, only, tmp_path / "none", stage="kto", max_steps=1))


def test_copies_of_a_model_do_not_share_weights_with_it():
    model = build_model()
    reference = start_reference(model)
    before = copy.deepcopy(reference.model.state_dict())
    model.model.layers[0].mlp.up_proj.weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in reference.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())


def test_a_column_of_margins_reaches_the_loss(tiny_folder, tmp_path):
    """The same pairs with a margin, in a file that is named directly: the loss is larger by what the margin adds."""
    file = pair_file(tmp_path)
    made = [json.loads(line) for line in file.read_text().splitlines()]
    wide = write(tmp_path / "wide.jsonl", [row | {"margin": 2.0} for row in made])
    found = []
    for data in (file, wide):
        train(
            settings(tiny_folder, data, tmp_path / data.stem, stage="rm", max_steps=1, per_device_train_batch_size=11)
        )
        found.append(rows(tmp_path / data.stem)[0])
    first, second = found
    assert first["rewards/margins"] == second["rewards/margins"]
    # The gaps at the start are small, so the loss is about log(1 + e^m).
    assert abs(second["loss"] - math.log1p(math.exp(2.0 - second["rewards/margins"]))) < 0.1
    assert abs(first["loss"] - math.log1p(math.exp(-first["rewards/margins"]))) < 0.1
