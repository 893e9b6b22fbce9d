"""Merged weights as a folder that transformers, vLLM and others load by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish.errors import ModelError
from burnish.export.generation import set_generation
from burnish.export.verify import Trial
from burnish.model.load import Loaded
from burnish.model.quiet import quiet_transformers
from burnish.model.reward import HEAD_FILE
from burnish.model.save import save_tokenizer, save_weights
from burnish.template import ChatTemplate

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Mean KL divergence from the run, in nats, above which merged weights are refused: what rounding them may cost."""


def write_model(
    loaded: Loaded,
    template: ChatTemplate | None,
    folder: Path,
    *,
    shard_gb: float,
    sampling: Mapping[str, Any],
    reward_head: Path | None,
) -> None:
    """Write weights, config, generation settings and tokenizer, all as trained.

    Args:
        shard_gb: most of one file of weights, in GB (10^9 bytes).
        sampling: how tokens are drawn, where that is asked for.
        reward_head: the folder with the head of a reward model, which goes along.
    """
    set_generation(loaded.model, template, sampling)
    save_weights(loaded.model, folder, shard_gb=shard_gb)
    if template is None:
        save_tokenizer(loaded.tokenizer, folder, loaded.tokenizer.chat_template, loaded.tokenizer.eos_token_id)
    else:
        save_tokenizer(loaded.tokenizer, folder, template.saved_source, template.terminator_id)
    if reward_head is not None:
        shutil.copyfile(reward_head / HEAD_FILE, folder / HEAD_FILE)


def read_back(
    folder: Path, trial: Trial, stops: list[int], *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> list[Tensor]:
    """Load a written folder with transformers alone; its logits on the conversations of the trial.

    Raises:
        ModelError: it cannot be loaded, renders other ids, or stops at other tokens.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"what was written cannot be loaded: {str(error).strip().splitlines()[0][:300]}",
            at=str(folder),
            fix="nothing was exported; please report this with the model's name",
        ) from error
    trial.require_same_ids(tokenizer)
    found = model.generation_config.eos_token_id
    if stops and sorted(found if isinstance(found, list) else [found]) != sorted(stops):
        raise ModelError(
            f"what was written stops at {found} and not at {stops}",
            at="generation_config.json",
            fix="nothing was exported; please report this with the model's name",
        )
    torch.nn.Module.to(model, device)
    return trial.logits(model.eval())
