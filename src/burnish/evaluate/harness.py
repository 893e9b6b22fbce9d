"""One model asked all questions of some tasks by lm-eval, and what came of it. Needs the extra `eval`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from burnish import log
from burnish.errors import BurnishError
from burnish.runs.evaluations import Figure
from burnish.template.encode import MARK

_NO_STDERR = ("N/A", None)


@dataclass(frozen=True)
class Questions:
    """How tasks are asked.

    Args:
        num_fewshot: examples before a question; None leaves it to the task.
        limit: questions of each task; below 1 a share of them; None for all.
        seed: of the choice of examples, and of tasks that draw.
        multiturn: examples as turns of a conversation, where a template renders them.
        generation: changes to what tasks say about answers, by lm-eval's names.
        unsafe_code: whether tasks may run code that the model wrote.
    """

    num_fewshot: int | None = None
    limit: float | None = None
    seed: int = 1234
    multiturn: bool = True
    generation: Mapping[str, Any] = field(default_factory=dict)
    unsafe_code: bool = False


@dataclass(frozen=True)
class Reply:
    """One question under one filter: what was asked and wanted, what the model said, and each metric's value."""

    task: str
    filter: str
    number: int
    prompt: str
    target: str
    answer: str
    values: dict[str, Any]
    fingerprint: str  # of the question; equal where two models were asked the same


@dataclass(frozen=True)
class Outcome:
    """What a model got: task → `metric,filter` → figure; groups alike."""

    tasks: dict[str, dict[str, Figure]]
    groups: dict[str, dict[str, Figure]]
    shots: dict[str, int]
    versions: dict[str, Any]
    replies: tuple[Reply, ...]
    prompts: dict[tuple[str, int], str]  # fingerprints of what each question was asked with


def ask(lm: Any, loaded: Mapping[str, Any], questions: Questions, *, templated: bool) -> Outcome | None:
    """Ask every question, and score the answers; None in processes other than the first.

    Args:
        lm: a model as lm-eval knows it.
        loaded: tasks from `load_tasks`; they can be asked again, of another model.
        templated: whether the model's chat template renders the questions.
    Raises:
        BurnishError: a task would run code that a model wrote, and that was not allowed.
    """
    from lm_eval.evaluator import evaluate

    for name, task in loaded["tasks"].items():
        _prepare(name, task, questions)
    random.seed(questions.seed)
    _seed_numpy(questions.seed)
    with redirect_stderr(StringIO()) as said:
        found = evaluate(
            lm=lm,
            task_dict=loaded,
            limit=questions.limit,
            log_samples=True,
            bootstrap_iters=1000,
            apply_chat_template=templated,
            fewshot_as_multiturn=templated and questions.multiturn,
            confirm_run_unsafe_code=questions.unsafe_code,
        )
    log.logger.debug(said.getvalue())
    return None if found is None else _outcome(found)


def _prepare(name: str, task: Any, questions: Questions) -> None:
    if getattr(task, "UNSAFE_CODE", False) and not questions.unsafe_code:
        raise BurnishError(
            f"task {name} runs code that the model writes",
            at=f"--tasks {name}",
            fix="run it where nothing can be harmed, with --confirm-run-unsafe-code",
        )
    if questions.generation and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(questions.generation), update=True)
    usual = task.get_config("num_fewshot")
    if questions.num_fewshot is not None and usual == 0 and questions.num_fewshot:
        log.note(f"task {name} is made for 0 examples: --num-fewshot {questions.num_fewshot} does not change it")
    elif questions.num_fewshot is not None:
        task.set_config(key="num_fewshot", value=questions.num_fewshot)
    elif usual is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=questions.seed)


def _seed_numpy(seed: int) -> None:
    import numpy

    numpy.random.seed(seed)


def _outcome(found: Mapping[str, Any]) -> Outcome:
    groups = set(found.get("groups") or {})
    better = found.get("higher_is_better") or {}
    sizes = {name: sizes["effective"] for name, sizes in (found.get("n-samples") or {}).items()}
    tasks = {
        name: _figures(values, sizes.get(name), better.get(name) or {})
        for name, values in found["results"].items()
        if name not in groups
    }
    replies = [_reply(task, sample) for task, samples in found["samples"].items() for sample in samples]
    prompts = {
        (task, int(sample["doc_id"])): str(sample["prompt_hash"])
        for task, samples in found["samples"].items()
        for sample in samples
    }
    return Outcome(
        {name: figures for name, figures in tasks.items() if figures},
        {name: _figures(values, None, better.get(name) or {}) for name, values in (found.get("groups") or {}).items()},
        {name: int(count) for name, count in found["n-shot"].items() if name in tasks},
        dict(found.get("versions") or {}),
        tuple(replies),
        prompts,
    )


def _figures(values: Mapping[str, Any], size: int | None, better: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {}
    for key, value in values.items():
        metric, comma, name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = values.get(f"{metric}_stderr,{name}")
        stderr = float(stderr) if stderr not in _NO_STDERR else None
        figures[key] = Figure(float(value), stderr, size, better.get(metric) is not False)
    return figures


def _reply(task: str, sample: Mapping[str, Any]) -> Reply:
    arguments = [argument for argument in sample["arguments"] if argument]
    prompt = str(arguments[0][0]).replace(MARK, "") if arguments else ""
    return Reply(
        task=task,
        filter=str(sample["filter"]),
        number=int(sample["doc_id"]),
        prompt=prompt,
        target=str(sample["target"]),
        answer=_answer(sample, arguments),
        values={name: sample[name] for name in sample["metrics"]},
        fingerprint=str(sample["doc_hash"]),
    )


def _answer(sample: Mapping[str, Any], arguments: Sequence[Any]) -> str:
    """What the model said: the text of its answer, or of choices the likeliest one."""
    said = [answers[0] if isinstance(answers, list) and answers else answers for answers in sample["resps"]]
    if said and isinstance(said[0], str):
        return str(said[0])
    if said and isinstance(said[0], tuple | list) and len(said) == len(arguments) > 1:
        best = max(range(len(said)), key=lambda place: said[place][0])
        return str(arguments[best][1]).replace(MARK, "").strip()
    return ""
