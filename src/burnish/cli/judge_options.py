"""The options of `burnish eval --judge`: their names and help, and what they may be."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import typer

from burnish.cli.settings_arguments import as_typed
from burnish.errors import BurnishError

Judge = Annotated[
    str | None, typer.Option(help="Address of an OpenAI-compatible server that judges the answers.", metavar="URL")
]
JudgeModel = Annotated[str | None, typer.Option(help="Which of its models; else BURNISH_JUDGE_MODEL, or its only one.")]
RubricNames = Annotated[
    list[str] | None,
    typer.Option(help="helpfulness (default), honesty, harmlessness, or your own; several with commas or twice."),
]
RubricFiles = Annotated[
    list[str] | None,
    typer.Option(help="Rubrics of your own: a YAML or JSON file, or a folder of them.", metavar="PATH"),
]
JudgeBy = Annotated[
    str | None, typer.Option(help="grades, pairs or both; by default pairs where two models are compared.")
]
Language = Annotated[str, typer.Option(help="Of the judge's prompt: auto (by the question), en or zh.")]
Repeats = Annotated[int, typer.Option(help="Times that everything is asked.")]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Column of a predictions.jsonl with what people say: a grade, or win, tie, loss.", metavar="COLUMN"
    ),
]
Referenced = Annotated[
    bool, typer.Option("--judge-reference/--no-judge-reference", help="Show the judge the data's own answer.")
]
Reasons = Annotated[bool, typer.Option("--judge-reasons/--no-judge-reasons", help="A reason before each verdict.")]
Temperature = Annotated[float, typer.Option(help="Of the judge.")]
MaxTokens = Annotated[int, typer.Option(help="Tokens of one reply, at most.")]
Form = Annotated[str, typer.Option(help="auto, json_schema (replies held to their shape) or text.")]
Rpm = Annotated[float | None, typer.Option(help="Requests a minute, at most.")]
Concurrency = Annotated[
    int, typer.Option(help="Requests under way at a time, also to a server whose answers are judged.")
]
Timeout = Annotated[float, typer.Option(help="Seconds that one reply may take.")]
Retries = Annotated[int, typer.Option(help="Times a request is sent again after 429, 5xx or silence.")]
Fresh = Annotated[
    bool, typer.Option("--judge-fresh", help="Ask anew what is known from earlier calls, served models as well.")
]
PriceIn = Annotated[float | None, typer.Option(help="Price of a million prompt tokens, in your currency.")]
PriceOut = Annotated[float | None, typer.Option(help="Price of a million reply tokens.")]
MaxCost = Annotated[float | None, typer.Option(help="Stop before this is exceeded; needs both prices.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what the judge would cost, and stop.")]

GRADES, PAIRS, BOTH = "grades", "pairs", "both"


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """What the options say, as they were given; the names are those of the command line."""

    judge: str
    judge_model: str | None = None
    rubric: tuple[str, ...] = ()
    rubric_file: tuple[str, ...] = ()
    judge_by: str | None = None
    judge_language: str = "auto"
    judge_repeats: int = 1
    judge_labels: str | None = None
    judge_reference: bool = True
    judge_reasons: bool = True
    judge_temperature: float = 0.0
    judge_max_tokens: int = 512
    judge_format: str = "auto"
    judge_rpm: float | None = None
    judge_concurrency: int = 8
    judge_timeout: float = 120.0
    judge_retries: int = 6
    judge_fresh: bool = False
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    dry_run: bool = False


# Options of `burnish eval` that a judge needs as well; all others belong to benchmarks.
SHARED = {"model", "judge", "compare", "compare_base", "limit", "seed", "output", "data", "fail_if_worse"}
SHARED |= {"served", "compare_served"}
OWN = frozenset(JudgeOptions.__dataclass_fields__)


def flag(name: str) -> str:
    """An option as it is typed."""
    named = {"served": "model", "compare_served": "compare-model", "list_them": "list"}
    return as_typed(named.get(name, name))


def refuse_others(given: Collection[str], judged: bool) -> None:
    """Raise for options that belong to a judge without one, or to benchmarks with one."""
    if not judged:
        for name in sorted(OWN & set(given)):
            raise BurnishError(
                f"{flag(name)} needs a judge", at=flag(name), fix="add --judge URL, such as http://127.0.0.1:8000/v1"
            )
        return
    for name in sorted(set(given) - OWN - SHARED):
        fix = "leave it out; tasks and judges are two calls, whose results stand in one eval.json"
        raise BurnishError(f"{flag(name)} has no effect with --judge", at=flag(name), fix=fix)


def check(asked: JudgeOptions) -> None:
    """Raise for what cannot be.

    Raises:
        BurnishError: an option has a value that makes no sense; rubrics are looked at elsewhere.
    """
    if not asked.judge.startswith(("http://", "https://")):
        raise BurnishError(
            f"'{asked.judge}' is no address" if asked.judge else "no judge is named",
            at="--judge",
            fix="give the address of a server, such as http://127.0.0.1:8000/v1, and its model with --judge-model",
        )
    for name, words in (
        ("judge_by", (GRADES, PAIRS, BOTH)),
        ("judge_language", ("auto", "en", "zh")),
        ("judge_format", ("auto", "json_schema", "text")),
    ):
        value = getattr(asked, name)
        if value is not None and value not in words:
            raise BurnishError(f"{flag(name)} cannot be '{value}'", at=flag(name), fix=f"one of {', '.join(words)}")
    for name in ("judge_repeats", "judge_max_tokens", "judge_concurrency", "judge_rpm", "judge_timeout", "max_cost"):
        value = getattr(asked, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise BurnishError(f"{flag(name)} must be above 0", at=flag(name), fix="give a number above 0")
    for name in ("judge_temperature", "judge_retries", "price_in", "price_out"):
        value = getattr(asked, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise BurnishError(f"{flag(name)} must not be negative", at=flag(name), fix="give 0 or more")
    if (asked.price_in is None) != (asked.price_out is None):
        missing = "price_out" if asked.price_out is None else "price_in"
        raise BurnishError("one of two prices is missing", at=flag(missing), fix="give both; 0 where it is free")
    if asked.max_cost is not None and asked.price_in is None:
        raise BurnishError("--max-cost needs prices", at="--max-cost", fix="add --price-in and --price-out")
