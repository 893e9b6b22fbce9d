"""LLaMA-Factory's side of `bench/against/preparing.py`, run by the Python that it is installed for.

usage: llamafactory_side.py MODEL FOLDER_WITH_DATASET_INFO WORKERS OUT.json
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

model, folder, workers, out = sys.argv[1:]


def main():
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    with tempfile.TemporaryDirectory() as output:
        job = {"stage": "sft", "do_train": True, "finetuning_type": "lora", "model_name_or_path": model}
        job |= {"dataset": "rows", "dataset_dir": folder, "template": "chatml", "cutoff_len": 2048, "use_cpu": True}
        job |= {"overwrite_cache": True, "preprocessing_num_workers": int(workers), "output_dir": output, "bf16": False}
        model_args, data_args, training_args, _, _ = get_train_args(job)
        module = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
        started = time.perf_counter()
        data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
        seconds = time.perf_counter() - started
        tokens = sum(len(ids) for ids in data["input_ids"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    Path(out).write_text(json.dumps({"seconds": seconds, "rows": len(data), "tokens": tokens, "peak_mb": peak}))


main()
