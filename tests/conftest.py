"""Shared pieces of the tests: a tiny tokenizer and tiny models built from configs, nothing downloaded."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from burnish import log
from tests import machines

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("BURNISH_SHARED") or Path(__file__).resolve().parents[2] / "shared")
"""Optional data beside the checkout; BURNISH_SHARED names it where it lies elsewhere."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos="<|im_start|>", eos="<|im_end|>"):
    """A byte-level tokenizer without merges: every byte is a token, plus the special ones."""
    from burnish.template.standin import byte_tokenizer

    tokenizer = byte_tokenizer(special, bos, eos)
    tokenizer.chat_template = CHATML
    return tokenizer


@lru_cache(maxsize=64)
def family_tokenizer(name):
    """A byte-level tokenizer with the control tokens of a shipped template; the plain one for `tokenizer`."""
    from burnish.template import load_family
    from burnish.template.standin import stand_in

    return build_tokenizer() if name in (None, "tokenizer") else stand_in(load_family(name))


def build_model(**changes):
    """A Llama of two layers with grouped-query attention and tied embeddings, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{
            "vocab_size": 259,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            **changes,
        }
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


@pytest.fixture(autouse=True)
def loud():
    """What a command silences speaks again in the next test."""
    yield
    log.set_quiet(False)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def tiny_model():
    return build_model()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A model folder that the whole command line can load: config, safetensors, tokenizer, chat template."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def chat_file(tmp_path):
    """Twelve short conversations of unequal length in the OpenAI shape."""
    import json

    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say the number {number} {'please ' * (number % 4)}"},
                {"role": "assistant", "content": f"{number} " * (1 + number % 5)},
            ]
        }
        for number in range(12)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def real_model():
    """The folder of SmolLM2-135M-Instruct, where the cache has it already."""
    from burnish.model.default import default_model_folder, is_fetched

    if not is_fetched():
        pytest.skip("the default model is not in the cache; `make quickstart` fetches it")
    return default_model_folder()


def pytest_configure(config):
    """Keep what tests cache apart from the user's; the default model is looked for where it was fetched."""
    from burnish.cache import cache_folder

    models = cache_folder() / "models"
    cache = Path(tempfile.mkdtemp(prefix="burnish-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    if models.is_dir():
        (cache / "models").symlink_to(models)
    native = cache_folder() / "native"  # named by their content: what is there need not be compiled again
    if native.is_dir():
        shutil.copytree(native, cache / "native")
    os.environ["BURNISH_CACHE"] = str(cache)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; tests press Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.fsync = lambda _: None  # no test cuts the power, and disks of CI take their time
    machines.without_bf16()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Two processes at least; each takes 1.5 GB at most, so eight are enough."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(2, cores), 8)


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/rendered anew")
    parser.addoption("--extended", action="store_true", help="also run the tests that take many minutes")
    parser.addoption("--kill-seed", default="", help="the seed of random kills; a failed test prints its own")
    parser.addoption("--kill-every", type=int, default=1, help="kill at every n-th change of a file")


def pytest_collection_modifyitems(config, items):
    """Tests that take long are left out, unless they are asked for."""
    if config.getoption("--extended"):
        return
    left_out = [item for item in items if "extended" in item.keywords]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "extended" not in item.keywords]
