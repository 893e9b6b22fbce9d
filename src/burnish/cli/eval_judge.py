"""`burnish eval --judge`: answers, what judging them costs, the judge's verdicts, and what they come to."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import __version__, log
from burnish.cli.eval import check_served
from burnish.cli.judge_options import BOTH, GRADES, PAIRS, JudgeOptions, check
from burnish.errors import BurnishError, RunFolderError
from burnish.runs.evaluations import earlier_of, read_evaluation, write_evaluation
from burnish.runs.files import to_json, write_atomically
from burnish.runs.preflight import EVAL, JUDGE_PAGE, JUDGE_REPLIES
from burnish.runs.tables import table

if TYPE_CHECKING:
    from burnish.evaluate.judging.ask import Ask, Plan, Spending
    from burnish.evaluate.judging.cost import Estimate
    from burnish.evaluate.judging.endpoint import JudgeEndpoint, Reply
    from burnish.evaluate.judging.figures import Heard
    from burnish.evaluate.judging.report import Case, Findings

_NAMED = 5


@dataclass(frozen=True, slots=True)
class JudgeCall:
    """What the command line asks for besides the judge's own options; `compare` is as in `cli.eval.Call`.

    `served` and `compare_served`: which of a server's models answers, where MODEL or OTHER is an address.
    """

    model: str
    overrides: tuple[str, ...] = ()
    compare: str | None = None
    data: tuple[str, ...] = ()
    limit: float | None = None
    seed: int | None = None
    served: str | None = None
    compare_served: str | None = None
    output: str | None = None
    fail_if_worse: float | None = None


def run_judge(call: JudgeCall, options: JudgeOptions) -> None:
    """Make or read the answers, estimate, ask, print and write.

    Raises:
        BurnishError: an option cannot be, there is nothing to judge, the judge cannot be reached or costs too much.
    """
    from burnish.cli.judge_answers import gather
    from burnish.evaluate.judging.ask import Plan
    from burnish.evaluate.judging.own_rubrics import read_rubrics
    from burnish.evaluate.judging.prompts import chosen_rubrics

    check(options)
    own = read_rubrics(options.rubric_file)
    rubrics = chosen_rubrics(options.rubric, own, options.judge_language)
    by = _by(call, options)
    _check_limits(call)
    check_served(call.model, call.served, call.compare, call.compare_served)
    endpoint = reach(options)
    case, folder = gather(call, graded=by != PAIRS, compared=by != GRADES, options=options)
    if options.judge_labels:
        from burnish.evaluate.judging.report import human_labels

        human_labels(case, options.judge_labels)  # an error in it comes before anything is paid
    drawn = options.judge_repeats > 1 and options.judge_temperature > 0
    seed = call.seed if call.seed is not None else 0 if drawn else None
    if options.judge_repeats > 1 and not options.judge_temperature:
        log.note("the judge's temperature is 0: repeats show how steady it is, and nothing else")
    plan = Plan(
        rubrics,
        options.judge_language,
        options.judge_repeats,
        options.judge_reasons,
        options.judge_reference,
        seed,
        {name: own[name] for name in rubrics if name in own},
    )
    heard, spending = ask(case, plan, endpoint, options)
    if heard is None:
        return
    report(call, case, plan, heard, endpoint, options, folder, spending)


def _by(call: JudgeCall, options: JudgeOptions) -> str:
    by = options.judge_by or (GRADES if call.compare is None else PAIRS)
    if by in (PAIRS, BOTH) and call.compare is None:
        raise BurnishError(
            "pairs need something to compare with", at="--judge-by", fix="add --compare-base, or --compare OTHER"
        )
    return by


def _check_limits(call: JudgeCall) -> None:
    if call.limit is not None and not (call.limit > 0 and (call.limit < 1 or call.limit == int(call.limit))):
        raise BurnishError("--limit must be a whole number, or a share below 1", at="--limit", fix="--limit 100")
    if call.fail_if_worse is not None and (call.compare is None or call.fail_if_worse < 0):
        raise BurnishError(
            "--fail-if-worse needs something to compare with, and 0 or more",
            at="--fail-if-worse",
            fix="add --compare-base, or --compare OTHER",
        )


def reach(options: JudgeOptions) -> JudgeEndpoint:
    """The judge, after it was seen that it is there and has the model.

    A dry run with a named model sends nothing.
    """
    from burnish.evaluate.judging.endpoint import JudgeEndpoint, Manner
    from burnish.evaluate.judging.pace import Pace
    from burnish.generate.remote import load_remote_model
    from burnish.rewards.judge import KEYS, MODELS, from_environment

    keys = (*KEYS, "API_KEY")
    model = options.judge_model or from_environment(MODELS[:1])
    if not (options.dry_run and model):
        model = load_remote_model(
            options.judge, model, keys=keys, option="--judge-model", timeout_s=options.judge_timeout, note=log.note
        ).model
    manner = Manner(
        options.judge_temperature,
        options.judge_max_tokens,
        options.judge_format,
        options.judge_reasons,
        options.judge_timeout,
        options.judge_retries,
    )
    pace = Pace(options.judge_rpm)
    return JudgeEndpoint(options.judge, str(model), from_environment(keys), manner, pace, keys, log.note)


def ask(case: Case, plan: Plan, endpoint: JudgeEndpoint, options: JudgeOptions) -> tuple[Heard | None, Spending]:
    """Ask what is not known yet. None where nothing is to be asked but told: a dry run."""
    from burnish.evaluate.judging.ask import Spending, keys_of, known_replies
    from burnish.evaluate.judging.cache import ReplyCache
    from burnish.evaluate.judging.cost import Prices, estimate

    asks = all_asks(case, plan)
    keys = keys_of(asks, endpoint.url, endpoint.model, endpoint.manner, plan.seed)
    cache = ReplyCache(fresh=options.judge_fresh)
    replies = known_replies(keys.values(), cache)
    wanted = {key: one for one, key in keys.items() if key not in replies}
    prices = Prices(options.price_in, options.price_out)
    expected = estimate(
        (one.prompt for one in wanted.values()),
        len(replies),
        reasons=plan.reasons,
        max_tokens=endpoint.manner.max_tokens,
        prices=prices,
    )
    _tell_plan(case, plan, endpoint, options)
    for line in estimate_lines(expected):
        log.say(line)
    spending = Spending(prices, options.max_cost)
    if options.dry_run:
        return None, spending
    if options.max_cost is not None and (expected.cost or 0.0) > options.max_cost:
        raise BurnishError(
            f"judging would cost about {expected.cost:.4g}, more than --max-cost {options.max_cost:g}",
            at="--max-cost",
            fix="allow more, or ask less: --limit, fewer rubrics, --no-judge-reasons",
        )
    if wanted:
        replies |= _send(wanted, endpoint, cache, spending, plan, options)
    return read(keys, replies), spending


def all_asks(case: Case, plan: Plan) -> list[Ask]:
    """Everything that the judge is asked about a case."""
    from burnish.evaluate.judging.ask import comparing_asks, grading_asks

    asks = [one for side in case.sides for one in grading_asks(case.rows(side), side, plan)] if case.graded else []
    return asks + (comparing_asks(case.pairs, plan) if case.compared else [])


def read(keys: dict[Ask, str], replies: dict[str, Reply]) -> dict[Ask, Any]:
    """Request → what the judge said; a request that got no reply has that as its fault."""
    from burnish.evaluate.judging.replies import Judgement, read_reply

    heard = {}
    for one, key in keys.items():
        reply = replies[key]
        heard[one] = Judgement(fault=reply.fault) if reply.fault else read_reply(one.kind, reply.text, reply.finish)
    return heard


def _send(
    wanted: dict[str, Ask], endpoint: JudgeEndpoint, cache: Any, spending: Spending, plan: Plan, options: JudgeOptions
) -> dict[str, Reply]:
    from burnish.evaluate.judging.ask import ask_all

    come = 0
    with log.progress("judged", len(wanted)) as bar:

        def on_reply(reply: Reply) -> None:
            nonlocal come
            come += reply.fault is None
            cost = spending.cost
            bar.advance(1, **({} if cost is None else {"cost": f"{cost:.4g}"}))

        try:
            return asyncio.run(
                ask_all(
                    wanted,
                    endpoint,
                    cache,
                    spending,
                    at_once=options.judge_concurrency,
                    seed=plan.seed,
                    on_reply=on_reply,
                )
            )
        except (KeyboardInterrupt, BurnishError):
            log.say(f"{come} of {len(wanted)} replies have come and are kept; the same command goes on with the others")
            raise


def _tell_plan(case: Case, plan: Plan, endpoint: JudgeEndpoint, options: JudgeOptions) -> None:
    from burnish.generate.remote import shown_url

    how = " and ".join([*(["grades"] if case.graded else []), *(["pairs in both orders"] if case.compared else [])])
    times = f", {plan.repeats} times" if plan.repeats > 1 else ""
    against = f" against {case.other}" if case.old else ""
    log.say(f"\n{case.name}{against}: {len(case.new)} questions, {how} for {', '.join(plan.rubrics)}{times}")
    log.say(f"judge: {endpoint.model} at {shown_url(endpoint.url)}, temperature {options.judge_temperature:g}")


def estimate_lines(expected: Estimate) -> list[str]:
    """What is to be asked, and what it costs, in words."""
    known = f"; {expected.known:,} replies are known from earlier calls and cost nothing" if expected.known else ""
    lines = [
        f"to ask: {expected.requests:,} requests, about {expected.prompt_tokens:,} prompt tokens and "
        f"{expected.reply_tokens:,} reply tokens ({expected.most_reply_tokens:,} at most){known}"
    ]
    if expected.cost is not None and expected.most_cost is not None:
        lines.append(f"cost: about {expected.cost:.4g}, at most about {expected.most_cost:.4g}")
    return lines


def report(
    call: JudgeCall,
    case: Case,
    plan: Plan,
    heard: Heard,
    endpoint: JudgeEndpoint,
    options: JudgeOptions,
    folder: Path,
    spending: Spending,
) -> None:
    """Print the tables, write eval.json, the replies and the page."""
    from burnish.evaluate.judging.figures import grade_doubts, pair_doubts
    from burnish.evaluate.judging.page import write_judge_page
    from burnish.evaluate.judging.report import (
        agreement_lines,
        find,
        grade_rows,
        pair_rows_table,
        reply_lines,
        without_verdict,
    )

    found = find(case, heard, plan, options.judge_labels)
    tables = [grade_rows(case, found)] if case.graded else []
    tables += [pair_rows_table(found)] if case.compared else []
    for rows in tables:
        log.say(f"\n{table(rows)}")
    doubts = [f"{rubric}: {line}" for rubric, each in found.pairs.items() for line in pair_doubts(each)]
    doubts += [f"{rubric}: {line}" for rubric in found.grades for line in grade_doubts(heard, rubric)]
    words = [*_verdicts(case, found), *agreement_lines(found, case)]
    if words:
        log.say("\n" + "\n".join(words))
    for line in doubts:
        log.note(line)
    without = without_verdict(case, heard)
    _tell_unread(case, without, len(heard))
    block = _block(call, case, plan, found, endpoint, options, spending, without)
    _keep(folder, case.name, block)
    try:
        lines = "".join(to_json(line) + "\n" for line in reply_lines(case, heard))
        write_atomically(folder / JUDGE_REPLIES, lines.encode("utf-8"))
        write_judge_page(folder / JUDGE_PAGE, case, heard, found, tables, [*words, *doubts])
    except OSError as error:
        raise RunFolderError(
            f"the results cannot be written: {error.strerror or error}", at=str(folder), fix="name another --output"
        ) from error
    _tell_spending(spending)
    log.say(f"written: {folder / EVAL}, {JUDGE_REPLIES}, {JUDGE_PAGE}")
    _refuse_worse(call, found)


def _keep(folder: Path, model: str, block: dict[str, Any]) -> None:
    """Put the judge's block into eval.json, beside what benchmarks have found of the same model."""
    held = read_evaluation(folder) or {}
    content = earlier_of(folder, model) or {"model": model, "created": block["created"], "tasks": {}}
    write_evaluation(folder, {**{key: content[key] for key in content if key != "schema"}, "judge": block})
    if held and held.get("model") != content["model"]:
        log.note(f"{EVAL} was about {held.get('model')} and was replaced")
    elif before := held.get("judge"):
        log.note(f"what {before.get('model')} had said ({before.get('created')}) was replaced")


def _verdicts(case: Case, found: Findings) -> list[str]:
    lines = []
    for rubric, each in found.grades.items():
        if each.get("difference"):
            lines.append(f"{rubric}, grades against {case.other}: {each['difference']['verdict']}")
    for rubric, each in found.pairs.items():
        if each["n"]:
            lines.append(f"{rubric}, pairs against {case.other}: {each['verdict']}")
    return lines


def _tell_unread(case: Case, without: Sequence[dict[str, Any]], asked: int) -> None:
    from burnish.evaluate.judging.report import without_answers

    for reason, count in without_answers(case).items():
        log.note(f"{count} rows have no answer and were not judged: {reason}")
    if not without:
        return
    log.note(f"{len(without)} of {asked} requests have no verdict and are in no figure ({JUDGE_REPLIES} has all):")
    for kind, count in Counter(_but_for_figures(each["why"]) for each in without).most_common(_NAMED):
        first = next(each for each in without if _but_for_figures(each["why"]) == kind)
        log.say(f"  {count} × {first['why']} (first: {first['place']}, {first['rubric']})")
    if len(without) == asked:
        log.note(
            "this judge gave no verdict at all: it may be too small for the task, read too short a context, or need "
            "--judge-max-tokens"
        )


def _but_for_figures(why: str) -> str:
    """A reason without its figures, which differ from request to request: refused for 1651 tokens, for 1652."""
    return re.sub(r"\d+", "#", why)


def _tell_spending(spending: Spending) -> None:
    cost = "" if spending.cost is None else f", cost {spending.cost:.4g}"
    log.say(f"\npaid for: {spending.prompt_tokens:,} prompt and {spending.reply_tokens:,} reply tokens{cost}")


def _block(
    call: JudgeCall,
    case: Case,
    plan: Plan,
    found: Findings,
    endpoint: JudgeEndpoint,
    options: JudgeOptions,
    spending: Spending,
    without: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What eval.json says under `judge`."""
    from burnish.generate.remote import shown_url

    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": endpoint.model,
        "url": shown_url(endpoint.url),
        "answers_of": case.name,
        **({"compared_with": case.other} if case.old else {}),
        "questions": len(case.new),
        "grades": found.grades,
        "pairs": found.pairs,
        "unread": {"n": len(without), "by_reason": dict(Counter(each["why"] for each in without)), "rows": without},
        "usage": {
            "prompt_tokens": spending.prompt_tokens,
            "reply_tokens": spending.reply_tokens,
            "cost": spending.cost,
            "price_in": options.price_in,
            "price_out": options.price_out,
        },
        "settings": {**asdict(plan), **asdict(endpoint.manner), "limit": call.limit, "labels": options.judge_labels},
        "versions": {"burnish": __version__},
    }


def _refuse_worse(call: JudgeCall, found: Findings) -> None:
    """Raise where a model lost more than --fail-if-worse allows; everything is printed and written by then."""
    if call.fail_if_worse is None:
        return
    worse = [
        f"{rubric}: wins minus losses {(each['wins'] - each['losses']) / each['n']:+.3f} of all pairs"
        for rubric, each in found.pairs.items()
        if each["n"] and (each["wins"] - each["losses"]) / each["n"] < -call.fail_if_worse
    ]
    worse += [
        f"{rubric}: {each['difference']['difference']:+.3f} of a grade"
        for rubric, each in found.grades.items()
        if each.get("difference") and each["difference"]["difference"] < -call.fail_if_worse
    ]
    if worse:
        raise BurnishError(
            f"worse by more than {call.fail_if_worse:g}: {'; '.join(worse)}",
            at="--fail-if-worse",
            fix=f"look at the lost questions in {JUDGE_PAGE}, or allow more",
        )
