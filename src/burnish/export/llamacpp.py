"""llama.cpp in this process, to ask what a GGUF file renders, tokenizes and answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import ModelError
from burnish.generate.llamacpp import start_llamacpp

_PATIENCE_S = 600.0


class LlamaCpp:
    """A GGUF file loaded by llama.cpp, on the CPU and as exact as it can be.

    Args:
        longest: tokens of prompt and answer together.
    Raises:
        ModelError: llama.cpp refuses the file.
    """

    def __init__(self, file: Path, *, longest: int, threads: int) -> None:
        fix = "nothing was exported; please report this with the model's name"
        self._program = start_llamacpp(file, window=longest, threads=threads, exact=True, fix=fix)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._program.key}"}
        request = urllib.request.Request(self._program.address + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")
        except OSError as error:
            raise ModelError(
                f"llama.cpp did not answer within {_PATIENCE_S:.0f} s: {error}",
                at=path,
                fix="nothing was exported; try again when the machine has less to do",
            ) from error

    def tokenize(self, text: str) -> list[int]:
        """The ids of rendered text: control tokens count, none is added."""
        return list(self._post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"])

    def render(self, messages: Sequence[dict[str, Any]]) -> str | None:
        """A conversation as llama.cpp's own Jinja renders it with the file's template; None where it refuses."""
        return self._post("/apply-template", {"messages": list(messages)}).get("prompt")

    def logprobs(self, prompt: Sequence[int], count: int) -> dict[int, float]:
        """The log-probabilities, in nats, of the `count` likeliest tokens after a prompt."""
        # An answer that ends at once, or in the middle of a character, comes without figures. They are taken before
        # the bias counts, so it may be made to go on with a letter.
        done = self._complete(prompt, 1, n_probs=count, logit_bias=[[self.tokenize("a")[-1], 1000.0]])
        [first] = done["completion_probabilities"]
        return {each["id"]: float(each["logprob"]) for each in first["top_logprobs"]}

    def continued(self, prompt: Sequence[int], count: int, stops: Collection[int] = ()) -> list[int]:
        """The greedy continuation, at most `count` tokens, without the one of `stops` that ends it."""
        tokens = list(self._complete(prompt, count, return_tokens=True)["tokens"])
        return tokens[:-1] if tokens and tokens[-1] in stops else tokens

    def _complete(self, prompt: Sequence[int], count: int, **options: Any) -> Any:
        greedy = {"temperature": 0.0, "top_k": 1, "repeat_penalty": 1.0, "samplers": ["top_k"], "cache_prompt": False}
        body = {"prompt": list(prompt), "n_predict": count, **greedy, **options}
        done = self._post("/completion", body)
        if "error" in done:
            raise ModelError(f"llama.cpp cannot answer: {done['error']}", at="GGUF", fix="please report this")
        return done
