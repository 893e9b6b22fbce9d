"""Two tasks whose best answer is known, learnt from rewards by ppo, grpo and rloo on a tiny model.

    python bench/reinforcement.py [--tasks token,addition] [--stages grpo,rloo,ppo] [--out DIR] [--picture FILE]

`token`: say the letter a as often as there is room. `addition`: 10..19 + 10..19 as `#### n`; a short sft first teaches
the form on sums that are wrong by up to four, so that it begins at chance, one in nine. Prints the mean reward of the
first and the last rollouts and the minutes taken; draws the rewards of all runs.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from burnish.api import train
from burnish.runs.plots import GRID, TEXT, picture
from burnish.template.standin import byte_tokenizer

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'][0] + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>a' }}{% endif %}"
)
COLORS = {"grpo": "#2a6fdb", "rloo": "#d9822b", "ppo": "#2f9e44"}
COMMON: dict[str, Any] = {
    "finetuning_type": "full",
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "seed": 3,
}
TASKS: dict[str, dict[str, dict[str, Any]]] = {
    "token": {
        "all": {"max_new_tokens": 8, "per_device_train_batch_size": 64, "learning_rate": 1e-2},
        "grpo": {"max_steps": 40},
        "rloo": {"max_steps": 40, "beta": 0},
        "ppo": {"max_steps": 120, "learning_rate": 5e-3, "beta": 0.01},
    },
    "addition": {
        "all": {
            "max_new_tokens": 8,
            "per_device_train_batch_size": 128,
            "per_device_eval_batch_size": 128,
            "learning_rate": 5e-4,
            "beta": 0,
        },
        "grpo": {"max_steps": 800, "num_iterations": 2},
        "rloo": {"max_steps": 800, "num_iterations": 2},
        "ppo": {"max_steps": 400, "ppo_epochs": 2},
    },
}
REWARD = """
def letter_a(sample):
    return sample.completion.count("a") / len(sample.token_ids)
"""


def build_model(folder: Path, width: int) -> Path:
    """A Llama of two layers that reads bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_start|>", "<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """Questions and answers as messages."""
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(task: str, folder: Path) -> dict[str, Any]:
    """The model that a task starts from, its prompts and its reward, as settings."""
    folder.mkdir(parents=True, exist_ok=True)
    if task == "token":
        model = build_model(folder / "model", 32)
        (folder / "reward.py").write_text(REWARD, encoding="utf-8")
        data = write(folder / "prompts.jsonl", [(f"Say {number}", str(number)) for number in range(8)])
        return {
            "model_name_or_path": str(model),
            "dataset": [str(data)],
            "reward_funcs": f"{folder}/reward.py:letter_a",
        }
    draw = random.Random(0)
    sums = [(f"{a}+{b}", f"#### {a + b}") for a in range(10, 20) for b in range(10, 20)]
    near = [(asked, f"#### {int(answer[5:]) + draw.randint(-4, 4)}") for asked, answer in sums * 16]
    form = write(folder / "form.jsonl", near)
    sft = {
        "model_name_or_path": str(build_model(folder / "untaught", 64)),
        "dataset": [str(form)],
        "output_dir": str(folder / "model"),
        "num_train_epochs": 12,
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "overwrite_output_dir": True,
        "plot_loss": False,
    }
    train({**{key: value for key, value in COMMON.items() if key not in ("temperature", "top_p", "top_k")}, **sft})
    data = write(folder / "prompts.jsonl", sums)
    return {"model_name_or_path": str(folder / "model"), "dataset": [str(data)], "reward_funcs": "math_equal"}


def main() -> None:
    """Run what was asked for, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="token,addition")
    parser.add_argument("--stages", default="grpo,rloo,ppo")
    parser.add_argument("--out", default="", help="where runs are kept; a temporary folder without it")
    parser.add_argument("--picture", default="reinforcement.png")
    asked = parser.parse_args()
    out = Path(asked.out or tempfile.mkdtemp(prefix="reinforcement-"))
    tasks, stages = asked.tasks.split(","), asked.stages.split(",")
    lines, curves = [], {}
    for task in tasks:
        start = prepare(task, out / task)
        for stage in stages:
            own = {**TASKS[task]["all"], **TASKS[task][stage]}
            folder = out / task / stage
            began = time.process_time()
            train({**COMMON, **start, **own, "stage": stage, "output_dir": str(folder), "overwrite_output_dir": True})
            minutes = (time.process_time() - began) / 60
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            rewards = [row["reward"] for row in rows]
            curves[task, stage] = [(row["step"], row["reward"]) for row in rows]
            last = rewards[-8:]
            reached = next((f"step {step}" for step, reward in curves[task, stage] if reward > 0.9), "no step")
            lines.append(
                f"{task:9} {stage:5} first {rewards[0]:.3f}  last {sum(last) / len(last):.3f}  "
                f"above 0.9 after {reached}, {len(rows)} steps in {minutes:.1f} CPU minutes"
            )
            print(lines[-1], flush=True)
    print("\n".join(["", *lines]))
    with picture(Path(asked.picture), (4.6 * len(tasks), 3.6)) as figure:
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            for stage in stages:
                steps, values = zip(*curves[task, stage], strict=True)
                axes.plot(steps, values, color=COLORS[stage], linewidth=1.3, label=stage)
            axes.set_title(task, loc="left", fontsize=11, color=TEXT)
            axes.set_xlabel("optimizer step", color=TEXT)
            axes.set_ylim(-0.02, 1.02)
            axes.grid(color=GRID, linewidth=0.7)
            axes.legend(frameon=False, fontsize=9)
        figure.axes[0].set_ylabel("mean reward of a rollout", color=TEXT)


if __name__ == "__main__":
    main()
