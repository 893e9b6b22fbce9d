"""What is wrong with settings is said at once, with its place and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.config import load_settings
from burnish.config.catalogue import LATER_VALUES, OTHER_TOOLS, find
from burnish.errors import SettingsError

Problem = tuple[str, str | None, str | None]


def problems_of(source: object, *overrides: str) -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        load_settings(source, overrides)  # type: ignore[arg-type]
    return [(problem.what, problem.at, problem.fix) for problem in caught.value.problems]


def in_file(folder: Path, text: str, name: str = "run.yaml") -> list[Problem]:
    """The problems of a file, with its path shortened to its name."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    short = [tuple((part or "").replace(str(path), name) for part in problem) for problem in problems_of(str(path))]
    return short  # type: ignore[return-value]


def test_four_mistakes_are_four_problems_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "lora_rnak: 8\nlearning_rate: fast\noptim: adamw_apex_fused\nuse_galore: true\n"
    assert in_file(tmp_path, text) == [
        ("unknown setting 'lora_rnak'", "run.yaml:1: lora_rnak", "did you mean 'lora_rank'?"),
        (
            "'learning_rate' must be a number, not 'fast'",
            "run.yaml:2: learning_rate",
            "write a number, such as 0.1 or 1e-4",
        ),
        ("Burnish does not support 'optim: adamw_apex_fused' yet", "run.yaml:3: optim", "use optim: adamw_torch_fused"),
        (
            "Burnish does not support 'use_galore'",
            "run.yaml:4: use_galore",
            "use finetuning_type: lora, and leave it out",
        ),
    ]


def test_the_error_shows_every_problem_and_exits_with_2(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"lora_rnak": 8, "seed": -1})
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        "unknown setting 'lora_rnak'\n  at: settings: lora_rnak\n  fix: did you mean 'lora_rank'?\n"
        "'seed' must be at least 0 and at most 4294967295, not -1\n  at: settings: seed\n"
        "  fix: the default is 42"
    )


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("learning_rte", "did you mean 'learning_rate'?"),
        ("lr", "did you mean 'learning_rate'?"),
        ("Lora_Rank", "did you mean 'lora_rank'?"),
        ("lora-rank", "did you mean 'lora_rank'?"),
        ("training.seed", "settings are flat: did you mean 'seed'?"),
        ("use_galor", "did you mean 'use_galore'?"),
        ("qqqqqq", "leave it out; `burnish settings` lists all names"),
    ],
)
def test_unknown_names_get_the_nearest(key: str, fix: str) -> None:
    assert problems_of({key: 1}) == [(f"unknown setting '{key}'", f"settings: {key}", fix)]


def test_names_of_other_tools_lead_to_known_ones() -> None:
    for name, ours in OTHER_TOOLS.items():
        assert find(name) is None, name
        entry = find(ours)
        assert entry is not None
        assert entry.status == "supported"


def test_a_name_on_the_command_line() -> None:
    assert problems_of({}, "lr=1e-4") == [("unknown setting 'lr'", "command line: lr", "did you mean 'learning_rate'?")]
    assert problems_of({}, "--lora-rnak", "3") == [
        ("unknown setting 'lora-rnak'", "command line: lora-rnak", "did you mean 'lora_rank'?")
    ]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["--lora_rank"],
            ("'--lora_rank' needs a value", "lora_rank", "write --lora_rank VALUE or lora_rank=VALUE"),
        ),
        (["--seed", "--bf16"], ("'--seed' needs a value", "seed", "write --seed VALUE or seed=VALUE")),
        (["seed"], ("cannot read 'seed' as a setting", "seed", "write seed=VALUE")),
        (["-x"], ("cannot read '-x' as a setting", "-x", "write settings as key=value or --key value")),
        (["--bf16", "maybe"], ("'bf16' must be true or false, not 'maybe'", "bf16", "write true or false")),
    ],
)
def test_words_that_cannot_be_read(words: list[str], problem: Problem) -> None:
    what, at, fix = problem
    assert problems_of({}, *words) == [(what, f"command line: {at}", fix)]


@pytest.mark.parametrize(
    ("key", "value", "what", "fix"),
    [
        ("lora_rank", 0, "must be at least 1, not 0", "the default is 8"),
        ("lora_dropout", 1, "must be at least 0 and below 1, not 1", "the default is 0.0"),
        ("learning_rate", 5, "must be at least 0 and at most 1, not 5", "the default is 5e-05"),
        ("warmup_ratio", -0.1, "must be at least 0 and at most 1, not -0.1", "the default is 0.0"),
        ("top_p", 0, "must be above 0 and at most 1, not 0", "the default is 0.7"),
        ("lora_alpha", 0, "must be at least 1, not 0", "the default is 2 × lora_rank"),
        (
            "lora_rank",
            True,
            "must be a whole number, not true",
            "write a number without a fraction, such as 8",
        ),
        ("lora_rank", 8.5, "must be a whole number, not 8.5", "write a number without a fraction, such as 8"),
        (
            "lora_rank",
            "eight",
            "must be a whole number, not 'eight'",
            "write a number without a fraction, such as 8",
        ),
        ("learning_rate", float("nan"), "must be a number, not nan", "write a number, such as 0.1 or 1e-4"),
        ("learning_rate", [1], "must be a number, not [1]", "write a number, such as 0.1 or 1e-4"),
        ("bf16", 3, "must be true or false, not 3", "write true or false"),
        ("template", True, "must be text, not true", "put it in quotes"),
        ("output_dir", {"a": 1}, "must be a path, not {'a': 1}", "write it as text"),
        (
            "dataset",
            {"a": 1},
            "must be a list of names, or names with commas between them, not {'a': 1}",
            "write names with commas between them, or a list",
        ),
        (
            "lr_scheduler_kwargs",
            {"a": [1]},
            "must be a mapping of names to values, not {'a': [1]}",
            'write it like {"num_cycles": 2}',
        ),
        (
            "optim_args",
            "momentum",
            "must be name=value pairs with commas between them, or a mapping of names to values, not 'momentum'",
            "write it like momentum=0.9,nesterov=true",
        ),
        (
            "resume_from_checkpoint",
            [1],
            "must be true, false or the path of a checkpoint, not [1]",
            "write true, or the path of a checkpoint folder",
        ),
        ("overlong", "cut", "cannot be 'cut'", "it takes: truncate, drop, error"),
        (
            "overlong",
            "truncat",
            "cannot be 'truncat'",
            "did you mean 'truncate'? it takes: truncate, drop, error",
        ),
        ("finetuning_type", "LoRA", "cannot be 'LoRA'", "did you mean 'lora'? it takes: lora, freeze, full"),
        ("eval_strategy", True, "cannot be true", "it takes: no, steps, epoch"),
        (
            "ddp_timeout",
            "long",
            "must be a whole number, not 'long'",
            "write a number without a fraction, such as 8",
        ),
    ],
)
def test_wrong_values(key: str, value: object, what: str, fix: str) -> None:
    assert problems_of({key: value}) == [(f"'{key}' {what}", f"settings: {key}", fix)]


@pytest.mark.parametrize(("key", "value"), list(LATER_VALUES))
def test_values_that_are_not_there_yet_say_so(key: str, value: object) -> None:
    word = "false" if value is False else value
    assert problems_of({key: value}) == [
        (f"Burnish does not support '{key}: {word}' yet", f"settings: {key}", LATER_VALUES[key, value])
    ]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("quantization_method", "hqq", "Burnish does not support 'quantization_method: hqq' yet"),
        ("torch_compile", True, "Burnish does not support 'torch_compile' yet"),
        ("push_to_hub", "yes", "Burnish does not support 'push_to_hub' yet"),
        ("media_dir", "pictures", "Burnish does not support 'media_dir'"),
        ("vllm_maxlen", 512, "Burnish does not support 'vllm_maxlen'"),
        ("use_unsloth", True, "Burnish does not support 'use_unsloth'"),
    ],
)
def test_known_names_without_support_are_never_ignored(key: str, value: object, what: str) -> None:
    found = problems_of({key: value})
    assert [(problem[0], problem[1]) for problem in found] == [(what, f"settings: {key}")]
    assert found[0][2]


def test_unsupported_names_with_their_neutral_value_are_fine() -> None:
    settings = load_settings(
        {
            "push_to_hub": False,
            "use_galore": "false",
            "quantization_bit": None,
            "hub_model_id": None,
            "fsdp": "",
            "mix_strategy": "concat",
            "neftune_noise_alpha": 0,
        },
        ["--use_unsloth", "false"],
    )
    assert settings.notes == ()


def test_environment_variables_are_no_settings() -> None:
    fix = "leave it out here and set it in the shell that starts Burnish"
    what = "'HF_ENDPOINT' is an environment variable, not a setting"
    assert problems_of({"HF_ENDPOINT": "x"}) == [(what, "settings: HF_ENDPOINT", fix)]


def test_sections_are_told_apart_from_unknown_names(tmp_path: Path) -> None:
    text = "training:\n  seed: 3\n  bf16: true\nother:\n  x: 1\n"
    assert in_file(tmp_path, text) == [
        (
            "'training' is a section, and settings are flat",
            "run.yaml:1: training",
            "move its lines to the left margin: seed, bf16",
        ),
        ("unknown setting 'other'", "run.yaml:4: other", "leave it out; `burnish settings` lists all names"),
    ]


@pytest.mark.parametrize(("name", "text"), [("run.yaml", "seed: 1\nbf16: true\nseed: 2\n"), ("run.json", None)])
def test_duplicates_name_both_lines(tmp_path: Path, name: str, text: str | None) -> None:
    text = text or '{"seed": 1,\n"bf16": true,\n"seed": 2}'
    assert in_file(tmp_path, text, name) == [
        ("'seed' is set twice, on lines 1 and 3", f"{name}:3: seed", f"keep one of them in {name}")
    ]


def test_an_older_name_beside_the_present_one(tmp_path: Path) -> None:
    assert in_file(tmp_path, "dev_ratio: 0.1\nval_size: 0.1\n") == [
        ("'dev_ratio' and 'val_size' are two names of one setting", "run.yaml:2: val_size", "keep 'val_size'")
    ]


EXAMPLE = "write settings as `key: value`, one a line, such as `model_name_or_path: my-model`"
PLAIN = "write settings as `key: value`, one a line; put values with special characters in quotes"


@pytest.mark.parametrize(
    ("text", "what", "at", "fix"),
    [
        ("", "the settings file is empty", "run.yaml", EXAMPLE),
        ("# nothing\n", "the settings file is empty", "run.yaml", EXAMPLE),
        ("- a\n", "the settings file holds a list, not settings", "run.yaml", EXAMPLE),
        ("word\n", "the settings file holds plain text, not settings", "run.yaml", EXAMPLE),
        (
            "seed=3\n",
            "the settings file holds plain text, not settings",
            "run.yaml",
            "write `seed: 3`, with a colon and a space",
        ),
        ("bf16: true\nseed:3\n", None, "run.yaml:2", "write `seed: 3`, with a colon and a space"),
        ("bf16: true\n\tseed: 3\n", None, "run.yaml:2", "the line holds a tab; YAML wants spaces"),
        ("bf16: true\n  seed: 3\n", None, "run.yaml:2", "start every setting at the left margin"),
        (
            "seed: 3\n---\nseed: 4\n",
            None,
            "run.yaml:2",
            "keep one document: remove what stands after the line `---`",
        ),
        ("bf16: true\nrun_name: 'x\n", None, "run.yaml:2", "close the quote or the bracket"),
        ("lora_target: [a, b\nseed: 3\n", None, "run.yaml:1", "close the quote or the bracket"),
        ("template: @x\n", None, "run.yaml:1", PLAIN),
        ("seed: *x\n", None, "run.yaml:1", PLAIN),
        (
            "? [a]\n: 3\n",
            "a setting's name must be text",
            "run.yaml:1",
            "settings are flat: one `key: value` a line",
        ),
        (
            "[" * 800,
            "the settings file is nested too deeply",
            "run.yaml",
            "settings are flat: one `key: value` a line",
        ),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, what: str | None, at: str, fix: str) -> None:
    found = in_file(tmp_path, text)
    assert [(problem[1], problem[2]) for problem in found] == [(at, fix)]
    if what is None:
        assert found[0][0].startswith("the settings file is not valid YAML: ")
    else:
        assert found[0][0] == what


def test_yaml_that_would_build_objects_is_refused(tmp_path: Path) -> None:
    found = in_file(tmp_path, "seed: !!python/object/apply:os.getcwd []\n")
    assert found[0][0].startswith("the value of 'seed' cannot be read: could not determine a constructor")
    assert found[0][1] == "run.yaml:1"


@pytest.mark.parametrize(
    ("text", "what", "at"),
    [
        (
            "{",
            "the settings file is not valid JSON: Expecting property name enclosed in double quotes",
            "run.json:1",
        ),
        (
            '{"seed": 1\n"bf16": 2}',
            "the settings file is not valid JSON: Expecting ',' delimiter",
            "run.json:2",
        ),
        ("[1]", "the settings file holds a list, not settings", "run.json"),
        ("3", "the settings file holds a single value, not settings", "run.json"),
        ("", "the settings file is empty", "run.json"),
        ("[" * 100000, "the settings file is nested too deeply", "run.json"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, what: str, at: str) -> None:
    found = in_file(tmp_path, text, "run.json")
    assert [(problem[0], problem[1]) for problem in found] == [(what, at)]


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "lora_sft.yaml").write_text("seed: 1\n")
    (tmp_path / "notes.txt").write_text("x")
    wanted = str(tmp_path / "lora_stf.yaml")
    fix = f"did you mean '{tmp_path / 'lora_sft.yaml'}'?"
    assert problems_of(wanted) == [("the settings file is not there", wanted, fix)]
    far = str(tmp_path / "zzz")
    assert problems_of(far)[0][2] == f"settings files in '{tmp_path}': lora_sft.yaml"
    lost = tmp_path / "nowhere" / "run.yaml"
    assert problems_of(lost)[0][2] == f"the folder '{lost.parent}' is not there either; check the path"
    assert problems_of(tmp_path)[0][0] == "this is a folder, not a settings file"
    assert problems_of("a\0b") == [
        ("the settings file cannot be read: embedded null byte", "a\\x00b", "check the path")
    ]


def test_a_missing_file_and_a_wrong_word_are_reported_together(tmp_path: Path) -> None:
    found = problems_of(tmp_path / "run.yaml", "lr=1")
    assert [problem[0] for problem in found] == ["the settings file is not there", "unknown setting 'lr'"]


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: 1\nrun_name: \xff\n")
    assert problems_of(path) == [
        ("the settings file is not UTF-8 text (byte 18)", str(path), "save the file as UTF-8 text")
    ]


def test_names_in_a_mapping_must_be_text() -> None:
    assert problems_of({3: 1}) == [("a setting's name must be text, not int", "settings", "use strings as keys")]
