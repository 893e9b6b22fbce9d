"""From settings to rollouts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from burnish import log
from burnish.batch.prompts import from_json
from burnish.batch.store import Selection
from burnish.config import Settings
from burnish.data.records import Prompt
from burnish.errors import BurnishError, DataError
from burnish.generate import Sampling
from burnish.generate.vllm import VllmSampler
from burnish.model.load import Loaded
from burnish.train.rollouts.asking import prompt_of, where
from burnish.train.rollouts.completions import COMPLETIONS, CompletionsFile
from burnish.train.rollouts.evaluating import HeldOut
from burnish.train.rollouts.methods import Method
from burnish.train.rollouts.phase import RolloutOptions, Rollouts
from burnish.train.rollouts.plan import RolloutPlan
from burnish.train.rollouts.prompts import StreamedPrompts
from burnish.train.rollouts.sample import Policy
from burnish.train.sets import data_seed
from burnish.train.whole import WholeCopy

if TYPE_CHECKING:
    from burnish.train.stages import RolloutParts

_SLOTS = 32
"""Answers that are sampled at a time, where the settings do not say."""


def build_rollouts(parts: RolloutParts, method: Method, *, units: int | None) -> Rollouts:
    """The rollouts of a stage; says how they are shaped.

    Args:
        units: what an answer counts for in the loss; None where its tokens do.
    Raises:
        BurnishError: the sizes do not fit, nothing judges the answers, or a prompt is longer than the model reads.
    """
    settings, chosen, training = parts.settings, parts.settings.rollout, parts.settings.training
    prompts = len(parts.prompts) if isinstance(parts.prompts, Selection) else 0
    plan = _plan(settings, prompts, parts.engine.num_processes, method)
    sampling = Sampling(
        max_new_tokens=settings.generating.max_new_tokens,
        do_sample=True,
        temperature=settings.generating.temperature,
        top_p=settings.generating.top_p,
        top_k=settings.generating.top_k,
        repetition_penalty=settings.generating.repetition_penalty,
    )
    _check_prompts(parts, sampling.max_new_tokens)
    slots = training.per_device_eval_batch_size if "per_device_eval_batch_size" in settings.given else _SLOTS
    copy = _copy(parts) if parts.engine.cuts_weights else None
    reference = parts.reference
    if copy and reference and reference.model is parts.loaded.model:
        reference = reference.on(copy.model)
    policy = Policy(
        *(copy.model if copy else parts.loaded.model, parts.template, parts.layout, sampling, parts.engine),
        *(slots, training.per_device_train_batch_size),
        _vllm(parts, slots) if chosen.use_vllm else None,
        copy,
    )
    options = RolloutOptions(
        units,
        keeps_old=plan.steps_a_rollout > 1 or method.asks_values,
        resample_times=chosen.max_resample_times if chosen.dynamic_sample and method.compares else 0,
        masks_truncated=chosen.mask_truncated_completions,
    )
    file = parts.folder / COMPLETIONS
    completions = CompletionsFile(file, chosen.log_completions_steps, chosen.num_completions_to_print)
    log.say(_shape(plan))
    held_out = None
    if parts.held_out:
        copies = chosen.num_generations_eval
        held_out = HeldOut(policy, parts.judge, parts.held_out, parts.engine, copies=copies, seed=data_seed(settings))
    return Rollouts(
        plan,
        parts.prompts,
        policy,
        parts.judge,
        method,
        options,
        reference,
        parts.engine,
        completions if chosen.log_completions else None,
        held_out,
    )


def _check_prompts(parts: RolloutParts, longest_answer: int) -> None:
    """Raise where prompts leave no room for an answer, or lack what a reward needs."""
    stored = [one for one in (parts.prompts, *parts.held_out.values()) if isinstance(one, Selection)]
    for prompts in stored:
        longest = int(np.argmax(prompts.lengths))
        tokens = int(prompts.lengths[longest])
        _check_window(parts.loaded, "a prompt has", tokens, where(prompts, longest), longest_answer)
    if isinstance(parts.prompts, StreamedPrompts):  # of which nobody knows how long they are
        longest = parts.settings.data.cutoff_len
        _check_window(parts.loaded, "a streamed prompt may have", longest, "cutoff_len", longest_answer)
        parts.judge.check_columns(_columns(map(from_json, parts.prompts.first_records())))
    for prompts in stored:
        parts.judge.check_columns(_columns(prompt_of(prompts, number) for number in range(len(prompts))))


def _columns(records: Iterable[Prompt]) -> set[str]:
    """What any of these prompts has beside its text."""
    return {key for record in records for key in record.reference}


def _copy(parts: RolloutParts) -> WholeCopy:
    """What samples where weights are cut into shards; says what memory it takes.

    Raises:
        BurnishError: the weights are quantized.
    """
    if parts.loaded.quantization:
        raise BurnishError(
            "quantized weights that are cut into shards cannot be put together to sample answers",
            at="quantization_bit",
            fix="train with DDP, or leave quantization_bit out",
        )
    found = WholeCopy(parts.loaded.model, parts.engine)
    log.say(f"answers are sampled from whole weights, gathered for each rollout: {found.megabytes:.0f} MB a process")
    return found


def _vllm(parts: RolloutParts, slots: int) -> VllmSampler:
    """vLLM over what the run starts from.

    Raises:
        BurnishError: it cannot hold this model, or there are several processes.
    """
    source, settings = parts.loaded.source, parts.settings
    model = settings.model
    why = None
    if source.gguf_file:
        why = "it is made from a .gguf file"
    elif parts.loaded.changes:
        why = "its base was changed (new tokens or positions), of which vLLM does not know"
    elif parts.engine.num_processes > 1:
        why = "there are several processes, and that was never tried"
    if why:
        raise BurnishError(f"vLLM cannot sample for this model: {why}", at="use_vllm", fix="leave use_vllm out")
    mixed = {"bf16": "bfloat16", "fp16": "float16"}.get(parts.engine.mixed_precision)
    sampler = VllmSampler(
        source,
        slots=slots,
        dtype=mixed or str(parts.loaded.model.dtype).removeprefix("torch."),
        share=settings.rollout.vllm_gpu_memory_utilization,
        trust_remote_code=model.trust_remote_code,
    )
    log.say("answers are sampled by vLLM, which gets the weights before each rollout")
    return sampler


def _plan(settings: Settings, prompts: int, ranks: int, method: Method) -> RolloutPlan:
    training, chosen = settings.training, settings.rollout
    rows, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    a_step = rows * accumulation * ranks
    copies, passes, answers = 1, chosen.ppo_epochs, a_step * chosen.ppo_buffer_size
    if method.compares:
        copies, passes = chosen.num_generations, chosen.num_iterations
        answers = chosen.generation_batch_size or math.lcm(a_step, copies)
        if answers % a_step or answers % copies:
            raise BurnishError(
                f"generation_batch_size: {answers} is no multiple of num_generations, {copies}, and of the {a_step} "
                "answers of an optimizer step",
                at="generation_batch_size",
                fix=f"use {math.lcm(a_step, copies)} or a multiple of it, or leave it out",
            )
    shuffle = not settings.tuning.disable_shuffling
    return RolloutPlan(prompts, copies, answers, passes, rows, accumulation, ranks, data_seed(settings), shuffle)


def _shape(plan: RolloutPlan) -> str:
    each = f"{plan.copies} answers to each of {plan.prompts_a_rollout} prompts" if plan.copies > 1 else ""
    each = each or f"an answer to each of {plan.prompts_a_rollout} prompts"
    steps = plan.steps_a_rollout
    return f"a rollout is {each}, learnt from in {steps} optimizer step{'s' * (steps > 1)}"


def _check_window(loaded: Loaded, what: str, tokens: int, at: str, longest_answer: int) -> None:
    """Refuse prompts of so many tokens where they leave no room for an answer; say where answers may be cut short."""
    config = loaded.model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None) or sys.maxsize
    if tokens >= window:
        raise DataError(
            f"{what} {tokens} tokens, and the model reads {window} with its answer",
            at=at,
            fix=f"set cutoff_len below {window - longest_answer}, or shorten the prompt",
        )
    if tokens + longest_answer > window:
        log.note(f"prompts have up to {tokens} tokens, so their answers end where the model's {window} are full")
