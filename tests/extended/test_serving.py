"""The server under requests that a machine makes up from its own OpenAPI description."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from burnish.template import load_template
from tests.conftest import family_tokenizer
from tests.serving import running
from tests.unit.serve.conftest import make_serving


@pytest.mark.extended
def test_schemathesis_finds_nothing(tmp_path):
    """Left out is one check: what a schema cannot say (the order of roles, names of models) is refused all the same."""
    template = load_template(family_tokenizer("qwen3"), "qwen3")
    with running(make_serving(template)) as address:
        program = Path(sys.executable).with_name("schemathesis")
        options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "-n", "15", "--seed", "1"]
        phases = ["--phases", "examples,coverage,fuzzing", "--no-color"]
        done = subprocess.run(
            [program, "run", f"{address}/openapi.json", *options, *phases],
            capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert json.load(urllib.request.urlopen(f"{address}/health")) == {"status": "ok"}
        text = urllib.request.urlopen(f"{address}/metrics").read().decode()
        assert 'route="/v1/chat/completions",method="POST",status="400"' in text
