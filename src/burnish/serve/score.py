"""`/v1/score`: how good answers are, by a reward model, which reads them as in training."""

from __future__ import annotations

import asyncio

from burnish.data.records import Conversation
from burnish.serve.bodies import Score, ScoreBody, Scores, ScoreUsage
from burnish.serve.chat import conversation_of
from burnish.serve.errors import ApiError, bad_request, too_long
from burnish.serve.serving import Serving


async def answer_score(serving: Serving, body: ScoreBody) -> Scores:
    """Score the conversations of a request. Raises ApiError."""
    served = serving.models.get(body.model)
    scorer = serving.scorer
    if scorer is None:
        raise bad_request("This model answers and scores nothing; serve a run with stage: rm.", "model")
    if (body.messages is None) == (body.conversations is None):
        raise bad_request("Give messages, one conversation, or conversations, a list of them.", "messages")
    if body.messages is not None:
        conversations = [conversation_of(body.messages, "answer")]
    else:
        conversations = [
            conversation_of(each, "answer", f"conversations[{place}]")
            for place, each in enumerate(body.conversations or ())
        ]
    if serving.scoring + len(conversations) > serving.limits.queue + 1024:
        raise ApiError(
            429, "The queue is full. Try again in a moment.", code="queue_full", headers={"Retry-After": "1"}
        )
    serving.scoring += len(conversations)
    try:
        async with asyncio.timeout(serving.limits.time_s):
            scores, tokens = await serving.aside(lambda: _scores(serving, conversations))
    except TimeoutError:
        raise ApiError(504, f"The scores took longer than {serving.limits.time_s:g} s.", code="timeout") from None
    finally:
        serving.scoring -= len(conversations)
    serving.metrics.prompt_tokens += tokens
    return Scores(
        model=served.name,
        data=[Score(index=place, score=score) for place, score in enumerate(scores)],
        usage=ScoreUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _scores(serving: Serving, conversations: list[Conversation]) -> tuple[list[float], int]:
    scorer = serving.scorer
    assert scorer is not None
    lengths = [len(scorer.ids(conversation, place)) for place, conversation in enumerate(conversations)]
    window = getattr(scorer.model.config.get_text_config(), "max_position_embeddings", None)
    if window and max(lengths) > window:
        raise too_long(max(lengths), None, window)
    return scorer.score(conversations, batch_size=serving.scored_at_a_time), sum(lengths)
