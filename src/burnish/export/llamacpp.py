"""llama.cpp in this process, to ask what a GGUF file renders, tokenizes and answers."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from burnish.errors import ModelError

_PATIENCE_S = 600.0


def is_installed() -> bool:
    """Whether llama.cpp is there as a Python package (the extra `llamacpp`)."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF file loaded by llama.cpp, on the CPU.

    Args:
        longest: tokens of prompt and answer together.
    Raises:
        ModelError: llama.cpp refuses the file.
    """

    def __init__(self, file: Path, *, longest: int, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = longest
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.warmup = False
        # It opens a port of its own on this machine, which nobody else shall use.
        self._key = secrets.token_hex(32)
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = params.endpoint_metrics = params.endpoint_props = False
        params.verbosity = -1
        params.cpuparams.n_threads = threads
        # Numbers as exact as llama.cpp has them: keys and values in float32, no fused attention.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"llama.cpp cannot load the file: {str(error).strip()[:300]}",
                at=str(file),
                fix="nothing was exported; please report this with the model's name",
            ) from error

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._server.listening_address + path, json.dumps(body).encode(), headers)
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
