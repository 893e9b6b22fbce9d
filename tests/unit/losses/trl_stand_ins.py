"""TRL's own loss code, called with stand-ins for model and trainer: the oracle of the tests beside this file.

TRL 1.16 computes its losses inside `_compute_loss(self, model, inputs)`. A plain object with the attributes that the
method reads takes the place of `self`, and the "model" hands out the log-probabilities of the test.
"""

from collections import defaultdict
from types import SimpleNamespace

import torch


class Accelerator:
    device = torch.device("cpu")
    num_processes = 1

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction="sum"):
        return value


def trainer(**attributes):
    """Evaluation mode: TRL then divides by nothing but the batch itself."""
    metrics = {"eval": defaultdict(list), "train": defaultdict(list)}
    return SimpleNamespace(
        accelerator=Accelerator(),
        model=SimpleNamespace(training=False),
        aux_loss_enabled=False,
        _metrics=metrics,
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )


def padded(flat, lengths):
    """Flat [N] values of sequences of these lengths as right-padded [S, T], with the mask."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return torch.zeros(mask.shape).masked_scatter(mask, flat), mask


def token_model(per_token):
    """A model whose output is these log-probabilities [S, T]."""
    outputs = SimpleNamespace(
        log_probs=per_token,
        entropy=torch.zeros_like(per_token),
        mean_logits=torch.zeros_like(per_token),
        is_top1=torch.zeros_like(per_token, dtype=torch.bool),
    )
    return lambda **_: outputs


def completion_inputs(mask):
    """Inputs whose first position is the prompt and whose others are the completion."""
    completion = torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], dim=1)
    return {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
    }


def dpo(loss_type, chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """DPOTrainer's loss; chosen and rejected are (flat token log-probabilities, lengths). Returns loss and metrics."""
    from trl import DPOTrainer

    lengths = [*chosen[1], *rejected[1]]
    per_token, mask = padded(torch.cat([chosen[0], rejected[0]]), lengths)
    stand_in = trainer(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
    )
    inputs = completion_inputs(mask) | {"ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    loss = DPOTrainer._compute_loss(stand_in, token_model(per_token), inputs, False)
    return loss, {name: values[-1] for name, values in stand_in._metrics["eval"].items()}


def kto(policy, reference, labels, kl_policy, kl_reference, beta, desirable_weight, undesirable_weight):
    from trl import KTOTrainer

    stand_in = trainer(
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        _compute_kl_logps=lambda model, batch: kl_policy,
    )
    mask = torch.ones(len(policy), 1, dtype=torch.bool)
    inputs = completion_inputs(mask) | {"label": labels, "ref_logps": reference, "ref_KL_logps": kl_reference}
    loss = KTOTrainer._compute_loss(stand_in, token_model(policy[:, None]), inputs, False)
    return loss, {name: values[-1] for name, values in stand_in._metrics["eval"].items()}


def reward(chosen, rejected, margins, centring):
    from trl import RewardTrainer

    stand_in = trainer(args=SimpleNamespace(center_rewards_coefficient=centring or None))
    outputs = SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])
    inputs = {} if margins is None else {"margin": margins}
    loss = RewardTrainer.compute_loss(stand_in, lambda **_: outputs, inputs)
    return loss, {name: values[-1] for name, values in stand_in._metrics["eval"].items()}


def cpo(loss_type, chosen, rejected, beta, gamma):
    """CPOTrainer's loss for each pair."""
    from trl.experimental.cpo import CPOTrainer

    stand_in = trainer(alpha=0.0, loss_type=loss_type, beta=beta, simpo_gamma=gamma, label_smoothing=0.0)
    return CPOTrainer.cpo_loss(stand_in, chosen, rejected)[0]


def orpo(chosen, rejected, beta):
    """beta times the log of ORPO's odds-ratio sigmoid for each pair (TRL subtracts it from the SFT loss)."""
    from trl.experimental.orpo import ORPOTrainer

    return ORPOTrainer.odds_ratio_loss(trainer(beta=beta), chosen, rejected)[0]


def grpo(logprobs, old, advantages, lengths, tool_mask, *, loss_type, importance, low, high, delta, ref, beta, longest):
    """GRPOTrainer's loss over flat tokens."""
    from trl import GRPOTrainer

    per_token, mask = padded(logprobs, lengths)
    stand_in = trainer(
        _get_per_token_logps_and_entropies=lambda *_, **__: (per_token, torch.zeros_like(per_token), None),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=importance,
        beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=delta, steps_per_generation=1),
        loss_type=loss_type,
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=False,
        max_completion_length=longest,
        _entropy_bonus_enabled=False,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(lengths), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(lengths), 1, dtype=torch.long),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask.long(),
        "tool_mask": padded(tool_mask.float(), lengths)[0].long(),
        "advantages": advantages,
        "old_per_token_logps": padded(old, lengths)[0],
        "ref_per_token_logps": padded(ref, lengths)[0],
        "num_items_in_batch": tool_mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(stand_in, None, inputs)
    return loss, {name: values[-1] for name, values in stand_in._metrics["eval"].items()}


def rloo(logprobs, old, advantages, low, high):
    """RLOOTrainer's loss over [S] completions, each one token long (it sums a completion's tokens first)."""
    from trl import RLOOTrainer

    stand_in = trainer(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs[:, None], torch.zeros(len(logprobs), 1), None),
        epsilon_low=low,
        epsilon_high=high,
    )
    ones = torch.ones(len(logprobs), 1, dtype=torch.long)
    inputs = dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"), ones)
    loss = RLOOTrainer._compute_loss(stand_in, None, inputs | {"old_logps": old, "advantages": advantages})
    return loss, {name: values[-1] for name, values in stand_in._metrics["eval"].items()}
