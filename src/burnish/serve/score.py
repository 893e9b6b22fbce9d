"""`/v1/score` and `/v1/score/evaluation`: how good answers are, by a reward model, which reads them as in training."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from burnish.data.records import Conversation, Turn
from burnish.errors import TemplateError
from burnish.generate.reward import RewardModel
from burnish.serve.bodies import Evaluation, EvaluationBody, Score, ScoreBody, Scores, ScoreUsage
from burnish.serve.chat import conversation_of
from burnish.serve.errors import ApiError, bad_request
from burnish.serve.serving import Serving

_MOST_WAITING = 1024  # rows, besides the queue of the server


async def answer_score(serving: Serving, body: ScoreBody) -> Scores:
    """Score the conversations of a request. Raises ApiError."""
    served, scorer = serving.models.get(body.model), _scorer(serving)
    if (body.messages is None) == (body.conversations is None):
        raise bad_request("Give messages, one conversation, or conversations, a list of them.", "messages")
    if body.messages is not None:
        conversations = [conversation_of(body.messages, "answer")]
    else:
        conversations = [
            conversation_of(each, "answer", f"conversations[{place}]")
            for place, each in enumerate(body.conversations or ())
        ]
    scores, tokens = await _scores(serving, len(conversations), lambda: _rendered(scorer, conversations))
    return Scores(
        model=served.name,
        data=[Score(index=place, score=score) for place, score in enumerate(scores)],
        usage=ScoreUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


async def answer_evaluation(serving: Serving, body: EvaluationBody) -> Evaluation:
    """Score what a run of ppo sends to its scorer. Raises ApiError."""
    scorer = _scorer(serving)
    if (body.prompts is None) != (body.completions is None):
        raise bad_request("prompts and completions go together.", "completions")
    for name in ("prompts", "completions", "tools"):
        given = getattr(body, name)
        if given is not None and len(given) != len(body.messages):
            raise bad_request(f"There are {len(body.messages)} messages and {len(given)} {name}.", name)
    conversations: list[Conversation] = []
    for place, (asked, answer) in enumerate(zip(body.prompts or (), body.completions or (), strict=True)):
        prompt = conversation_of(asked, "prompt", f"prompts[{place}]", body.tools[place] if body.tools else ())
        conversations.append(replace(prompt, turns=(*prompt.turns, Turn("assistant", answer))))

    def rows() -> list[list[int]]:
        return _rendered(scorer, conversations) if conversations else [_ended(scorer, text) for text in body.messages]

    scores, _ = await _scores(serving, len(body.messages), rows)
    return Evaluation(model=serving.models.get(None).name, scores=scores)


def _scorer(serving: Serving) -> RewardModel:
    if serving.scorer is None:
        raise bad_request("This model gives answers, and no scores; serve a run with stage: rm.", "model")
    return serving.scorer


def _rendered(scorer: RewardModel, conversations: Sequence[Conversation]) -> list[list[int]]:
    try:
        return [scorer.ids(conversation, place) for place, conversation in enumerate(conversations)]
    except TemplateError as error:
        raise bad_request(f"The template cannot show this: {error.what}.", "messages") from error


def _ended(scorer: RewardModel, text: str) -> list[int]:
    """A text's tokens up to its last stop token, where the score is read; all of them where it has none."""
    ids = scorer.template.encode(text)
    stops = [place for place, token in enumerate(ids) if token in scorer.template.stop_ids]
    return ids[: stops[-1] + 1] if stops else ids


async def _scores(serving: Serving, count: int, rows: Callable[[], list[list[int]]]) -> tuple[list[float], int]:
    """The scores of what `rows` makes, and how many tokens they have."""
    if serving.scoring + count > serving.limits.queue + _MOST_WAITING:
        raise ApiError(
            429, "The queue is full. Try again in a moment.", code="queue_full", headers={"Retry-After": "1"}
        )
    scorer = _scorer(serving)

    def work() -> tuple[list[float], int]:
        made = rows()
        longest = max(map(len, made))
        if scorer.window and longest > scorer.window:
            raise bad_request(
                f"This model's maximum context length is {scorer.window} tokens, and a conversation has {longest}.",
                "messages",
                "context_length_exceeded",
            )
        return scorer.score_rows(made, batch_size=serving.scored_at_a_time), sum(map(len, made))

    started = time.monotonic()
    serving.scoring += count
    try:
        async with asyncio.timeout(serving.limits.time_s):
            scores, tokens = await serving.aside(work)
    except TimeoutError:
        raise ApiError(504, f"The scores took longer than {serving.limits.time_s:g} s.", code="timeout") from None
    finally:
        serving.scoring -= count
    serving.metrics.prompt_tokens += tokens
    serving.metrics.whole.add(time.monotonic() - started)
    return scores, tokens
