"""Small models with adapters that change what they answer, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from burnish.model.adapter import attach_lora
from burnish.model.load import load_model
from burnish.model.save import save_tokenizer, save_weights
from burnish.model.source import find_model
from tests.conftest import CHATML, build_model, build_tokenizer


def base_folder(folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A tiny Llama with large weights, so that differences show, and its tokenizer."""
    build_model(**{"initializer_range": 0.2, **changes}).to(dtype).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def adapter_folder(base: Path, folder: Path, *, seed: int = 5, settings: dict[str, Any] | None = None, **lora: Any):
    """An adapter of random numbers on a base, as a run folder holds it."""
    loaded = load_model(find_model(str(base)), dtype=torch.float32)
    tuned, _ = attach_lora(loaded.model, **{"rank": 4, **lora})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_weights(tuned, folder, base_name=str(base))
    save_tokenizer(loaded.tokenizer, folder, CHATML, loaded.tokenizer.eos_token_id)
    if settings is not None:
        record = {"schema": 1, "status": "completed", "settings": settings, "model": {"name": str(base)}}
        (folder / "run.json").write_text(json.dumps(record))
    return folder
