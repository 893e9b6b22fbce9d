"""The rewards that come with Burnish, and what they say of parameters that are wrong."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from burnish.errors import BurnishError
from burnish.rewards import checked
from burnish.rewards.build import REWARDS
from burnish.rewards.checked import final_answer, plain_number

ANSWER = "She eats 3, so 16 - 3 = 13.\n#### 1,234"


def scored(made, samples):
    found = made.score(samples)
    return found.totals, found.notes


def test_every_built_in_can_be_made(rewards, monkeypatch):
    monkeypatch.setenv("BURNISH_JUDGE_URL", "http://127.0.0.1:1")
    needed = {
        "regex_format": {"pattern": "x"},
        "length": {"max": 9},
        "json_schema": {"schema": {}},
        "llm_judge": {"model": "m"},
        "http_scorer": {"url": "http://127.0.0.1:1"},
    }
    made = rewards([{"name": name, **needed.get(name, {})} for name in REWARDS])
    assert made.names == tuple(REWARDS)
    assert made.counts_tokens
    assert not rewards(["exact_match"]).counts_tokens


def test_exact_match(sample, rewards):
    samples = [sample(" Paris\n", answer="Paris"), sample("paris", answer="Paris"), sample("4", answer=4), sample("4")]
    totals, notes = scored(rewards(["exact_match"]), samples)
    assert totals == [1.0, 0.0, 1.0, None]
    assert notes == ["sums, row 0: reward 'exact_match' needs the column 'answer', which is empty here"]
    relaxed = rewards([{"name": "exact_match", "ignore_case": True, "column": "gold"}])
    assert scored(relaxed, [sample("paris", gold="Paris"), sample("Rome", gold=["Rome"])]) == (
        [1.0, None],
        ["sums, row 0: reward 'exact_match' needs text in the column 'gold', not list"],
    )


def test_length_around_a_target(sample, rewards):
    made = rewards([{"name": "length", "target": 10, "tolerance": 4}])
    assert scored(made, [sample("x" * n) for n in (10, 11, 8, 14, 50, 0)])[0] == [1.0, 0.75, 0.5, 0.0, 0.0, 0.0]
    assert rewards([{"name": "length", "target": 10}]).score([sample("x" * 5)]).totals == [0.5]
    words = rewards([{"name": "length", "target": 2, "unit": "words"}])
    assert words.score([sample("two words")]).totals == [1.0]


def test_length_below_a_limit_as_dapo_has_it(sample, rewards):
    made = rewards([{"name": "length", "max": 20, "buffer": 8, "unit": "characters"}])
    assert scored(made, [sample("x" * n) for n in (0, 12, 14, 20, 90)])[0] == [0.0, 0.0, -0.25, -1.0, -1.0]
    hard = rewards([{"name": "length", "max": 20, "buffer": 0}])
    assert scored(hard, [sample("x" * 20), sample("x" * 21)])[0] == [0.0, -1.0]
    assert rewards([{"name": "length", "max": 20}]).score([sample("x" * 18)]).totals == [-0.6]


def test_length_in_tokens_needs_tokens(sample, rewards):
    from dataclasses import replace

    made = rewards([{"name": "length", "target": 3}])
    totals, notes = scored(made, [replace(sample("abc"), token_ids=()), replace(sample(""), token_ids=())])
    assert totals == [None, 0.0]
    assert "the answer's tokens are not known here" in notes[0]


def test_regex_format(sample, rewards):
    found = rewards([{"name": "regex_format", "pattern": r"<a>.*</a>$"}]).score(
        [sample("so <a>1\n2</a>"), sample("<a>1</a>!"), sample("<a>1")]
    )
    assert found.totals == [1.0, 0.0, 0.0]
    full = rewards([{"name": "regex_format", "pattern": r"\d+", "full": True}])
    assert full.score([sample("12"), sample("12 ")]).totals == [1.0, 0.0]


def test_a_pattern_that_would_hang_costs_one_sample(sample, rewards, monkeypatch):
    monkeypatch.setattr(checked, "ITEM_S", 0.5)
    made = rewards([{"name": "regex_format", "pattern": r"^(a+)+$"}, "exact_match"], None, 30)
    samples = [sample("aa", 1, answer="x"), sample("a" * 60 + "!", 2, answer="x"), sample("aaa", 3, answer="x")]
    found = made.score(samples)
    assert [value["regex_format"] for value in found.values] == [1.0, None, 1.0]
    assert found.notes == ["sums, row 2: reward 'regex_format' took longer than 0.5 s on this answer"]
    assert made.functions[0].name == "regex_format"


def test_the_time_of_a_batch_ends_what_hangs(sample, rewards):
    made = rewards([{"name": "regex_format", "pattern": r"^(a+)+$"}], None, 60)
    made.score([sample("a")])  # the child is there
    made.timeout_s = 1.0
    began = time.monotonic()
    totals, notes = scored(made, [sample("aa", 1), sample("a" * 60 + "!", 2), sample("aa", 3)])
    assert time.monotonic() - began < 4  # ITEM_S is 5
    assert totals == [1.0, None, None]
    assert notes == ["sums, rows 2, 3: reward 'regex_format' took longer than 1 s (reward_timeout)"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("so it is\n#### 1234", 1.0),
        ("#### 1\n#### 1,234.00 ", 1.0),
        ("#### $1,234.", 1.0),
        ("#### 1234 apples", 1.0),
        ("#### 1233", 0.0),
        ("1234\n#### 5", 0.0),
        (r"thus \boxed{\frac{2468}{2}}", 1.0),
        (r"thus \boxed{1234} and not 1", 1.0),
        ("The answer is 1234.", 1.0),
        ("The answer is four.", 0.0),
        ("", 0.0),
        ("####", 0.0),
    ],
)
def test_math_equal_as_in_gsm8k(sample, maths, answer, expected):
    assert scored(maths, [sample(answer, answer=ANSWER)]) == ([expected], [])


@pytest.fixture(scope="module")
def maths():
    from burnish.rewards import build_rewards

    made = build_rewards(["math_equal"], None, 60)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        (r"\frac{1}{2}", "0.5", 1.0),
        ("x", "$x$", 1.0),
        (r"2\pi r", r"$2 r \pi$", 1.0),
        (r"\boxed{x^2 + 2x + 1}", r"\boxed{(x+1)^2}", 1.0),
        ("-3", "#### -3", 1.0),
        (7, "#### 7", 1.0),
        ("50%", "#### 50%", 1.0),
        ("(1, 2)", r"\boxed{(2, 1)}", 0.0),
    ],
)
def test_math_equal_of_formulas(sample, maths, reference, answer, expected):
    assert scored(maths, [sample(answer, answer=reference)]) == ([expected], [])


def test_math_that_nobody_can_work_out_costs_one_sample(sample, maths, monkeypatch):
    maths.score([sample("x = 1 + y", answer=r"\frac12")])  # the child is there
    monkeypatch.setattr(checked, "ITEM_S", 3.0)
    totals, notes = scored(maths, [sample(r"$9^{9^{9^{9}}}$", 1, answer="half"), sample("$0.5$", 2, answer=r"\frac12")])
    assert totals == [None, 1.0]
    assert notes[0].startswith("sums, row 1: reward 'math_equal' ")


def test_math_equal_says_which_references_it_cannot_read(sample, maths):
    totals, notes = scored(maths, [sample("4", 5, answer="no idea"), sample("4", 6)])
    assert totals == [None, None]
    assert notes == [
        "sums, row 5: reward 'math_equal' cannot read the reference 'no idea' as mathematics",
        "sums, row 6: reward 'math_equal' needs the column 'answer', which is empty here",
    ]


def test_math_equal_that_wants_a_mark(sample, rewards):
    made = rewards([{"name": "math_equal", "strict": True}])
    samples = [sample("#### 4", answer=4), sample("it is 4", answer=4), sample(r"\boxed{4}", answer=4)]
    assert made.score(samples).totals == [1.0, 0.0, 1.0]


def test_numbers_and_marks():
    assert [plain_number(text) for text in ("7", "-1,000.50", "$3.", "+.5")] == [7, -1000.5, 3, 0.5]
    for text in ("", "-", "1,23", "1e5", "4 apples", "1/2", ".", "9" * 200):
        assert plain_number(text) is None, text
    assert final_answer("#### 1\nx\n#### 2 \nmore") == "2"
    assert final_answer("no mark") is None


SCHEMA = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "minimum": 0}}}


def test_json_schema(sample, rewards, tmp_path, monkeypatch):
    texts = [
        '{"age": 3}',
        '```json\n{"age": 3}\n```',
        '{"age": -1}',
        "{}",
        "age: 3",
        '{"age": 3} ok',
        '{"age": NaN}',
        "[" * 9000,
    ]
    expected = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    samples = [sample(text) for text in texts]
    assert scored(rewards([{"name": "json_schema", "schema": SCHEMA}]), samples) == (expected, [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person.json").write_text(json.dumps(SCHEMA))
    assert scored(rewards([{"name": "json_schema", "schema": "person.json"}]), samples[:3]) == (expected[:3], [])


def test_json_schema_of_each_row(sample, rewards):
    made = rewards([{"name": "json_schema", "column": "shape"}])
    assert made.functions[0].columns == ("shape",)
    shapes = [{"type": "string"}, '{"type": "string"}', {"type": "strin"}, "{", {"$ref": "http://127.0.0.1:9/x"}, None]
    totals, notes = scored(made, [sample('"x"', row, shape=shape) for row, shape in enumerate(shapes)])
    assert totals == [1.0, 1.0, None, None, None, None]
    for row, words in (
        (2, "its schema is none"),
        (3, "its schema is not JSON"),
        (4, "refers to something"),
        (5, "needs"),
    ):
        assert any(note.startswith(f"sums, row {row}:") and words in note for note in notes), notes


def test_the_child_knows_nothing_of_the_current_folder(sample, rewards, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('mine')\n")
    monkeypatch.chdir(tmp_path)
    assert rewards([{"name": "regex_format", "pattern": "4"}]).score([sample("4")]).totals == [1.0]


def test_a_child_that_dies_is_started_anew(sample, rewards):
    made = rewards([{"name": "regex_format", "pattern": "4"}])
    assert made.score([sample("4")]).totals == [1.0]
    child = next(cell.cell_contents for cell in made.functions[0].run.__closure__ if hasattr(cell.cell_contents, "ask"))
    child._process.kill()
    child._process.wait()
    first, second = made.score([sample("4")]), made.score([sample("4")])
    assert (first.totals, second.totals) == ([None], [1.0])
    pid = child._process.pid
    made.close()
    if sys.platform != "win32":
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        ("exact_mach", "unknown reward 'exact_mach'", "did you mean 'exact_match'?"),
        ({"pattern": "x"}, "a reward has no name", "write {name: regex_format, pattern: …}"),
        ({"name": "length", "targt": 5}, "the reward length takes no 'targt'", "did you mean 'target'?"),
        ("regex_format", "the reward regex_format needs 'pattern'", "write {name: regex_format, pattern: …}"),
        ({"name": "regex_format", "pattern": "(x"}, "'(x' is no pattern: missing )", "write it in single quotes"),
        ({"name": "regex_format", "pattern": 5}, "'pattern' of the reward regex_format must be text, not 5", ""),
        ({"name": "length", "target": True}, "'target' of the reward length must be a whole number, not True", ""),
        ({"name": "length"}, "the reward length needs either 'target' or 'max'", "write {name: length, target: 200}"),
        ({"name": "length", "target": 5, "max": 9}, "the reward length needs either 'target' or 'max'", "write"),
        ({"name": "length", "target": 0}, "'target' of the reward length must be at least 1, not 0", ""),
        ({"name": "length", "max": 5, "buffer": 9}, "'buffer' of the reward length must be from 0 to max, not 9", ""),
        ({"name": "length", "max": 5, "tolerance": 9}, "'tolerance' of the reward length goes with 'target'", "leave"),
        ({"name": "length", "max": 5, "unit": "pages"}, "the reward length counts no 'pages'", "it counts tokens"),
        ({"name": "length", "max": 5, "weight": "x"}, "the weight of 'length' is no number: 'x'", "write weight"),
        ("json_schema", "the reward json_schema needs either 'schema' or 'column'", "write {name: json_schema"),
        ({"name": "json_schema", "schema": {"type": "x"}}, "this is no JSON schema: 'x' is not valid", "see"),
        ({"name": "json_schema", "schema": "no.json"}, "the schema no.json cannot be read: No such file", "paths"),
        ({"name": "http_scorer", "url": "file:///etc/x"}, "'file:///etc/x' is no address of a scorer", "write url"),
        ("llm_judge", "the reward llm_judge needs a model", "write {name: llm_judge, model: …}, or set BURNISH"),
        ({"name": "llm_judge", "model": "m"}, "the reward llm_judge needs a key", "set BURNISH_JUDGE_KEY"),
        ({"name": "llm_judge", "model": "m", "low": 3, "high": 3}, "'high' of the reward llm_judge must be above", ""),
    ],
)
def test_mistakes_are_found_before_training(rewards, monkeypatch, entry, what, fix):
    for name in (
        "BURNISH_JUDGE_URL",
        "BURNISH_JUDGE_MODEL",
        "BURNISH_JUDGE_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_MODEL",
        "OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BurnishError) as caught:
        rewards([entry])
    assert caught.value.what.startswith(what)
    assert (caught.value.fix or "").startswith(fix)
    assert caught.value.at.startswith("reward_funcs")


def test_weights(sample, rewards):
    with pytest.raises(BurnishError, match=r"^2 rewards and 1 weights"):
        rewards(["exact_match", "math_equal"], [1.0])
    with pytest.raises(BurnishError, match="there is no reward"):
        rewards([])
    made = rewards([{"name": "exact_match", "weight": 2}, "exact_match"])
    assert made.weights == (2.0, 1.0)
    assert made.names == ("exact_match", "exact_match_2")
    assert rewards(["exact_match"], [-3]).score([sample("a", answer="a")]).totals == [-3.0]


def test_ctrl_c_does_not_reach_the_child(sample, rewards):
    """A terminal sends it to every process of the run, which goes on until its step is done and needs its rewards."""
    made = rewards([{"name": "regex_format", "pattern": "a"}])
    assert made.score([sample("a")]).totals == [1.0]
    child = next(cell.cell_contents for cell in made.functions[0].run.__closure__ if hasattr(cell.cell_contents, "ask"))
    assert os.getpgid(child._process.pid) != os.getpgid(0)
    made.close()
