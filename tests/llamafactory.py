"""The shape of LLaMA-Factory's example files: what all of them say, with places for what differs."""

from __future__ import annotations

from pathlib import Path

_LORA = """
### model
model_name_or_path: {model}
trust_remote_code: true

### method
stage: {stage}
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
{own}
### dataset
dataset: {dataset}
dataset_dir: {folder}
template: {template}
cutoff_len: 2048
max_samples: {count}
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: {output}
logging_steps: {logging}
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: {rate}
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
{rest}"""


def lora_file(
    model: Path,
    dataset: str,
    folder: Path,
    output: Path,
    *,
    stage: str = "sft",
    own: str = "",
    template: str = "default",
    count: int = 20,
    logging: int = 10,
    rate: str = "1.0e-4",
    rest: str = "",
) -> str:
    """The text of a LoRA example. `own`: lines of the stage; `rest`: lines at the end."""
    return _LORA.format(**locals())
