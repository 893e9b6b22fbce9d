"""`burnish eval`: ask a model the questions of benchmarks, and say whether it is better than another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import __version__, log
from burnish.cli.chat import LOADS
from burnish.config import Settings, load_settings
from burnish.errors import BurnishError, ModelError
from burnish.runs.evaluations import earlier_of, read_evaluation, result_rows, write_evaluation
from burnish.runs.files import to_json, write_atomically
from burnish.runs.preflight import EVAL, EVAL_ANSWERS, EVAL_PAGE, SUMMARY
from burnish.runs.tables import table

if TYPE_CHECKING:
    from burnish.evaluate.compare import Comparison
    from burnish.evaluate.harness import Outcome

BASE = ""
"""What `--compare-base` compares with: the model that a run was trained from."""


@dataclass(frozen=True)
class Call:
    """What the command line asks for; `compare` is None without a comparison.

    `served` and `compare_served`: which of a server's models answers, where MODEL or OTHER is an address.
    """

    model: str
    tasks: tuple[str, ...]
    settings: Settings
    regression: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    num_fewshot: int | None = None
    limit: float | None = None
    seed: int = 1234
    rows_at_once: int | None = None
    templated: bool | None = None
    multiturn: bool = True
    compare: str | None = None
    fail_if_worse: float | None = None
    output: str | None = None
    served: str | None = None
    compare_served: str | None = None
    unsafe_code: bool = False
    generation: dict[str, Any] = field(default_factory=dict)


@dataclass
class Subject:
    """A model that is asked, as lm-eval knows it. `spoken`: how its prompts are made, in words."""

    lm: Any
    name: str
    templated: bool
    spoken: str
    chat: Any = None


# How a setting about answers is called by lm-eval's tasks.
_ANSWERS = {"max_new_tokens": "max_gen_toks", "do_sample": "do_sample", "temperature": "temperature"}
_ANSWERS |= {"top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repetition_penalty"}
_LOADS = LOADS - {"skip_special_tokens"}  # the task says what an answer is
_SECRET = {"hf_hub_token"}


def list_tasks(pattern: str | None, include: Sequence[str]) -> None:
    """Print the names of tasks."""
    from burnish.evaluate.tasklist import require_lm_eval, task_names

    require_lm_eval()
    found = task_names(pattern, include)
    if not found:
        raise BurnishError(f"no task holds '{pattern}'", at="--list", fix="give a part of a name, or a pattern with *")
    print("\n".join(found))


def named(model: str | None) -> str:
    """The model, which only --list does without."""
    if not model or model.startswith("-"):
        raise BurnishError("no model is named", at="command line", fix="burnish eval MODEL --tasks …, or a run folder")
    return model


def split_names(words: Sequence[str] | None) -> tuple[str, ...]:
    """Names that stand in several options, or with commas in one."""
    names = [name.strip() for word in words or () for name in word.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def rows_of(batch_size: str) -> int | None:
    """Rows at a time; None for auto."""
    if batch_size == "auto":
        return None
    if not batch_size.isdigit() or not int(batch_size):
        raise BurnishError(f"--batch-size cannot be '{batch_size}'", at="--batch-size", fix="a number above 0, or auto")
    return int(batch_size)


def compared(with_base: bool, other: str | None) -> str | None:
    """What to compare with; None for nothing."""
    if with_base and other:
        raise BurnishError("both --compare-base and --compare are given", at="command line", fix="give one of them")
    return BASE if with_base else other


def understand(overrides: Sequence[str], **given: Any) -> Call:
    """Check what the command line says, before anything is loaded.

    Raises:
        BurnishError: options that contradict each other, or a setting that has no effect here.
    """
    settings = load_settings({}, list(overrides))
    for key in sorted(settings.given - _LOADS - set(_ANSWERS)):
        fix = "use --seed" if key == "seed" else "leave it out"
        raise BurnishError(f"'{key}' has no effect in eval", at=settings.origins.get(key, "command line"), fix=fix)
    values = settings.generating.model_dump()
    generation = {name: values[key] for key, name in _ANSWERS.items() if key in settings.given}
    call = Call(settings=settings, generation=generation, **given)
    if not call.tasks:
        raise BurnishError(
            "no task is named", at="command line", fix="--tasks NAME (`burnish eval --list` lists them), or --judge URL"
        )
    for option, value in (("--regression", call.regression), ("--fail-if-worse", call.fail_if_worse)):
        if value not in ((), None) and call.compare is None:
            raise BurnishError(
                f"{option} needs something to compare with", at=option, fix="add --compare-base, or --compare OTHER"
            )
    check_served(call.model, call.served, call.compare, call.compare_served)
    if call.limit is not None and call.limit <= 0:
        raise BurnishError("--limit must be above 0", at="--limit", fix="a number of questions, or a share below 1")
    if call.fail_if_worse is not None and call.fail_if_worse < 0:
        raise BurnishError("--fail-if-worse must not be negative", at="--fail-if-worse", fix="0.02 is two points")
    return call


def check_served(model: str, served: str | None, compare: str | None, compare_served: str | None) -> None:
    """Raise where a server's model is named and there is no server."""
    from burnish.generate.remote import is_url

    for option, value, of in (("--model", served, model), ("--compare-model", compare_served, compare or "")):
        if value is not None and not is_url(of):
            where = "MODEL" if option == "--model" else "--compare"
            raise BurnishError(
                f"{option} chooses one of a server's models, and {where} is no address of a server",
                at=f"{option} {value}",
                fix="leave it out, or give a URL such as http://127.0.0.1:8000/v1",
            )


def run_eval(call: Call) -> None:
    """Evaluate, compare, print and write."""
    from burnish.evaluate.processes import is_first
    from burnish.evaluate.tasklist import load_tasks, require_lm_eval, task_of

    require_lm_eval()
    log.set_quiet(not is_first())
    named = [*call.tasks, *call.regression]
    lost = [each for each in call.data if "=" in each and task_of(each, named) is None]
    if lost:
        raise BurnishError("--data names no task of this call", at=lost[0], fix=f"this call has: {', '.join(named)}")
    loaded = load_tasks(call.tasks, include=call.include, data=_for(call.data, call.tasks))
    before = _merged(loaded, call)
    subject = load_subject(call, call.model, call.served)
    outcome = _ask(subject, loaded, call)
    other = None
    if call.compare is not None:
        old = _other(call, subject)
        other = old.name, _ask(old, loaded, call)
    if outcome is None:  # this process has done its share
        return
    report = _report(call, subject, outcome)
    _print_table(report)
    done: list[Comparison] = []
    if other is not None and other[1] is not None:
        done = _compare(call, report, loaded, other[0], other[1], outcome, before)
    _write(call, subject, report, outcome, done)
    _refuse_worse(call, done)


def _for(data: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """The data that is named for these tasks, or for none."""
    from burnish.evaluate.tasklist import task_of

    return [each for each in data if "=" not in each or task_of(each, tasks)]


def _merged(loaded: dict[str, Any], call: Call) -> list[str]:
    """Put the regression tasks beside the others; returns their names."""
    from burnish.evaluate.tasklist import load_tasks

    if not call.regression:
        return []
    more = load_tasks(call.regression, include=call.include, data=_for(call.data, call.regression))
    twice = sorted(set(more["tasks"]) & set(loaded["tasks"]))
    if twice:
        raise BurnishError(f"{twice[0]} is named as --tasks and as --regression", at="command line", fix="name it once")
    for part in ("tasks", "groups", "group_map"):
        loaded[part] = {**loaded.get(part, {}), **more.get(part, {})}
    return list(more["tasks"])


def load_subject(call: Call, name: str, served: str | None = None) -> Subject:
    """A model that is here, or one behind a URL."""
    from burnish.api import loading_options
    from burnish.evaluate.lm import EngineLM
    from burnish.generate.chat import load_chat_model
    from burnish.generate.remote import is_url, load_remote_model

    if is_url(name):
        from burnish.evaluate.endpoint import EndpointLM

        remote = load_remote_model(name, served, note=log.note)
        templated = call.templated is not False
        lm = EndpointLM(remote, templated=templated, at_once=call.rows_at_once or 8, seed=call.seed)
        spoken = "the server's chat template" if templated else "plain text, no chat template"
        return Subject(lm, f"{remote.model} at {name}", templated, spoken)
    options = loading_options(call.settings)
    if name != call.model:
        options |= {"adapters": (), "template": None}
    chat = load_chat_model(name, say=log.say, **options)
    has_one = bool(chat.template.tokenizer.chat_template or options["template"])
    return _subject(chat, EngineLM, call, has_one if call.templated is None else call.templated)


def _subject(chat: Any, kind: Callable[..., Any], call: Call, templated: bool) -> Subject:
    lm = kind(chat, templated=templated, rows_at_once=call.rows_at_once, seed=call.seed)
    spoken = f"chat template {chat.template.name}" if templated else "plain text, no chat template"
    if templated and chat.template.default_system:
        spoken += ", with the system prompt of training"
    if templated and chat.template.enable_thinking is not None:
        spoken += f", enable_thinking: {str(chat.template.enable_thinking).lower()}"
    return Subject(lm, chat.name, templated, spoken, chat)


def _other(call: Call, tuned: Subject) -> Subject:
    """What the model is compared with; the base is asked with the very same prompts. The first model is given up."""
    if call.compare != BASE:
        tuned.lm = None
        assert call.compare is not None
        return load_subject(call, call.compare, call.compare_served)
    from burnish.api import load_base
    from burnish.evaluate.lm import EngineLM

    if tuned.chat is None:
        raise BurnishError(
            "what a served model was tuned from is not known", at="--compare-base", fix="name it: --compare OTHER"
        )
    shell = replace(tuned.chat, model=None)
    tuned.lm = tuned.chat = None  # two models need not be in memory at once
    try:
        base = load_base(call.settings, shell)
    except ModelError as error:
        raise ModelError(error.what, at=error.at, fix="name what to compare with: --compare OTHER") from error
    return _subject(base, EngineLM, call, tuned.templated)


def _ask(subject: Subject, loaded: dict[str, Any], call: Call) -> Outcome | None:
    from burnish.evaluate.harness import Questions, ask

    log.say(f"{subject.name} · {', '.join(loaded['tasks'])} · {subject.spoken}")
    questions = Questions(
        num_fewshot=call.num_fewshot,
        limit=call.limit,
        seed=call.seed,
        multiturn=call.multiturn,
        generation=call.generation,
        unsafe_code=call.unsafe_code,
    )
    found = ask(subject.lm, loaded, questions, templated=subject.templated)
    if shortened := getattr(subject.lm, "shortened", 0):
        log.note(f"{shortened} prompts were longer than the model's window and lost their beginning")
    return found


def _report(call: Call, subject: Subject, outcome: Outcome) -> dict[str, Any]:
    import lm_eval

    return {
        "model": subject.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tasks": {task: {key: asdict(each) for key, each in found.items()} for task, found in outcome.tasks.items()},
        "groups": {name: {key: asdict(each) for key, each in found.items()} for name, found in outcome.groups.items()},
        "n_shot": outcome.shots,
        "settings": {
            "prompts": subject.spoken,
            "chat_template": subject.templated,
            "fewshot_as_multiturn": subject.templated and call.multiturn,
            "num_fewshot": call.num_fewshot,
            "limit": call.limit,
            "seed": call.seed,
            "data": list(call.data),
            "generation": call.generation,
            **{key: call.settings.flat()[key] for key in sorted(call.settings.given & _LOADS - _SECRET)},
        },
        "task_versions": outcome.versions,
        "versions": {"burnish": __version__, "lm_eval": lm_eval.__version__},
    }


def _print_table(report: dict[str, Any]) -> None:
    log.say()
    log.say(table(result_rows(report)))
    if report["settings"]["limit"] is not None:
        log.say("a sample by --limit: not a figure to publish")


def _compare(
    call: Call,
    report: dict[str, Any],
    loaded: dict[str, Any],
    name: str,
    old: Outcome,
    new: Outcome,
    regression: Sequence[str],
) -> list[Comparison]:
    from burnish.evaluate.compare import compare_outcomes, comparison_json, comparison_rows

    aggregations = {task: each.aggregation() for task, each in loaded["tasks"].items()}
    done, left = compare_outcomes(old, new, aggregations, regression=regression)
    report["compared_with"] = comparison_json(done, name, left)
    same = sum(new.prompts.get(key) == prompt for key, prompt in old.prompts.items())
    report["compared_with"]["same_prompts"] = same == len(old.prompts)
    log.say(f"\nagainst {name}, question by question:")
    log.say(table(comparison_rows(done)))
    if same < len(old.prompts):
        log.note(f"{len(old.prompts) - same} of {len(old.prompts)} questions were asked in other words or with another "
                 "template: the difference is that of model and prompt together")  # fmt: skip
    for line in left:
        log.note(f"not compared: {line}")
    log.say()
    for each in done:
        kind = " (what it could do before)" if each.regression else ""
        log.say(f"{each.task}{kind}, {each.key.replace(',', ', ')}: {each.verdict}")
    return done


def _write(call: Call, subject: Subject, report: dict[str, Any], outcome: Outcome, done: Sequence[Comparison]) -> None:
    """eval.json, the answers, and with a comparison its page: into --output, or into the run folder."""
    folder = Path(call.output).expanduser() if call.output else None
    if folder is None and (Path(call.model).expanduser() / SUMMARY).is_file():
        folder = Path(call.model).expanduser()
    if folder is None:
        log.say("\nnothing was written: --output DIR keeps the results")
        return
    earlier = read_evaluation(folder)
    if "judge" in (kept := earlier_of(folder, subject.name) or {}):  # it stays beside the benchmarks
        report["judge"] = kept["judge"]
    path = write_evaluation(folder, report)
    lines = [to_json(asdict(reply)) + "\n" for reply in outcome.replies]
    write_atomically(folder / EVAL_ANSWERS, "".join(lines).encode("utf-8"))
    log.say(f"\nwritten: {path}, {EVAL_ANSWERS}" + (f", {EVAL_PAGE}" if done else ""))
    if earlier and earlier["tasks"]:
        log.note(f"{EVAL} of {earlier.get('created')} ({', '.join(earlier['tasks'])}) was replaced")
    if done:
        from burnish.cli.eval_page import write_comparison

        write_comparison(folder / EVAL_PAGE, done, report["compared_with"]["model"], subject.name)


def _refuse_worse(call: Call, done: Sequence[Comparison]) -> None:
    """Raise where a figure is worse than --fail-if-worse allows; everything is printed and written by then."""
    from burnish.evaluate.compare import worse_than

    if call.fail_if_worse is None:
        return
    found = worse_than(done, call.fail_if_worse)
    if found:
        named = "; ".join(f"{each.task} {each.key} by {-each.found.gain:.4g}" for each in found)
        raise BurnishError(
            f"worse by more than {call.fail_if_worse:g}: {named}",
            at="--fail-if-worse",
            fix=f"look at the lost questions in {EVAL_PAGE}, or allow more",
        )
