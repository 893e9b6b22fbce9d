"""`burnish data rewards`: try the rewards of a run on answers that are there already, without any training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.data.iterate import Tally, iter_samples
from burnish.data.records import Prompt, Sample
from burnish.errors import BurnishError
from burnish.registry import did_you_mean
from burnish.rewards import Rewards, RewardSample, Scores, build_rewards
from burnish.runs.tables import number, table

if TYPE_CHECKING:
    from burnish.config import Settings

_BATCH = 64
_NOTES = 20


def run_rewards(run: str, overrides: Sequence[str], *, column: str, limit: int, as_json: bool) -> None:
    """Score a column of the first rows of each dataset, and print what each function says."""
    from burnish.config import load_settings

    settings = load_settings(run, list(overrides), require=("dataset", "reward_funcs"))
    log.set_quiet(as_json)  # stdout carries the lines and nothing else
    for line in settings.notes:
        if not line.startswith("reward_"):  # no effect in training, but here
            log.note(line)
    chosen = settings.rollout
    rewards = build_rewards(chosen.reward_funcs, chosen.reward_weights or None, chosen.reward_timeout)
    try:
        samples = _samples(settings, rewards, column, limit)
        rewards.check_columns({key for sample in samples for key in sample.reference})
        parts = list(_scored(rewards, samples))
    finally:
        rewards.close()
    values = [row for part in parts for row in part.values]
    totals = [total for part in parts for total in part.totals]
    if as_json:
        for sample, row, total in zip(samples, values, totals, strict=True):
            print(json.dumps({"dataset": sample.dataset, "row": sample.row, "rewards": row, "total": total}))
        return
    columns = {name: [row[name] for row in values] for name in rewards.names}
    log.say(table([_HEAD, *_rows(columns, rewards.weights, totals)]))
    log.say(f"{len(samples)} answers, from the column '{column}'")
    _tell([note for part in parts for note in part.notes])


def _samples(settings: Settings, rewards: Rewards, column: str, limit: int) -> list[RewardSample]:
    """The first rows of each dataset, with a column of theirs as the answer."""
    tally, found = Tally(), list[Sample]()
    for name in settings.data.dataset:
        rows = iter_samples(
            [name],
            Path(settings.data.dataset_dir).expanduser(),
            stage="grpo",
            max_samples=settings.data.max_samples,
            on_bad_row="report",
            seed=settings.training.seed,
            tally=tally,
        )
        found += islice(rows, limit)
    for line in tally.notes:
        log.note(line)
    keys = Counter(key for sample in found if isinstance(sample.record, Prompt) for key in sample.record.reference)
    if column not in keys:
        raise BurnishError(
            f"no row has a column '{column}' to score"
            if found
            else "there are no rows that could be read as prompts with answers",
            at="--column",
            fix=did_you_mean(column, keys),
        )
    encode = _encoder(settings, rewards)
    return [
        RewardSample(record.prompt, text, record.reference, sample.dataset, sample.row, encode(text), True)
        for sample in found
        if isinstance(record := sample.record, Prompt) and (text := _text(record.reference.get(column))) is not None
    ]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encoder(settings: Settings, rewards: Rewards) -> Any:
    """What makes tokens of a text; nothing where no function counts them, or no model is named."""
    if not rewards.counts_tokens or settings.model.model_name_or_path is None:
        return lambda _: ()
    from burnish.model.load import load_tokenizer
    from burnish.train.origin import model_source

    tokenizer = load_tokenizer(model_source(settings), trust_remote_code=settings.model.trust_remote_code)
    return lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))


def _scored(rewards: Rewards, samples: Sequence[RewardSample]) -> Iterator[Scores]:
    with log.progress("rewards", len(samples)) as bar:
        for start in range(0, len(samples), _BATCH):
            part = samples[start : start + _BATCH]
            yield rewards.score(part)
            bar.advance(len(part))


_HEAD = ("reward", "weight", "answers", "none", "mean", "deviation", "least", "most")


def _rows(
    columns: dict[str, list[float | None]], weights: Sequence[float], totals: list[float | None]
) -> Iterator[tuple[str, ...]]:
    for (name, values), weight in zip(columns.items(), weights, strict=True):
        yield _row(name, number(weight), values)
    yield _row("together", "", totals)


def _row(name: str, weight: str, values: list[float | None]) -> tuple[str, ...]:
    given = [value for value in values if value is not None]
    figures = (fmean(given), pstdev(given), min(given), max(given)) if given else (None,) * 4
    return name, weight, str(len(given)), str(len(values) - len(given)), *map(number, figures)


def _tell(notes: Sequence[str]) -> None:
    for line in notes[:_NOTES]:
        log.note(line)
    if len(notes) > _NOTES:
        log.say(f"… and {len(notes) - _NOTES} more notes")
