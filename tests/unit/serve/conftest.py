"""A server with a scripted engine that says what the last message asks for: `say:TEXT`."""

from __future__ import annotations

import openai
import pytest

from burnish.generate.request import Sampling
from burnish.serve.models import Models, Served
from burnish.serve.serving import Limits, Serving
from burnish.serve.worker import Backend
from burnish.template import load_template
from tests.conftest import family_tokenizer
from tests.serving import ScriptedEngine, running


def asked(template, request):
    """The last user's words in a prompt, or the prompt where it has none."""
    text = template.decode(request.prompt, special=True)
    return text.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]


def says(template):
    """A script: the answer is what follows `say:`; `|` parts the copies, `…` leaves the stop token out."""

    def script(request, copy):
        parts = asked(template, request).partition("say:")[2].split("|")
        text = parts[copy % len(parts)]
        ids = template.tokenizer(text.removesuffix("…"), add_special_tokens=False)["input_ids"]
        return ids if text.endswith("…") else [*ids, template.terminator_id]

    return script


@pytest.fixture(scope="session")
def template():
    return load_template(family_tokenizer("qwen3"), "qwen3")


def make_serving(template, *, limits=None, defaults=None, **engine):
    """A `Serving` with one model, `tiny`, and an adapter, `tuned`."""
    scripted = ScriptedEngine(says(template), **engine)
    rows = len(template.tokenizer)
    models = Models([Served("tiny", template, rows), Served("tuned", template, rows, adapter="tuned", parent="tiny")])
    backend = Backend(scripted, "scripted", scripted.slots)
    sampling = defaults or Sampling(max_new_tokens=200, do_sample=True, temperature=0.95, top_p=0.7, top_k=50)
    return Serving(models, backend, defaults=sampling, limits=limits or Limits())


@pytest.fixture(scope="session")
def serving(template):
    return make_serving(template)


@pytest.fixture(scope="session")
def address(serving):
    with running(serving) as where:
        yield where


@pytest.fixture(scope="session")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20) as made:
        yield made


@pytest.fixture
def engine(serving):
    return serving.backend.engine
