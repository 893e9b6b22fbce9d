"""`burnish eval` on tiny models: the numbers of lm-eval's own adapter, comparisons, errors. In this process."""

from __future__ import annotations

import json
import socket

import pytest

from burnish.cli import eval as work
from burnish.errors import BurnishError, DataError, MissingExtraError
from tests.conftest import build_model, build_tokenizer

lm_eval = pytest.importorskip("lm_eval")

WORDS = ["blue", "grey", "pink", "teal"]
TASKS = {
    "colours": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "saying": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{said}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
""",
    "reading": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Three task files, and data whose right answers are what the base model finds likeliest."""
    from burnish.evaluate.answering import Asked, answer_all
    from burnish.evaluate.scoring import Continuation, likelihoods
    from burnish.generate import Sampling

    folder = tmp_path_factory.mktemp("tasks")
    model, tokenizer = build_model().eval(), build_tokenizer()
    rows = []
    for number in range(24):
        question = f"Colour {number} of {number * number} is"
        ids = tuple(tokenizer.encode(question))
        scores = likelihoods(
            model, [Continuation(ids, tuple(tokenizer.encode(f" {word}"))) for word in WORDS], window=512
        )
        gold = max(range(4), key=lambda place: scores[place].nats)
        asked = Asked(ids, Sampling(max_new_tokens=12), ("\n\n",))
        [said] = answer_all(model, tokenizer, [asked], stop_ids={tokenizer.eos_token_id})
        rows.append({"question": question, "choices": WORDS, "gold": gold, "said": said})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\ndataset_path: json\ntest_split: test\n{text}")
    return folder


@pytest.fixture(scope="module")
def run_dir(tiny_folder, tmp_path_factory):
    """A run folder with an adapter that changes what the tiny model says."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("run") / "run"
    model = build_model()
    torch.manual_seed(1)
    adapted = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=64, init_lora_weights=False, target_modules="all-linear")
    )
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    record = {"schema": 1, "settings": {"model_name_or_path": str(tiny_folder)}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def call(model, tasks, names, **changes):
    given = {
        "model": str(model),
        "tasks": names,
        "include": (str(tasks),),
        "data": tuple(f"{name}={tasks}" for name in names),
        "templated": False,
        **changes,
    }
    return work.understand(["use_cpu=true", "infer_dtype=float32"], **given)


def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("the test allows no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_figures_are_those_of_lm_evals_own_adapter(tiny_folder, tasks, tmp_path, capsys, monkeypatch):
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from burnish.evaluate.tasklist import load_tasks

    no_network(monkeypatch)
    names = tuple(TASKS)
    work.run_eval(call(tiny_folder, tasks, names, output=str(tmp_path)))
    written = json.loads((tmp_path / "eval.json").read_text())
    model, tokenizer = build_model().eval(), build_tokenizer()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1, device="cpu")
    loaded = load_tasks(names, include=[str(tasks)], data=[f"{name}={tasks}" for name in names])
    wanted = evaluate(theirs, loaded, bootstrap_iters=1000)["results"]
    for name in names:
        for key, figure in written["tasks"][name].items():
            assert figure["value"] == pytest.approx(wanted[name][key], rel=1e-4, abs=1e-4), key
            assert figure["n"] == 24
    assert {"acc,none", "acc_norm,none"} <= set(written["tasks"]["colours"])
    assert written["tasks"]["colours"]["acc,none"]["value"] == 1.0  # the data was made so
    assert written["tasks"]["reading"]["word_perplexity,none"]["higher_is_better"] is False
    shown = capsys.readouterr().out
    assert "plain text, no chat template" in shown
    assert "acc_norm ↑" in shown
    answers = [json.loads(line) for line in (tmp_path / "eval_answers.jsonl").read_text().splitlines()]
    assert len(answers) == 72


def test_an_adapter_has_the_figures_of_its_merged_export_in_lm_eval(run_dir, tasks, tmp_path, monkeypatch):
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from burnish.cli.export import Arguments, run_export
    from burnish.evaluate.tasklist import load_tasks

    no_network(monkeypatch)
    names = tuple(TASKS)
    merged = tmp_path / "merged"
    run_export(str(run_dir), ["use_cpu=true"], Arguments(to=str(merged), dtype="float32"))
    work.run_eval(call(run_dir, tasks, names, templated=True, output=str(tmp_path / "ours")))
    figures = json.loads((tmp_path / "ours" / "eval.json").read_text())["tasks"]
    theirs = HFLM(pretrained=str(merged), backend="causal", batch_size=1, device="cpu", dtype="float32")
    loaded = load_tasks(names, include=[str(tasks)], data=[f"{name}={tasks}" for name in names])
    wanted = evaluate(theirs, loaded, bootstrap_iters=100, apply_chat_template=True, log_samples=True)
    for name in names:
        for key, figure in figures[name].items():
            assert figure["value"] == pytest.approx(wanted["results"][name][key], rel=1e-4, abs=1e-4), key
    answers = [json.loads(line) for line in (tmp_path / "ours" / "eval_answers.jsonl").read_text().splitlines()]
    ours = {each["number"]: (each["prompt"], each["answer"]) for each in answers if each["task"] == "saying"}
    said = {each["doc_id"]: each for each in wanted["samples"]["saying"]}
    assert len(said) == 24
    for number, each in said.items():
        assert (each["arguments"][0][0], each["resps"][0][0]) == ours[number]


def test_a_run_is_compared_with_its_base_on_the_same_prompts(run_dir, tasks, capsys):
    with pytest.raises(BurnishError, match=r"worse by more than 0.02: colours acc,none") as failed:
        work.run_eval(
            call(
                run_dir,
                tasks,
                ("colours",),
                data=tuple(f"{name}={tasks}" for name in TASKS),
                regression=("saying", "reading"),
                compare=work.BASE,
                fail_if_worse=0.02,
            )
        )
    assert failed.value.exit_code == 2
    written = json.loads((run_dir / "eval.json").read_text())
    compared = written["compared_with"]
    assert compared["same_prompts"] is True
    found = compared["tasks"]["colours"]["acc,none"]
    assert found["old"] == 1.0
    assert found["new"] == written["tasks"]["colours"]["acc,none"]["value"] < 1
    assert (found["wins"], found["losses"] + found["ties"]) == (0, 24)
    assert found["verdict"].startswith("worse: -")
    assert compared["tasks"]["saying"]["exact_match,none"]["regression"] is True
    perplexity = compared["tasks"]["reading"]["word_perplexity,none"]
    assert perplexity["p"] is None
    assert perplexity["low"] <= perplexity["difference"] <= perplexity["high"]
    assert perplexity["wins"] + perplexity["losses"] == 24
    assert (perplexity["losses"] > 12) == (perplexity["difference"] > 0)
    page = (run_dir / "eval.html").read_text()
    assert page.count("<details>") >= found["losses"]
    assert "http://" not in page
    assert "https://" not in page
    shown = capsys.readouterr().out
    assert "saying (what it could do before), exact_match, none: worse" in shown


def test_the_runs_template_renders_questions_by_default(run_dir, tasks, capsys):
    work.run_eval(call(run_dir, tasks, ("saying",), templated=None, limit=2))
    assert "chat template tokenizer" in capsys.readouterr().out
    [first, _] = [json.loads(line) for line in (run_dir / "eval_answers.jsonl").read_text().splitlines()]
    assert first["prompt"] == "<|im_start|>user\nColour 0 of 0 is<|im_end|>\n<|im_start|>assistant\n"
    assert json.loads((run_dir / "eval.json").read_text())["settings"]["chat_template"] is True


def test_gsm8k_from_local_files(tiny_folder, tmp_path):
    row = {"question": "How many legs have 2 dogs?", "answer": "2 * 4 = 8\n#### 8"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(6)))
    asked = work.understand(
        ["use_cpu=true", "max_new_tokens=4"],
        model=str(tiny_folder),
        tasks=("gsm8k_local", "gsm8k_local_plain"),
        data=(str(tmp_path),),
        num_fewshot=1,
        limit=2,
        output=str(tmp_path / "out"),
    )
    work.run_eval(asked)
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert set(written["tasks"]["gsm8k_local"]) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert written["n_shot"] == {"gsm8k_local": 1, "gsm8k_local_plain": 0}
    prompts = [json.loads(line)["prompt"] for line in (tmp_path / "out" / "eval_answers.jsonl").open()]
    assert prompts[0].count("Question: ") == 2
    assert prompts[-1] == "<|im_start|>user\nHow many legs have 2 dogs?<|im_end|>\n<|im_start|>assistant\n"


def test_gsm8k_filters_read_answers_as_the_original_does():
    """Strict: the figure behind ####; flexible: the last figure."""
    import yaml
    from lm_eval.filters.extraction import RegexFilter

    from burnish.evaluate.tasklist import OWN

    filters = yaml.safe_load((OWN / "gsm8k_local.yaml").read_text())["filter_list"]
    strict, flexible = (
        RegexFilter(each["filter"][0]["regex_pattern"], each["filter"][0].get("group_select", 0)) for each in filters
    )
    said = [["so 3 + 4\n#### 7"], ["It costs $1,250.50, not 9"], ["#### -12 apples, 5 pears"], ["none"]]
    assert strict.apply(said, [{}] * 4) == [["7"], ["[invalid]"], ["-12"], ["[invalid]"]]
    assert flexible.apply(said, [{}] * 4) == [["7"], ["9"], ["5"], ["[invalid]"]]


def test_a_served_model_answers_and_gives_no_likelihoods(tasks, capsys):
    from tests.unit.generate.chat_server import chat_server

    with chat_server() as server:
        work.run_eval(call(f"{server.url}", tasks, ("saying",), templated=None, limit=3))
        with pytest.raises(BurnishError, match="how likely given texts are"):
            work.run_eval(call(f"{server.url}", tasks, ("colours",), templated=None, limit=3))
    assert "the server's chat template" in capsys.readouterr().out


def test_what_the_user_can_mend(tiny_folder, tasks, tmp_path, monkeypatch):
    no_network(monkeypatch)
    (tasks / "hub_only.yaml").write_text(
        "task: hub_only\ndataset_path: nobody/nothing\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: q\ndoc_to_target: a\nmetric_list: [{metric: exact_match}]\n"
    )
    with pytest.raises(DataError, match="cannot be made ready") as offline:
        work.run_eval(call(tiny_folder, tasks, ("hub_only",), data=()))
    assert "--data TASK=PATH" in str(offline.value)
    (tasks / "faulty.yaml").write_text(
        "task: faulty\ndataset_path: json\ntest_split: test\noutput_type: generate_until\n"
    )
    with pytest.raises(DataError, match="a task cannot be made ready"):
        work.run_eval(call(tiny_folder, tasks, ("faulty",)))
    with pytest.raises(BurnishError, match="there is no task 'colurs'") as slip:
        work.run_eval(call(tiny_folder, tasks, ("colurs",), data=()))
    assert "did you mean 'colours'?" in str(slip.value)
    with pytest.raises(DataError, match="no such task file") as lost:
        work.run_eval(call(tiny_folder, tasks, (str(tasks / "colour.yaml"),), data=()))
    assert f"did you mean '{tasks / 'colours.yaml'}'" in str(lost.value)
    with pytest.raises(DataError, match="no such file or folder"):  # a file's task is named without its folder
        work.run_eval(call(tiny_folder, tasks, (str(tasks / "colours.yaml"),), data=("colours=nowhere",)))
    with pytest.raises(DataError, match="reads local files"):
        work.run_eval(call(tiny_folder, tasks, ("gsm8k_local",), data=()))
    with pytest.raises(DataError, match="no such file or folder"):
        work.run_eval(call(tiny_folder, tasks, ("colours",), data=("colours=nowhere",)))
    with pytest.raises(DataError, match="no file of a task"):
        work.run_eval(call(tiny_folder, tasks, ("colours",), data=(f"colours={tmp_path}",)))
    with pytest.raises(BurnishError, match="names no task of this call"):
        work.run_eval(call(tiny_folder, tasks, ("colours",), data=("other=x",)))
    with pytest.raises(BurnishError, match="--regression needs something to compare with"):
        call(tiny_folder, tasks, ("colours",), regression=("saying",))
    with pytest.raises(BurnishError, match="'learning_rate' has no effect in eval"):
        work.understand(["learning_rate=1"], model="m", tasks=("colours",))
    with pytest.raises(BurnishError, match="no task is named"):
        work.understand([], model="m", tasks=())


def test_without_the_extra_the_install_line_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'burnish\[eval\]'"):
        work.list_tasks("gsm8k", ())
