"""Rules over the settings of ppo, grpo and rloo; `rules.py` and `remarks.py` put them behind their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from burnish.config.draft import Change, Draft, Finding

ROLLOUT = ("ppo", "grpo", "rloo")
"""Stages that learn from answers of their own."""
GROUPS = ("grpo", "rloo")
"""Those that compare several answers to a prompt."""
_BETA = {"grpo": 0.0, "rloo": 0.05, "ppo": 0.2}
_WHOLE_DISTRIBUTION = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}

USED_BY: dict[str, tuple[str, ...]] = {
    "reward_funcs": ROLLOUT,
    "reward_weights": ROLLOUT,
    "reward_timeout": ROLLOUT,
    "reward_model": ROLLOUT,
    "reward_model_type": ROLLOUT,
    "reward_model_adapters": ROLLOUT,
    "num_generations": GROUPS,
    "num_generations_eval": ROLLOUT,
    "generation_batch_size": GROUPS,
    "num_iterations": GROUPS,
    "beta": ROLLOUT,
    "epsilon": ROLLOUT,
    "epsilon_high": GROUPS,
    "delta": ("grpo",),
    "loss_type": ("grpo",),
    "scale_rewards": ("grpo",),
    "importance_sampling_level": ("grpo",),
    "normalize_advantages": ("rloo",),
    "dynamic_sample": GROUPS,
    "max_resample_times": GROUPS,
    "mask_truncated_completions": ROLLOUT,
    "ppo_buffer_size": ("ppo",),
    "ppo_epochs": ("ppo",),
    "ppo_score_norm": ("ppo",),
    "ppo_target": ("ppo",),
    "ppo_whiten_rewards": ("ppo",),
    "vf_coef": ("ppo",),
    "cliprange_value": ("ppo",),
    "gamma": ("ppo",),
    "lam": ("ppo",),
    "use_vllm": ROLLOUT,
    "vllm_mode": ROLLOUT,
    "vllm_gpu_memory_utilization": ROLLOUT,
    "log_completions": ROLLOUT,
    "log_completions_steps": ROLLOUT,
    "num_completions_to_print": ROLLOUT,
}
"""Setting → the stages that read it."""


def one_weight_a_reward(draft: Draft) -> Iterator[Finding]:
    weights, rewards = draft["reward_weights"], draft["reward_funcs"]
    if not weights:
        return
    if len(weights) != len(rewards):
        what = f"there are {len(rewards)} reward_funcs and {len(weights)} reward_weights"
        yield Finding(("reward_weights", "reward_funcs"), what, "write one weight a reward, in the same order")
    elif any(not isinstance(reward, str) and "weight" in reward for reward in rewards):
        what = "a reward has a weight of its own, and reward_weights are set"
        yield Finding(("reward_weights", "reward_funcs"), what, "keep one of them")


def something_judges(draft: Draft) -> Iterator[Finding]:
    if draft["stage"] in ROLLOUT and not draft["reward_funcs"] and not draft["reward_model"]:
        what = f"stage: {draft['stage']} needs something that judges its answers"
        fix = "name functions (reward_funcs: [math_equal]) or the run of a reward model (reward_model: runs/rm)"
        yield Finding(("reward_funcs", "reward_model", "stage"), what, fix)


def rollouts_draw_at_random(draft: Draft) -> Iterator[Finding]:
    greedy = "do_sample" in draft.given and not draft["do_sample"]
    if draft["stage"] in ROLLOUT and (greedy or draft["temperature"] == 0):
        what = f"stage: {draft['stage']} learns from answers that differ, and the likeliest one is always the same"
        yield Finding(("do_sample", "temperature", "stage"), what, "leave do_sample out and set temperature above 0")


def delta_lies_above_the_clip(draft: Draft) -> Iterator[Finding]:
    high = 1 + (draft["epsilon_high"] or draft["epsilon"])
    if draft["stage"] == "grpo" and draft["delta"] is not None and draft["delta"] <= high:
        what = f"delta: {draft['delta']:g} is not above 1 + epsilon_high, {high:g}"
        yield Finding(("delta", "epsilon_high", "epsilon"), what, "raise delta, or leave it out")


def rollouts_are_judged_by_rewards(draft: Draft) -> Iterator[Finding]:
    metric = draft["metric_for_best_model"]
    if draft["stage"] in ROLLOUT and "metric_for_best_model" in draft.given and metric.endswith("loss"):
        what = f"stage: {draft['stage']} has no {metric} on held-out prompts"
        fix = "leave it out for eval_reward, or name a part of it such as rewards/exact_match"
        yield Finding(("metric_for_best_model", "stage"), what, fix)


def vllm_gets_whole_weights(draft: Draft) -> Iterator[Finding]:
    if draft["stage"] in ROLLOUT and draft["use_vllm"] and draft["quantization_bit"]:
        what = "use_vllm hands whole weights to vLLM, and quantization_bit holds them in fewer bits"
        yield Finding(("use_vllm", "quantization_bit"), what, "keep one of them")


def reward_adapters_need_a_model(draft: Draft) -> Iterator[Finding]:
    if draft["reward_model_adapters"] and (not draft["reward_model"] or draft["reward_model_type"] == "api"):
        what = "reward_model_adapters needs reward_model, the model that they are put on"
        yield Finding(("reward_model_adapters", "reward_model"), what, "set reward_model, or leave them out")


def urls_are_scoring_services(draft: Draft) -> Iterator[Finding]:
    named = str(draft["reward_model"] or "")
    if named.startswith(("http://", "https://")) and draft["reward_model_type"] != "api":
        what = f"reward_model: {named} is a URL, and reward_model_type: {draft['reward_model_type']} wants a run"
        yield Finding(("reward_model", "reward_model_type"), what, "set reward_model_type: api")


def some_kl_weight(draft: Draft) -> Iterator[Change]:
    if draft["stage"] in ROLLOUT and draft["beta"] is None:
        yield Change("beta", _BETA[draft["stage"]], "")


def groups_draw_from_the_whole(draft: Draft) -> Iterator[Change]:
    """What cuts the tail off makes the samples those of another policy than the one that learns."""
    if draft["stage"] in GROUPS:
        for key, value in _WHOLE_DISTRIBUTION.items():
            if key not in draft.given:
                yield Change(key, value, "")


def rewards_tell_the_best(draft: Draft) -> Iterator[Change]:
    if draft["stage"] in ROLLOUT and "metric_for_best_model" not in draft.given:
        yield Change("metric_for_best_model", "eval_reward", "")
        if "greater_is_better" not in draft.given:
            yield Change("greater_is_better", True, "")


# Remarks.


def cut_distributions_bias(draft: Draft) -> Iterator[str]:
    cut = [key for key in ("top_p", "top_k") if key in draft.given and draft[key] != _WHOLE_DISTRIBUTION[key]]
    if draft["stage"] in GROUPS and cut:
        yield f"{' and '.join(cut)}: answers are drawn from a part of the policy only, which biases what is learnt"


def generation_words_of_prompts(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(("packing", "neat_packing", "group_by_length", "precompute_ref"))
    if draft["stage"] in ROLLOUT and idle:
        yield f"{', '.join(idle)}: no effect with stage: {draft['stage']}, whose answers are made on the way"


ROLLOUT_RULES: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    one_weight_a_reward,
    something_judges,
    rollouts_draw_at_random,
    delta_lies_above_the_clip,
    rollouts_are_judged_by_rewards,
    vllm_gets_whole_weights,
    reward_adapters_need_a_model,
    urls_are_scoring_services,
)
ROLLOUT_ADJUSTMENTS: tuple[Callable[[Draft], Iterator[Change]], ...] = (
    some_kl_weight,
    groups_draw_from_the_whole,
    rewards_tell_the_best,
)
ROLLOUT_REMARKS: tuple[Callable[[Draft], Iterator[str]], ...] = (
    cut_distributions_bias,
    generation_words_of_prompts,
)
