"""A policy of one token with a known best: each policy-gradient method finds it from rewards alone."""

import pytest
import torch

from burnish.losses.advantages import gae, group_advantages, rloo_advantages, token_rewards, whiten
from burnish.losses.policy import grpo_loss, ppo_policy_loss, ppo_value_loss, rloo_loss

BEST, VOCABULARY, COMPLETIONS = 3, 6, 32


def ppo(logprobs, rewards, old, reference, value):
    mask = torch.ones(COMPLETIONS, 1, dtype=torch.bool)
    values = value.expand(COMPLETIONS, 1)
    found = gae(token_rewards(rewards, old[:, None], reference[:, None], mask, kl_coef=0.01)[0], values, mask)
    policy = ppo_policy_loss(logprobs[:, None], old[:, None], whiten(found.advantages, mask), mask)
    critic = ppo_value_loss(values, values.detach(), found.returns, mask)
    return (policy.total + 0.1 * critic.total) / policy.count


def grpo(logprobs, rewards, old, reference, value):
    advantages = group_advantages(rewards, torch.arange(COMPLETIONS) // 8, 4).advantages
    loss = grpo_loss(logprobs, old, advantages, torch.arange(COMPLETIONS), ref_logprobs=reference, kl_coef=0.01)
    return loss.total / loss.count


def rloo(logprobs, rewards, old, reference, value):
    rewards = rewards - 0.01 * (old - reference)
    loss = rloo_loss(logprobs, old, rloo_advantages(rewards, torch.arange(COMPLETIONS) // 8, 4).advantages)
    return loss.total / loss.count


@pytest.mark.parametrize("method", [ppo, grpo, rloo])
def test_it_finds_the_best_token(method):
    torch.manual_seed(0)
    logits, value = torch.zeros(VOCABULARY, requires_grad=True), torch.zeros(1, requires_grad=True)
    for _ in range(60):
        tokens = torch.multinomial(logits.detach().softmax(0), COMPLETIONS, replacement=True)
        rewards, reference = (tokens == BEST).float(), torch.full((COMPLETIONS,), 1 / VOCABULARY).log()
        old = logits.detach().log_softmax(0)[tokens]
        for _ in range(2):
            loss = method(logits.log_softmax(0)[tokens], rewards, old, reference, value)
            slopes = torch.autograd.grad(loss, (logits, value), allow_unused=True)
            for parameter, slope in zip((logits, value), slopes, strict=True):
                parameter.data -= 0 if slope is None else 0.5 * slope
    assert logits.softmax(0)[BEST] > 0.9  # from 1/6
