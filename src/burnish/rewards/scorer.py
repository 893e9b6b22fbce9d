"""A scorer behind an address: texts go there, numbers come back."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from burnish.data.export import openai_messages
from burnish.errors import BurnishError
from burnish.rewards.records import Call, RewardFunction, Surroundings, Unanswered

_AT = "reward_funcs: http_scorer"
_LARGEST = 64 * 1024 * 1024


def http_scorer(
    around: Surroundings, *, url: str, model: str = "model", key_env: str = "BURNISH_SCORER_KEY", batch_size: int = 64
) -> RewardFunction:
    """Scores from a server: `{"model", "messages": [texts]}` is posted, `{"scores": [numbers]}` comes back.

    The texts are whole conversations as the model reads them. `prompts` (lists of messages), `completions`,
    `references` and, where a prompt has some, `tools` are sent besides. A key in the environment variable `key_env`
    goes along as a bearer token.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise BurnishError(f"'{url}' is no address of a scorer", at=_AT, fix="write url: http://127.0.0.1:8000/score")
    if batch_size < 1:
        raise BurnishError(f"'batch_size' of the reward http_scorer must be at least 1, not {batch_size}", at=_AT)

    async def run(call: Call) -> None:
        starts = range(0, len(call.samples), batch_size)
        await asyncio.gather(*(part(call, start, call.samples[start : start + batch_size]) for start in starts))

    async def part(call: Call, start: int, samples: Any) -> None:
        asked = {
            "model": model,
            "messages": [around.render(sample.prompt, sample.completion) for sample in samples],
            "prompts": [openai_messages(sample.prompt.turns) for sample in samples],
            "completions": [sample.completion for sample in samples],
            "references": [sample.reference for sample in samples],
        }
        if any(sample.prompt.tools for sample in samples):
            asked["tools"] = [list(sample.prompt.tools) for sample in samples]
        left = max(0.1, call.deadline - time.monotonic())
        found = await asyncio.to_thread(_post, url, asked, os.environ.get(key_env), left)
        scores = found if isinstance(found, Unanswered) else _scores(found, len(samples), url)
        call.answers[start : start + len(samples)] = scores if isinstance(scores, list) else [scores] * len(samples)

    return RewardFunction(run, is_async=True)


def _post(url: str, asked: dict[str, Any], key: str | None, timeout_s: float) -> Any:
    """What the server answers, or why there is no answer."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return json.loads(reply.read(_LARGEST))
    except urllib.error.HTTPError as error:
        return Unanswered(f"got status {error.code} from {url}: {error.read(200).decode('utf-8', 'replace')}")
    except (OSError, ValueError) as error:
        return Unanswered(f"got no answer from {url}: {getattr(error, 'reason', error)}")


def _scores(found: Any, count: int, url: str) -> list[Any]:
    """The scores in an answer.

    Raises:
        BurnishError: the answer has another shape.
    """
    scores = found.get("scores") if isinstance(found, dict) else found
    fix = 'answer {"scores": [one number for each text]}'
    if not isinstance(scores, list):
        raise BurnishError(f"the scorer answered no list of scores: {str(found)[:100]}", at=f"{_AT}, {url}", fix=fix)
    if len(scores) != count:
        raise BurnishError(f"the scorer gave {len(scores)} scores for {count} texts", at=f"{_AT}, {url}", fix=fix)
    return scores
