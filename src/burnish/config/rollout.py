"""Settings of learning from the model's own answers: the stages ppo, grpo and rloo."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from burnish.config.fields import (
    CHOICE,
    Flag,
    Number,
    Numbers,
    Paths,
    RewardList,
    RoomSettings,
    Text,
    Whole,
    as_word,
    setting,
)


def _scale(value: Any) -> Any:
    """`scale_rewards` as a word; true and false are what older files of TRL say."""
    return {True: "group", False: "none"}[value] if isinstance(value, bool) else as_word(value)


LossType = Annotated[Literal["grpo", "dapo", "bnpo", "dr_grpo"], CHOICE, BeforeValidator(as_word)]
Scale = Annotated[Literal["group", "batch", "none"], CHOICE, BeforeValidator(_scale)]
Importance = Annotated[Literal["token", "sequence"], CHOICE, BeforeValidator(as_word)]
RewardModelType = Annotated[Literal["lora", "full", "api"], CHOICE, BeforeValidator(as_word)]
VllmMode = Annotated[Literal["colocate"], CHOICE, BeforeValidator(as_word)]


class RolloutSettings(RoomSettings):
    """How answers are sampled, judged and learnt from."""

    reward_funcs: RewardList = setting(
        (), "What scores the answers: names, module:function, file.py:function, or mappings with name and parameters."
    )
    reward_weights: Numbers = setting(
        (), "Weight of each reward in the sum.", derived="the weight of each mapping, else 1"
    )
    reward_timeout: Number = setting(60.0, "Seconds that each reward function has for a batch of answers.", gt=0)
    reward_model: Text | None = setting(
        None, "What scores the answers: the folder of a run of stage rm, or with reward_model_type: api a URL."
    )
    reward_model_type: RewardModelType = setting(
        "lora", "What reward_model is: lora or full, a run of stage rm; api, the URL of a scoring service."
    )
    reward_model_adapters: Paths = setting((), "Adapters that are merged into reward_model, in this order.")
    num_generations: Whole = setting(
        8, "Answers to each prompt in grpo and rloo, which are compared with one another.", ge=2
    )
    num_generations_eval: Whole = setting(1, "Answers to each held-out prompt when ppo, grpo and rloo evaluate.", ge=1)
    generation_batch_size: Whole | None = setting(
        None,
        "Answers that grpo and rloo sample at a time, over all processes, in multiples of a step's.",
        derived="those of one optimizer step",
        ge=1,
    )
    num_iterations: Whole = setting(1, "How often grpo and rloo go over the answers of a rollout.", ge=1)
    beta: Number | None = setting(
        None,
        "Weight of the KL divergence from the reference: in the loss of grpo, in the rewards of rloo and ppo.",
        derived="0 for grpo, 0.05 for rloo, 0.2 for ppo, which then adapts it",
        ge=0,
    )
    epsilon: Number = setting(0.2, "How far the probability of a token may move before the loss is clipped.", gt=0)
    epsilon_high: Number | None = setting(None, "The same upwards, in grpo and rloo.", derived="epsilon", gt=0)
    delta: Number | None = setting(
        None, "A bound above 1 + epsilon on the ratio of probabilities, also for bad answers; grpo only.", gt=1
    )
    loss_type: LossType = setting(
        "dapo",
        "What grpo averages over: grpo, each answer, then all; dapo or bnpo, all tokens; dr_grpo, a constant length.",
    )
    scale_rewards: Scale = setting(
        "group", "What grpo divides advantages by: the deviation of the group, of the batch, or none (Dr. GRPO)."
    )
    importance_sampling_level: Importance = setting(
        "token", "Whether grpo clips the ratio of each token, or of the whole sequence (GSPO)."
    )
    normalize_advantages: Flag = setting(False, "Scale the advantages of a rollout to mean 0 and deviation 1 in rloo.")
    dynamic_sample: Flag = setting(
        False, "Drop groups whose rewards are all equal and sample other prompts in their place (DAPO); grpo and rloo."
    )
    max_resample_times: Whole = setting(3, "Most further rounds of sampling that dynamic_sample makes.", ge=1)
    mask_truncated_completions: Flag = setting(
        False, "Leave answers out of the loss that reached max_new_tokens without a stop token."
    )
    ppo_buffer_size: Whole = setting(
        1, "Optimizer steps of ppo whose answers are sampled together; each is still trained on apart.", ge=1
    )
    ppo_epochs: Whole = setting(4, "How often ppo goes over the answers of a rollout.", ge=1)
    ppo_score_norm: Flag = setting(False, "Scale the scores of ppo by their running mean and deviation.")
    ppo_target: Number | None = setting(
        6.0, "The KL, in nats an answer, that ppo adapts beta to; null leaves beta as it is.", gt=0
    )
    ppo_whiten_rewards: Flag = setting(False, "Scale ppo's rewards of tokens to unit variance before the advantages.")
    vf_coef: Number = setting(0.1, "Weight of the value head's loss in ppo.", ge=0)
    cliprange_value: Number = setting(0.2, "How far ppo's value head may move from what it said at the rollout.", gt=0)
    gamma: Number = setting(1.0, "Discount of later rewards in ppo.", ge=0, le=1)
    lam: Number = setting(0.95, "Lambda of ppo's advantages: 1 trusts rewards, 0 the value head.", ge=0, le=1)
    use_vllm: Flag = setting(False, "Let vLLM sample the answers of ppo, grpo and rloo; it needs a GPU and its extra.")
    vllm_mode: VllmMode = setting("colocate", "Where vLLM runs: colocate, in the training process and on its device.")
    vllm_gpu_memory_utilization: Number = setting(
        0.3, "Share of the GPU's memory that vLLM may take for weights, keys and values.", gt=0, le=1
    )
    log_completions: Flag = setting(True, "Write some of the sampled answers with their rewards to completions.md.")
    log_completions_steps: Whole = setting(10, "Optimizer steps between two entries of completions.md.", ge=1)
    num_completions_to_print: Whole = setting(4, "Answers in one entry of completions.md.", ge=1)
