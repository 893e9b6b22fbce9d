"""What is exported answers and renders as the run does (guarantees 11 and 12), or is not exported at all."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.api import load
from burnish.data.records import Conversation, Turn
from burnish.errors import ModelError, RunFolderError
from burnish.export import hf
from burnish.export.adapter import export_adapter
from burnish.export.gguf_job import export_gguf
from burnish.export.job import export_hf
from burnish.export.subject import Order, Wish
from burnish.generate.reward import load_reward_model
from burnish.model.load import load_model
from burnish.model.reward import attach_value_head, save_value_head
from burnish.model.source import find_model
from tests.exports import adapter_folder, base_folder
from tests.invariant.test_methods import trained_model
from tests.invariant.test_new_tokens import ADDED, point_file  # noqa: F401 - a fixture
from tests.runs import weights

IDS = torch.tensor([[5, 6, 200, 8, 77, 10, 40]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits.float()


def plain(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "alpha": 3},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head", "norm"], "use_dora": True},
    ],
    ids=["plain", "dora", "rslora", "embeddings", "head-dora"],
)
def test_merged_weights_are_pefts(tmp_path, tied, lora):
    base = base_folder(tmp_path / "base", tie_word_embeddings=tied)
    run = adapter_folder(base, tmp_path / "run", **lora)
    report = export_hf(Wish(str(run)), Order(str(tmp_path / "out")))
    theirs = AutoPeftModelForCausalLM.from_pretrained(run, dtype=torch.float32).merge_and_unload()
    torch.testing.assert_close(logits(plain(tmp_path / "out")), logits(theirs), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(theirs), logits(plain(base)), atol=0.1)
    assert report["difference"]["kl"] < 1e-9 < 0.001 < report["difference"]["effect"]
    assert report["difference"]["equal_argmax"] == 1.0
    assert ("lm_head.weight" in weights(tmp_path / "out")) is not tied


def test_sixteen_bit_weights_are_rounded_once(tmp_path):
    """W + sBA in float32, then bf16; two adapters are added before the rounding."""
    base = base_folder(tmp_path / "base", dtype=torch.bfloat16)
    first = adapter_folder(base, tmp_path / "first", seed=1)
    second = adapter_folder(base, tmp_path / "second", seed=2)
    export_hf(Wish(str(base), (str(first), str(second))), Order(str(tmp_path / "out")))
    wanted = plain(base)
    for adapter in (first, second):
        wanted = PeftModel.from_pretrained(wanted, adapter).merge_and_unload()
    written = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    for name, tensor in wanted.state_dict().items():
        if name in written:
            torch.testing.assert_close(written[name], tensor.bfloat16(), atol=0, rtol=0)
    # what chat holds in memory is the same to the bit
    source = find_model(str(first))
    chat = load_model(source, dtype=torch.bfloat16, merge=True).model.state_dict()
    export_hf(Wish(str(first)), Order(str(tmp_path / "one")))
    assert all(torch.equal(chat[name], tensor) for name, tensor in weights(tmp_path / "one").items())


@pytest.mark.parametrize("changes", [{}, {"finetuning_type": "full"}, {"pissa_init": True}, {"quantization_bit": 4}])
def test_a_trained_run_with_new_tokens(tiny_folder, point_file, tmp_path, changes):  # noqa: F811
    if "quantization_bit" in changes:
        pytest.importorskip("bitsandbytes")
    seen = logits(trained_model(tiny_folder, point_file, tmp_path / "run", learning_rate=2e-2, **ADDED, **changes))
    report = export_hf(Wish(str(tmp_path / "run")), Order(str(tmp_path / "out")))
    # a quantized run is merged onto the whole base, so that the rounding of its base is the difference
    near = {"atol": 0.3, "rtol": 0.0} if "quantization_bit" in changes else {"atol": 2e-5, "rtol": 2e-5}
    torch.testing.assert_close(logits(plain(tmp_path / "out")), seen, **near)
    assert ("over_training_base" in report) is ("quantization_bit" in changes)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids(["qux", "<point>"]) == [259, 260]
    assert load(str(tmp_path / "out"), use_cpu=True).chat("Go to <point> 3", max_new_tokens=4) is not None


def test_template_system_and_stops_go_along(tmp_path):
    base = base_folder(tmp_path / "base")
    run = adapter_folder(base, tmp_path / "run", settings={"default_system": "Be Bri.", "template": "chatml"})
    for file in run.glob("*token*"):
        file.unlink()  # then the template of the settings counts
    sampling = {"temperature": 0.3, "top_p": 0.9}
    export_hf(Wish(str(run)), Order(str(tmp_path / "out"), sampling=sampling))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "Hi"}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>system\nBe Bri.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 2
    assert {key: generation[key] for key in ("do_sample", *sampling)} == {"do_sample": True, **sampling}
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert {'PARAMETER stop "<|im_end|>"', "PARAMETER temperature 0.3", 'SYSTEM """Be Bri."""'} <= set(lines)
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in card + (tmp_path / "out" / "burnish_export.json").read_text()


def test_shards_are_of_the_size_that_is_asked_for(tmp_path):
    base = base_folder(tmp_path / "base")
    export_hf(Wish(str(base)), Order(str(tmp_path / "out"), shard_gb=5e-5))
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 1
    assert all(file.stat().st_size < 6e4 for file in files)
    torch.testing.assert_close(logits(plain(tmp_path / "out")), logits(plain(base)), atol=0, rtol=0)


def test_a_float16_export_of_a_float32_base(tmp_path):
    base = base_folder(tmp_path / "base")
    report = export_hf(Wish(str(base), dtype="float16"), Order(str(tmp_path / "out")))
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float16}
    assert 0 < report["difference"]["kl"] < 1e-4


def test_keys_without_a_place_are_refused(tmp_path):
    base = base_folder(tmp_path / "base")
    run = adapter_folder(base, tmp_path / "run")
    file = run / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="has no counterpart"):
        export_hf(Wish(str(run)), Order(str(tmp_path / "out")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_an_export_that_differs_leaves_nothing(tmp_path, monkeypatch):
    """A merge that lost the adapter is found out, and neither the folder nor anything beside it is left."""
    base = base_folder(tmp_path / "base")
    run = adapter_folder(base, tmp_path / "run")
    write = hf.write_model

    def forgetful(loaded, *rest, **options):
        loaded.model = plain(base)
        write(loaded, *rest, **options)

    monkeypatch.setattr("burnish.export.job.write_model", forgetful)
    with pytest.raises(ModelError, match="does not answer as the run does"):
        export_hf(Wish(str(run)), Order(str(tmp_path / "out")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_a_tokenizer_that_renders_differently_is_found_out(tmp_path, monkeypatch):
    base = base_folder(tmp_path / "base")
    save = hf.save_tokenizer
    monkeypatch.setattr(hf, "save_tokenizer", lambda t, f, source, stop: save(t, f, source.replace("\n", " "), stop))
    with pytest.raises(ModelError, match="renders a conversation differently"):
        export_hf(Wish(str(base)), Order(str(tmp_path / "out")))


def test_nothing_is_overwritten_unasked(tmp_path):
    base = base_folder(tmp_path / "base")
    out = tmp_path / "out"
    export_hf(Wish(str(base)), Order(str(out)))
    before = (out / "burnish_export.json").stat().st_mtime_ns
    with pytest.raises(RunFolderError, match="holds an earlier export"):
        export_hf(Wish(str(base)), Order(str(out)))
    export_hf(Wish(str(base)), Order(str(out), overwrite=True))
    assert (out / "burnish_export.json").stat().st_mtime_ns > before
    (out / "burnish_export.json").unlink()  # now these are somebody's files
    with pytest.raises(RunFolderError, match="holds no export of Burnish"):
        export_hf(Wish(str(base)), Order(str(out), overwrite=True))
    with pytest.raises(RunFolderError, match="write over what it reads"):
        export_hf(Wish(str(base)), Order(str(tmp_path), overwrite=True))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("burnish.export.target.free_bytes", lambda _: 1000)
    with monkey.context(), pytest.raises(RunFolderError, match="too little disk space"):
        export_hf(Wish(str(base)), Order(str(tmp_path / "other")))
    monkey.undo()


def test_an_adapter_alone(tmp_path):
    base = base_folder(tmp_path / "base")
    run = adapter_folder(base, tmp_path / "run", use_dora=True)
    out = tmp_path / "out"
    report = export_adapter(Wish(str(run), dtype="bfloat16"), Order(str(out)), "owner/name")
    assert {tensor.dtype for tensor in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"
    assert 0 < report["difference"]["kl"] < 1e-3 < report["difference"]["effect"]
    theirs = PeftModel.from_pretrained(plain(base), out)
    wanted = AutoPeftModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), logits(wanted), atol=0.05, rtol=0.05)
    with pytest.raises(ModelError, match="there is no adapter here"):
        export_adapter(Wish(str(base)), Order(str(tmp_path / "none")), None)
    second = adapter_folder(base, tmp_path / "second", seed=9)
    with pytest.raises(ModelError, match="stands on others"):
        export_adapter(Wish(str(run), (str(second),)), Order(str(tmp_path / "none")), None)


def test_a_reward_model_keeps_its_head(tmp_path):
    base = base_folder(tmp_path / "base")
    run = adapter_folder(base, tmp_path / "run")
    model = plain(base)
    attach_value_head(model, seed=3)
    save_value_head(model, run)
    export_hf(Wish(str(run)), Order(str(tmp_path / "out")))
    talk = Conversation((Turn("user", "Hi"), Turn("assistant", "Hello")))
    before, after = (load_reward_model(str(tmp_path / name), use_cpu=True).score([talk]) for name in ("run", "out"))
    assert before == pytest.approx(after, abs=1e-5)
    assert not (tmp_path / "out" / "Modelfile").exists()
    with pytest.raises(ModelError, match="GGUF has no place for"):
        export_gguf(Wish(str(run)), Order(str(tmp_path / "gguf")), "f32")


def test_a_model_of_plain_text_has_no_template(tmp_path):
    base = base_folder(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.chat_template is None
    export_hf(Wish(str(base)), Order(str(tmp_path / "out")))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template is None
    assert 'TEMPLATE """{{ .Prompt }}"""' in (tmp_path / "out" / "Modelfile").read_text()
