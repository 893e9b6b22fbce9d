"""`burnish export` from the command line and from LLaMA-Factory's files."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.cli.export import Arguments, run_export
from burnish.errors import BurnishError, SettingsError
from burnish.generate.chat import load_chat_model
from tests.exports import adapter_folder, base_folder
from tests.runs import burnish
from tests.uploads import serve

MERGE = """
### model
model_name_or_path: {base}
adapter_name_or_path: {adapters}
template: chatml
trust_remote_code: true

### export
export_dir: {out}
export_size: 5
export_device: cpu  # choices: [cpu, auto]
export_legacy_format: false
"""


@pytest.fixture
def base(tmp_path):
    return base_folder(tmp_path / "base")


@pytest.fixture
def run(base, tmp_path):
    """A LoRA run, with the settings it was trained with."""
    return adapter_folder(base, tmp_path / "run", settings={"model_name_or_path": str(base), "stage": "sft"})


def greedy(model, ids, stops):
    out = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    return [token for token in out if token not in stops]


def test_the_command_exports_a_run(run, tmp_path):
    out = tmp_path / "out"
    done = burnish("export", str(run), "--to", str(out), "temperature=0.5")
    assert done.returncode == 0, done.stderr
    assert "checked after reading it back (in float32)" in done.stdout
    assert "100.00% of" in done.stdout
    modes = {file.suffix: file.stat().st_mode for file in out.iterdir()}
    assert modes[".safetensors"] == modes[".md"], "who may read the card may read the weights"
    chat = load_chat_model(str(run), use_cpu=True)
    ids = chat.template.prompt_ids(chat.template.complete(_conversation("Hello")))
    answer = chat.answer(_conversation("Hello").turns, max_new_tokens=12)
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert asked == ids
    assert chat.template.decode(greedy(plain, ids, chat.template.stop_ids)) == answer
    assert load_chat_model(str(out), use_cpu=True).answer(_conversation("Hello").turns, max_new_tokens=12) == answer


def test_an_export_is_uploaded_once_it_is_there(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    order = Arguments(to=str(out), push_to_hub="me/it", adapter_only=True, base_name="me/base")
    with serve(monkeypatch) as hub:
        with pytest.raises(BurnishError, match="does not take the model"):
            run_export(str(run), ["hf_hub_token=wrong"], order)
        assert not out.exists(), "access is tried before any work is done"
        run_export(str(run), [f"hf_hub_token={hub.token}"], order)
    assert hub.files == {file.name: file.read_bytes() for file in out.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= set(hub.files)


def _conversation(text):
    from burnish.data.records import Conversation, Turn

    return Conversation((Turn("user", text),))


def test_a_llamafactory_export_file(base, run, tmp_path):
    """Several adapters are merged in their order."""
    second = adapter_folder(base, tmp_path / "second", seed=8)
    out, file = tmp_path / "out", tmp_path / "merge.yaml"
    file.write_text(MERGE.format(base=base, adapters=f"{run},{second}", out=out))
    run_export(str(file), [], Arguments())
    report = json.loads((out / "burnish_export.json").read_text())
    assert report["merged"] == ["run", "second"]
    assert report["difference"]["kl"] < 1e-8
    file.write_text(file.read_text().replace("legacy_format: false", "legacy_format: true"))
    with pytest.raises(SettingsError, match="export_legacy_format"):
        run_export(str(file), [], Arguments(overwrite=True))


def test_a_training_file_means_its_run(base, run, tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: {base}\ndataset: x\nlearning_rate: 1e-3\noutput_dir: {run}\n")
    run_export(str(file), [], Arguments(to=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "burnish_export.json").read_text())["merged"] == ["run"]
    file.write_text(file.read_text().replace(str(run), str(tmp_path / "later")))
    with pytest.raises(BurnishError, match="this file's run is not there yet"):
        run_export(str(file), [], Arguments(to=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("words", "arguments", "message"),
    [
        ([], {}, "there is no folder to export to"),
        (["learning_rate=1"], {"to": "out"}, "'learning_rate' has no effect in an export"),
        (["quantization_bit=4"], {"to": "out"}, "never into quantized ones"),
        ([], {"to": "out", "format": "ggfu"}, "unknown format 'ggfu'"),
        ([], {"to": "out", "dtype": "bf16"}, "unknown number format 'bf16'"),
        ([], {"to": "out", "quantize": "q8_0"}, "--quantize has no effect without --format gguf"),
        ([], {"to": "out", "base_name": "a/b"}, "--base-name has no effect without --adapter-only"),
        ([], {"to": "out", "public": True}, "--public has no effect without --push-to-hub"),
        ([], {"to": "out", "adapter_only": True, "format": "gguf"}, "an adapter alone is written for PEFT"),
        (["adapter_name_or_path=nowhere"], {"to": "out"}, "there is no adapter 'nowhere'"),
    ],
)
def test_mistakes_are_named(base, tmp_path, monkeypatch, words, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BurnishError, match=message):
        run_export(str(base), words, Arguments(**arguments))
    assert not (tmp_path / "out").exists()
