"""Liger is asked for the family's kernels and never for its own head; without a GPU it is a wish."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from burnish.errors import MissingExtraError, ModelError
from burnish.model.liger import use_liger


def on_a_gpu(kind):
    config = SimpleNamespace(model_type=kind)
    config.get_text_config = lambda: config
    return SimpleNamespace(device=torch.device("cuda"), config=config)


def test_the_family_s_kernels_without_the_head(monkeypatch):
    calls = []

    def apply(rope=True, cross_entropy=True, rms_norm=True, swiglu=True, model=None):
        calls.append((rope, cross_entropy, rms_norm, swiglu, model))

    module = ModuleType("liger_kernel.transformers.monkey_patch")
    module.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply}
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", ModuleType("liger_kernel.transformers"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = on_a_gpu("llama")
    use_liger(model)
    assert calls == [(True, False, True, True, model)]
    with pytest.raises(ModelError, match="family lama") as error:
        use_liger(on_a_gpu("lama"))
    assert "did you mean 'llama'" in str(error.value.fix)


def test_without_the_package_and_without_a_gpu(monkeypatch, tiny_model, capsys):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(MissingExtraError) as error:
        use_liger(on_a_gpu("llama"))
    assert "pip install liger-kernel" in error.value.fix
    use_liger(tiny_model)
    assert "goes on without it" in "".join(capsys.readouterr())
