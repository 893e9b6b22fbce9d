"""One of several processes that a launcher starts: it trains once for each settings in a file, one after the other.

`python -m tests.distributed_worker JOBS.json`: a list of settings. Each rank notes in `OUTPUT.seen-RANK.json` what its
run was. Starting Python and torch takes longer than the runs, so one launch does them all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as distributed

from burnish.config import load_settings
from burnish.train.loop import Loop
from burnish.train.processes import end_processes
from burnish.train.run import run_training

_plain_run = Loop.run
seen: dict = {}


def _run_and_see(self, stop):
    """The loop's own run; notes before it how the model is wrapped."""
    trained = [p for p in self.module.parameters() if p.requires_grad]
    local = [getattr(p, "_local_tensor", p) for p in trained]
    seen.update(
        world=distributed.get_world_size() if distributed.is_initialized() else 1,
        module=type(self.module).__name__,
        engine=type(self.accelerator).__name__,
        zero=getattr(self.module, "zero_optimization_stage", lambda: None)(),
        sharded=type(trained[0]).__name__,
        here=sum(p.numel() for p in local),
        whole=sum(getattr(p, "ds_numel", p.numel()) for p in trained),
    )
    _plain_run(self, stop)


def main():
    """Run all jobs."""
    Loop.run = _run_and_see
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run_training(load_settings(job))
        note = Path(f"{job['output_dir']}.seen-{os.environ.get('RANK', '0')}.json")
        note.write_text(json.dumps(seen))
    end_processes()


if __name__ == "__main__":
    main()
