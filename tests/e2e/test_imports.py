"""A run imports what it uses, and nothing else that takes long."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.runs import settings

UNUSED = ("bitsandbytes", "pandas", "torch._inductor.compile_fx", "networkx", "matplotlib")


def test_a_lora_run_imports_nothing_that_it_does_not_use(tiny_folder, chat_file, tmp_path):
    values = settings(tiny_folder, chat_file, tmp_path / "run", max_steps=1)
    code = (
        "import json, sys; import burnish.api; burnish.api.train(json.loads(sys.argv[1]))\n"
        "print('LOADED', [m for m in sys.argv[2:] if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(values), *UNUSED], capture_output=True, text=True, check=False
    )
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
    assert "kernels-community" not in done.stdout + done.stderr
