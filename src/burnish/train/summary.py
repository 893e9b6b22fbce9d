"""What a run tells people before and after: the plan, the model, the data, the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def count(number: float) -> str:
    """A large number as people read it: 940, 12.3k, 134.5M, 7.6B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def model_line(model: Mapping[str, Any]) -> str:
    """`smollm2-135m-instruct · 134.5M parameters · LoRA trains 4.9M (3.5%) · float32 · 558 MB`"""
    share = 100 * model["trainable"] / max(model["parameters"], 1)
    parts = [
        str(model["name"]),
        f"{count(model['parameters'])} parameters",
        f"{model['method']} trains {count(model['trainable'])} ({share:.1f}%)",
        *([f"base in {model['quantization']}"] if model.get("quantization") else []),
        str(model["dtype"]),
        f"{model['footprint_mb']:.0f} MB of weights",
    ]
    return " · ".join(parts)


def data_lines(data: Mapping[str, Any]) -> list[str]:
    """Rows read and used, tokens, and every drop with its reason."""
    if data.get("streaming"):
        return ["the data is streamed: it is read and tokenized while the run goes on"]
    used, samples = data["rows_used"], data.get("samples", data["rows_used"])
    lines = [
        f"{used} of {data['rows_read']} rows · "
        + (f"{samples} samples · " if samples != used else "")
        + f"{count(data['tokens'])} tokens"
        + (f", {count(data['supervised_tokens'])} of them trained" if data["supervised_tokens"] else " of prompts")
    ]
    lines += [f"dropped {number}: {reason}" for reason, number in data["dropped"].items()]
    if data.get("shortened"):
        lines.append(f"truncated {data['shortened']} to cutoff_len")
    if data.get("split"):
        lines.append(f"{data['split']} more samples by splitting: each trained token stands where inference puts it")
    return lines


def stream_line(read: Mapping[str, Any]) -> str:
    """What was read of streamed data: `19,000 rows read from 2 lanes, in pass 3 and 4 over them · 12 dropped`"""
    begun = read.get("passes") or [1]
    each = "" if len(begun) == 1 else f" from {len(begun)} lanes, now in pass {', '.join(map(str, begun))} over them"
    dropped = sum(read["dropped"].values())
    return f"{read['rows_read']:,} rows read and prepared{each}" + (f" · {dropped:,} dropped" if dropped else "")


def reward_parts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mean reward of the first and the last logged rollouts: `reward 0.052 → 0.981`."""
    rewards = [row["reward"] for row in rows if "reward" in row]
    return [f"reward {rewards[0]:.3f} → {rewards[-1]:.3f}"] if rewards else []


def judged_parts(results: Mapping[str, float]) -> list[str]:
    """How well held-out answers are told apart, of the results of an evaluation: `right order 83%`, `margin 0.412`.

    In kto `right order` is of all pairs of a desirable and an undesirable answer; a tie is half of one.

    Of sampled answers to held-out prompts their mean reward: `held-out reward 0.913`.
    """
    parts = []
    if "eval_reward" in results:
        parts.append(f"held-out reward {results['eval_reward']:.3f}")
    if "eval_rewards/accuracies" in results:
        parts.append(f"right order {results['eval_rewards/accuracies']:.0%}")
    if "eval_rewards/margins" in results:
        parts.append(f"margin {results['eval_rewards/margins']:.3f}")
    return parts
