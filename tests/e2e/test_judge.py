"""`burnish eval --judge`: files and models, caches, costs, Ctrl-C, Burnish's own server, typical mistakes."""

from __future__ import annotations

import json
import os
import signal

import pytest

from burnish.cli.eval import BASE
from burnish.cli.eval_judge import JudgeCall, run_judge
from burnish.cli.judge_options import JudgeOptions
from burnish.errors import BurnishError, DataError
from tests.conftest import build_model, build_tokenizer
from tests.judges import busy, first, judge_server, nonsense, parts, right

COUNT = 12


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Replies that other tests were given are unknown here; so are keys of the machine."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    for name in ("BURNISH_JUDGE_KEY", "BURNISH_JUDGE_MODEL", "OPENAI_API_KEY", "API_KEY"):
        monkeypatch.delenv(name, raising=False)


def predictions(folder, worths, **more):
    """A predictions.jsonl whose answers say what they are worth."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row, value in enumerate(worths):
        question = f"What is {row} and {row}?" if row % 2 else f"请问 {row} 加 {row} 等于多少？"
        line = {
            "index": row, "dataset": "sums", "row": row, "prompt": f"<|user|>{question}",
            "messages": [{"role": "user", "content": question}], "prediction": f"{2 * row}, worth {value}",
            "reference": str(2 * row), **{name: values[row] for name, values in more.items()},
        }  # fmt: skip
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "predictions.jsonl"


@pytest.fixture
def new(tmp_path):
    return predictions(tmp_path / "new", [5 + row % 4 for row in range(COUNT)])


@pytest.fixture
def old(tmp_path):
    return predictions(tmp_path / "old", [4 + row % 3 for row in range(COUNT)])


def judge(model, server, *, call=None, **options):
    """Run the command; returns what eval.json says of the judge."""
    asked = JudgeCall(str(model), **(call or {}))
    run_judge(asked, JudgeOptions(judge=server.url, **options))
    folder = asked.output or os.path.dirname(str(model))
    with open(os.path.join(folder, "eval.json"), encoding="utf-8") as file:
        return json.load(file)["judge"]


def test_grades_of_a_right_judge(new, capsys):
    with judge_server() as server:
        found = judge(new, server, rubric=("helpfulness", "honesty"))
    assert len(server.asked) == 2 * COUNT
    figures = found["grades"]["helpfulness"]["new"]
    assert (figures["n"], figures["mean"]) == (COUNT, 6.5)
    assert figures["low"] < 6.5 < figures["high"]
    assert found["grades"]["honesty"]["new"]["mean"] == 6.5
    assert found["unread"] == {"n": 0, "by_reason": {}, "rows": []}
    assert found["usage"]["prompt_tokens"] == 100 * 2 * COUNT
    chinese = ["你是" in asked["messages"][0]["content"] for asked in server.asked]
    assert sum(chinese) == COUNT, "half of the questions are Chinese"
    assert all(parts(asked)["reference"].isdigit() for asked in server.asked)
    shown = capsys.readouterr().out
    assert "helpfulness" in shown
    assert "6.50" in shown
    lines = [json.loads(line) for line in (new.parent / "judge.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * COUNT
    assert lines[0]["grade"] == 5
    page = (new.parent / "judge.html").read_text()
    assert page.count("<section") == COUNT
    assert "请问 0 加 0" in page
    assert "http" not in page


def test_pairs_of_a_right_judge(new, old, capsys):
    with judge_server() as server:
        found = judge(new, server, call={"compare": str(old), "limit": 10}, judge_by="both")
    pairs = found["pairs"]["helpfulness"]
    ends = [(5 + row % 4) - (4 + row % 3) for row in range(10)]
    assert pairs["wins"] == sum(end > 0 for end in ends)
    assert pairs["losses"] == sum(end < 0 for end in ends)
    assert pairs["ties"] == sum(end == 0 for end in ends)
    assert (pairs["consistency"], pairs["first_share"]) == (1.0, 0.5)
    assert pairs["verdict"].startswith("better: ")
    assert found["grades"]["helpfulness"]["difference"]["difference"] == pytest.approx(sum(ends) / 10)
    assert found["compared_with"] == str(old)
    assert found["questions"] == 10
    shown = capsys.readouterr().out
    assert "orders agree" in shown
    assert f"pairs against {old}: better: wins" in shown


def test_a_judge_that_likes_the_first_answer(tmp_path, capsys):
    new, old = (predictions(tmp_path / str(worth), [worth] * 30) for worth in (7, 3))
    with judge_server(first) as server:
        found = judge(new, server, call={"compare": str(old)})["pairs"]["helpfulness"]
    assert (found["wins"], found["ties"], found["losses"]) == (0, 30, 0)
    assert (found["consistency"], found["first_share"]) == (0.0, 1.0)
    assert "leans to the first answer" in capsys.readouterr().out


def test_equal_answers_are_not_paid_for(new):
    with judge_server() as server:
        found = judge(new, server, call={"compare": str(predictions(new.parent / "b", [5] * COUNT))})
    same = sum(5 + row % 4 == 5 for row in range(COUNT))
    assert found["pairs"]["helpfulness"]["equal_answers"] == same
    assert len(server.asked) == 2 * (COUNT - same)


def test_nonsense_is_counted_and_listed_and_scored_nowhere(new, old, capsys):
    with judge_server(lambda asked: (nonsense if "worth 8" in str(asked) else right)(asked)) as server:
        graded = judge(new, server)
        paired = judge(new, server, call={"compare": str(old)})
    figures = graded["grades"]["helpfulness"]["new"]
    assert (figures["n"], figures["not_graded"], figures["mean"]) == (9, 3, 6.0)
    assert graded["unread"]["n"] == 3
    [why] = graded["unread"]["by_reason"]
    assert why.startswith("the reply has no score: 'As a language model")
    assert {row["place"] for row in graded["unread"]["rows"]} == {f"sums, row {row}" for row in range(3, COUNT, 4)}
    assert (paired["pairs"]["helpfulness"]["n"], paired["pairs"]["helpfulness"]["not_compared"]) == (9, 3)
    shown = capsys.readouterr().out
    assert "3 of 12 requests have no verdict" in shown
    assert "unread" in (new.parent / "judge.html").read_text()
    with judge_server(nonsense) as server:
        nothing = judge(new, server, rubric=("honesty",))
    assert nothing["grades"]["honesty"]["new"] == {"n": 0, "not_graded": COUNT}
    assert "no verdict at all" in capsys.readouterr().out


def test_what_is_known_is_not_asked_again(new, capsys):
    with judge_server() as server:
        once = judge(new, server, call={"limit": 4})
        assert len(server.asked) == 4
        judge(new, server)
        assert len(server.asked) == COUNT
        again = judge(new, server, call={"limit": 4}, judge_concurrency=2, judge_timeout=9.0)
        assert len(server.asked) == COUNT
        assert again["grades"] == once["grades"]
        assert again["usage"]["prompt_tokens"] == 0
        assert f"{COUNT} replies are known" not in capsys.readouterr().out
        judge(new, server, call={"limit": 4}, judge_temperature=0.5)
        assert len(server.asked) == COUNT + 4
        judge(new, server, call={"limit": 4}, judge_fresh=True)
        assert len(server.asked) == COUNT + 8


def test_after_a_failure_the_same_command_goes_on(new, capsys):
    answered = []

    def dies(asked):
        if len(answered) >= 5:
            return 500, {"error": {"message": "out of memory"}}, {}
        answered.append(asked)
        return right(asked)

    with judge_server(dies) as server:
        with pytest.raises(BurnishError, match="does not answer: status 500: out of memory"):
            judge(new, server, judge_concurrency=1, judge_retries=0)
        assert f"5 of {COUNT} replies have come and are kept" in capsys.readouterr().out
        assert not (new.parent / "eval.json").exists()
        server.script, server.asked[:] = right, []
        assert judge(new, server)["grades"]["helpfulness"]["new"]["n"] == COUNT
        assert len(server.asked) == COUNT - 5


def test_after_ctrl_c_the_same_command_goes_on(new, capsys):
    def pressed(asked):
        if server.answered == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return right(asked)

    with judge_server(pressed) as server:
        with pytest.raises(KeyboardInterrupt):
            judge(new, server, judge_concurrency=1)
        kept = server.answered
        assert 5 <= kept <= 6
        assert f"{kept} of {COUNT} replies have come and are kept" in capsys.readouterr().out
        server.script = right
        judge(new, server)
        assert server.answered == len(server.asked) == COUNT, "nothing is paid twice"


def test_a_busy_judge_is_asked_again(new):
    with judge_server(busy(3, **{"retry-after-ms": "1"})) as server:
        assert judge(new, server)["grades"]["helpfulness"]["new"]["n"] == COUNT
    assert len(server.asked) == COUNT + 3


def test_costs_are_told_first(new, capsys):
    with judge_server() as server:
        run_judge(
            JudgeCall(str(new)), JudgeOptions(server.url, judge_model="judge", price_in=1, price_out=4, dry_run=True)
        )
        shown = capsys.readouterr().out
        assert "to ask: 12 requests, about" in shown
        assert "cost: about 0.0" in shown
        with pytest.raises(BurnishError, match=r"more than --max-cost 0\.001"):
            judge(new, server, price_in=1, price_out=4, max_cost=0.001)
        assert server.asked == []
        assert not (new.parent / "eval.json").exists()


def test_a_judge_that_costs_more_than_expected_is_stopped(new, capsys):
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}

    def dear(asked):
        choice = {"index": 0, "message": {"role": "assistant", "content": right(asked)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10_000, "total_tokens": 11_000}
        return 200, {**whole, "choices": [choice], "usage": usage}, {}

    with judge_server(dear) as server:
        with pytest.raises(BurnishError, match=r"7 replies are missing.*\(0\.055 was spent\)"):
            judge(new, server, price_in=0, price_out=1.1, max_cost=0.0555, judge_concurrency=1)
        asked = len(server.asked)
        assert asked == 5
        judge(new, server, price_in=0, price_out=1.1, max_cost=100)
        assert len(server.asked) == COUNT


def test_repeats_and_people(new, old, tmp_path, capsys):
    people = predictions(
        tmp_path / "people", [5 + row % 4 for row in range(COUNT)],
        grade=[5 + row % 4 if row else "none" for row in range(COUNT)],
        better=["win" if row % 4 else "loss" for row in range(COUNT)],
    )  # fmt: skip
    with judge_server() as server:
        found = judge(people, server, call={"limit": 8}, judge_repeats=2, judge_labels="grade")["grades"]["helpfulness"]
        assert found["new"]["repeats"] == {"n": 8, "equal": 1.0, "within_one": 1.0, "mean_difference": 0.0}
        assert found["human"] == {
            "n": 7, "within_one": 1.0, "mean_difference": 0.0, "spearman": pytest.approx(1), "column": "grade",
            "unread": 1,
        }  # fmt: skip
        assert "repeats show how steady it is" in capsys.readouterr().out
        assert len(server.asked) == 2 * 8
        human = judge(people, server, call={"compare": str(old), "limit": 8}, judge_labels="better")["pairs"][
            "helpfulness"
        ]["human"]
        assert human["n"] == 8
        assert 0 < human["equal"] < 1
        with pytest.raises(DataError, match="no row has the column 'beter'") as slip:
            judge(people, server, judge_labels="beter")
        assert "did you mean 'better'?" in str(slip.value)
        with pytest.raises(DataError, match="no label in 'better' can be read, such as 'loss'"):
            judge(people, server, judge_labels="better")


@pytest.fixture(scope="module")
def run_dir(tiny_folder, tmp_path_factory):
    """A run folder with an adapter that changes what the tiny model says."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("judged") / "run"
    model = build_model()
    torch.manual_seed(1)
    config = LoraConfig(r=8, lora_alpha=64, init_lora_weights=False, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"schema": 1, "settings": {"model_name_or_path": str(tiny_folder)}}))
    return folder


def longer(asked):
    """Prefers the answer with more text."""
    found = parts(asked)
    if "answer" in found:
        return '{"score": 4}'
    return json.dumps({"better": "A" if len(found["answer_A"]) > len(found["answer_B"]) else "B"})


def test_a_run_against_its_base(run_dir, chat_file, capsys):
    (run_dir / "eval.json").write_text(json.dumps({"schema": 1, "model": "x", "tasks": {"before": {}}}))
    words = (f"eval_dataset={chat_file}", "use_cpu=true", "infer_dtype=float32", "max_new_tokens=8", "do_sample=false")
    call = {"overrides": words, "compare": BASE, "limit": 5, "output": str(run_dir)}
    with judge_server(longer) as server:
        run_judge(JudgeCall(str(run_dir), **call), JudgeOptions(server.url, judge_model="judge", dry_run=True))
        assert "taken to be as long as the data's own" in capsys.readouterr().out
        assert not (run_dir / "judge").exists()
        found = judge(run_dir, server, call=call)
        asked = len(server.asked)
        answers = sorted((run_dir / "judge").glob("answers-*/predictions.jsonl"))
        assert len(answers) == 2
        said = [[json.loads(line) for line in file.read_text().splitlines()] for file in answers]
        assert [len(lines) for lines in said] == [5, 5]
        assert {line["messages"][0]["content"] for line in said[0]} == {
            f"Say the number {number} {'please ' * (number % 4)}" for number in range(5)
        }
        assert [line["prediction"] for line in said[0]] != [line["prediction"] for line in said[1]]
        assert found["pairs"]["helpfulness"]["n"] == 5
        capsys.readouterr()
        assert judge(run_dir, server, call={**call, "limit": 3})["questions"] == 3
        assert len(server.asked) == asked, "answers and verdicts are known"
        assert capsys.readouterr().out.count("all 3 rows were predicted before") == 2
    assert set(parts(server.asked[0])) == {"question", "reference", "answer_A", "answer_B"}
    whole = json.loads((run_dir / "eval.json").read_text())
    assert whole["tasks"] == {"before": {}}, "what benchmarks found stays"
    from burnish.runs.listing import show_run

    assert "helpfulness pairs against" in show_run(run_dir)


def test_rubrics_of_ones_own(new, tmp_path, capsys):
    file = tmp_path / "ours.yaml"
    file.write_text("tone: Is it friendly?\n", encoding="utf-8")
    with judge_server() as server:
        found = judge(new, server, rubric_file=(str(file),))
        assert list(found["grades"]) == ["tone"]
        assert found["settings"]["own"]["tone"]["en"]["text"] == "Is it friendly?"
        assert all("Is it friendly?" in asked["messages"][0]["content"] for asked in server.asked)
        asked = len(server.asked)
        judge(new, server, rubric_file=(str(file),))
        assert len(server.asked) == asked
        file.write_text("tone: Is it plain?\n", encoding="utf-8")
        judge(new, server, rubric_file=(str(file),))
        assert len(server.asked) == 2 * asked, "other words are another question"


def candidate(asked):
    """Two models behind one address: one is worth more; conversations that speak of 3 are against its rules."""
    if "number 3" in asked["messages"][-1]["content"]:
        return 400, {"error": {"message": "not this"}}, {}
    return f"worth {7 if asked['model'] == 'tuned' else 4}"


def test_a_served_model_is_judged(chat_file, tmp_path, capsys):
    words = (f"eval_dataset={chat_file}", "max_new_tokens=8", "temperature=0.5")
    call = {"overrides": words, "limit": 5, "output": str(tmp_path / "out"), "served": "tuned"}
    with judge_server(candidate, models=["tuned", "base"]) as server, judge_server() as grader:
        found = judge(server.url, grader, call=call)
        assert found["answers_of"] == f"tuned at {server.url}"
        grades = found["grades"]["helpfulness"]["new"]
        assert (grades["n"], grades["mean"]) == (4, 7.0)
        assert "1 rows have no answer and were not judged: the server refuses it (400)" in capsys.readouterr().out
        first = {"role": "user", "content": "Say the number 0 "}  # in any order: several are asked at once
        sent = next(one for one in server.asked if one["messages"][-1] == first)
        wanted = {"model": "tuned", "max_tokens": 8, "temperature": 0.5, "top_p": 0.7, "seed": 42}
        assert {name: sent.get(name) for name in wanted} == wanted
        asked = len(server.asked)
        assert judge(server.url, grader, call={**call, "limit": 2})["questions"] == 2
        assert len(server.asked) == asked, "answers are known"
        judge(server.url, grader, call={**call, "limit": 2}, judge_fresh=True)
        assert len(server.asked) == asked + 2
        both = {**call, "compare": server.url, "compare_served": "base"}
        pairs = judge(server.url, grader, call=both)["pairs"]["helpfulness"]
        assert (pairs["n"], pairs["wins"], pairs["losses"]) == (4, 4, 0)


def test_a_run_against_a_served_model(run_dir, chat_file, tmp_path):
    words = (f"eval_dataset={chat_file}", "use_cpu=true", "infer_dtype=float32", "max_new_tokens=4", "do_sample=false")
    call = {"overrides": words, "limit": 3, "output": str(tmp_path / "out")}
    with judge_server(lambda asked: "a long answer of the server", models=["base"]) as server:
        with judge_server(longer) as grader:
            found = judge(run_dir, grader, call={**call, "compare": server.url})
            assert found["compared_with"] == f"base at {server.url}"
            assert found["pairs"]["helpfulness"]["losses"] == 3
        assert server.asked[0]["temperature"] == 0.0


def test_what_cannot_be_with_a_served_model(chat_file, tmp_path):
    served = JudgeOptions("http://127.0.0.1:9/v1", judge_model="m", dry_run=True)
    words = (f"eval_dataset={chat_file}",)
    for changes, what in (
        ({"compare": BASE}, "what a served model was tuned from is not known"),
        ({"overrides": (*words, "template=qwen3")}, "'template' has no effect on a served model"),
        ({"overrides": (*words, "max_length=9")}, "'max_length' has no effect on a served model"),
        ({"compare_served": "x"}, "--compare-model chooses one of a server's models"),
        ({"overrides": ()}, "no data is named"),
    ):
        with pytest.raises(BurnishError, match=what):
            run_judge(JudgeCall("http://127.0.0.1:9/v1", **{"overrides": words, **changes}), served)
    with judge_server() as grader:
        with pytest.raises(BurnishError, match="the connection to the server failed"):
            judge("http://127.0.0.1:9/v1", grader, call={"overrides": words, "output": str(tmp_path / "out")})
        broken = judge_server(lambda _: (500, {"error": {"message": "broken"}}, {"x-should-retry": "false"}))
        with broken as server, pytest.raises(BurnishError, match="the server answers 500: broken"):
            judge(server.url, grader, call={"overrides": words, "output": str(tmp_path / "out")})
        assert grader.asked == []


def test_burnishs_own_server_as_the_judge(new, old, tmp_path, capsys):
    """A random model speaks nonsense; held to the shape of a reply it gives grades, which mean as little."""
    from burnish.serve.load import Wanted, load_serving
    from tests.serving import running

    build_model(max_position_embeddings=8192).save_pretrained(tmp_path / "judge")
    build_tokenizer().save_pretrained(tmp_path / "judge")
    serving = load_serving(Wanted(str(tmp_path / "judge"), loading={"use_cpu": True}), lambda _: None)
    with running(serving) as address:
        asked = {"limit": 3, "output": str(tmp_path / "out")}

        class Server:
            url = f"{address}/v1"

        free = judge(new, Server, call=asked, judge_format="text", judge_max_tokens=8)
        assert free["unread"]["n"] == 3
        assert free["grades"]["helpfulness"]["new"] == {"n": 0, "not_graded": 3}
        held = judge(new, Server, call=asked, judge_reasons=False)
        assert held["unread"]["n"] == 0
        assert 1 <= held["grades"]["helpfulness"]["new"]["mean"] <= 10
        paired = judge(new, Server, call={**asked, "compare": str(old)}, judge_reasons=False)
        assert paired["pairs"]["helpfulness"]["n"] == 3
        assert held["model"] == "judge"
    assert "no verdict at all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ({"judge": ""}, "no judge is named", "--judge-model"),
        ({"judge": "gpt"}, "'gpt' is no address", "http://127.0.0.1:8000/v1"),
        ({"rubric": ("helpfullness",)}, "no rubric 'helpfullness'", "did you mean 'helpfulness'?"),
        ({"judge_by": "pairs"}, "pairs need something to compare with", "--compare-base"),
        ({"judge_by": "both sides"}, "--judge-by cannot be 'both sides'", "grades, pairs, both"),
        ({"judge_repeats": 0}, "--judge-repeats must be above 0", ""),
        ({"judge_rpm": float("nan")}, "--judge-rpm must be above 0", ""),
        ({"price_in": 1.0}, "one of two prices is missing", "0 where it is free"),
        ({"max_cost": 1.0}, "--max-cost needs prices", "--price-in and --price-out"),
        ({"judge_temperature": -1.0}, "--judge-temperature must not be negative", ""),
    ],
)
def test_options_that_cannot_be(new, options, what, fix):
    with pytest.raises(BurnishError) as failed:
        run_judge(JudgeCall(str(new)), JudgeOptions(**{"judge": "http://127.0.0.1:9/v1", **options}))
    assert what in failed.value.what
    assert fix in str(failed.value.fix)
    assert failed.value.exit_code == 2


def test_what_the_user_can_mend(new, old, tmp_path, monkeypatch):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    skipped = tmp_path / "skipped.jsonl"
    skipped.write_text('{"prompt": "a", "prediction": null, "skipped": "too long"}\n')
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"prompt": "a", "predict": "b, worth 3", "label": "c"}\n')
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "a", "output": "b"}\n')
    with judge_server(key="secret") as server:
        with pytest.raises(BurnishError, match="the server wants a key"):
            judge(new, server)
        monkeypatch.setenv("BURNISH_JUDGE_KEY", "wrong")
        with pytest.raises(BurnishError, match="the server refuses the key"):
            judge(new, server)
        monkeypatch.setenv("BURNISH_JUDGE_KEY", "secret")
        with pytest.raises(BurnishError, match="has no model 'judgge'") as slip:
            judge(new, server, judge_model="judgge")
        assert "did you mean 'judge'?" in str(slip.value)
        for model, what in (
            (empty, "the file is empty"),
            (skipped, "none of the 1 rows has an answer: too long"),
            (other, "this line is no prediction"),
            (tmp_path / "nowhere.jsonl", "cannot be read: No such file"),
        ):
            with pytest.raises(DataError, match=what):
                judge(model, server)
        with pytest.raises(DataError, match="not asked one common question"):
            judge(new, server, call={"compare": str(foreign)})
        with pytest.raises(BurnishError, match="has no base that could be asked"):
            judge(new, server, call={"compare": BASE})
        with pytest.raises(BurnishError, match="compared with another one"):
            judge(new, server, call={"compare": "some-model"})
        with pytest.raises(BurnishError, match="predictions are there already"):
            judge(new, server, call={"overrides": ("do_sample=false",)})
        with pytest.raises(BurnishError, match="--limit must be"):
            judge(new, server, call={"limit": 2.5})
        assert server.asked == []
        assert judge(foreign, server)["grades"]["helpfulness"]["new"]["mean"] == 3
    with pytest.raises(BurnishError, match="the connection to the server failed"):
        judge(new, server)


def test_worse_by_more_than_is_allowed(new, old):
    with judge_server() as server:
        judge(new, server, call={"compare": str(old), "fail_if_worse": 0.1})
        with pytest.raises(BurnishError, match=r"worse by more than 0.1: helpfulness: wins minus losses -0\.\d+"):
            judge(old, server, call={"compare": str(new), "fail_if_worse": 0.1})
    assert (old.parent / "eval.json").exists()


def test_options_of_judges_and_of_tasks_are_kept_apart(new):
    from typer.testing import CliRunner

    from burnish.cli.main import app

    run = CliRunner().invoke
    alone = run(app, ["eval", str(new), "--rubric", "honesty"])
    assert "--rubric needs a judge" in str(alone.exception)
    mixed = run(app, ["eval", str(new), "--judge", "http://127.0.0.1:9/v1", "--tasks", "gsm8k"])
    assert "--tasks has no effect with --judge" in str(mixed.exception)
    named = run(app, ["eval", str(new), "--judge", "http://127.0.0.1:9/v1", "--model", "x", "--dry-run"])
    assert "--model chooses one of a server's models" in str(named.exception)
    slip = run(app, ["eval", str(new), "--judge", "http://127.0.0.1:9/v1", "--judge-modle", "x"])
    assert "did you mean '--judge-model'?" in str(slip.exception)
    assert run(app, ["eval", str(new), "--judge"]).exit_code == 2
    with judge_server() as server:
        words = ["eval", str(new), "--judge", server.url, "--rubric", "honesty,helpfulness", "--limit", "0.25"]
        done = run(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert len(server.asked) == 2 * COUNT // 4
