"""Every correction of another library names the versions it was made for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.version import Version

from burnish.model.compat import BOUNDS


@pytest.mark.parametrize(("package", "bound"), BOUNDS.items())
def test_no_bound_has_passed(package, bound):
    try:
        installed = Version(version(package))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert installed < Version(bound), (
        f"{package} {installed} is newer than what burnish/model/compat.py was made for: look at its corrections again"
    )


def test_the_libraries_are_still_as_the_corrections_know_them():
    """A correction that sets a name which nothing reads would do nothing, and say nothing."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    assert hasattr(modules.Linear4bit(64, 64, device="meta"), "support_avx512bf16_for_cpu")
    assert "support_avx512bf16_for_cpu" in modules.Linear4bit.forward.__code__.co_names
    assert "init_8bit_state" in modules.Linear8bitLt.forward.__code__.co_names


def test_deepspeed_still_asks_the_table_that_the_correction_changes():
    pytest.importorskip("deepspeed")
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    assert ShareMemCommBuilder.NAME == "deepspeed_shm_comm"
    assert "__compatible_ops__" in build_shm_op.__code__.co_names


def test_transformers_still_takes_from_gguf_what_the_correction_keeps():
    from transformers import modeling_gguf_pytorch_utils as reading

    for function, name in (
        (reading.load_gguf_checkpoint, "GGUFReader"),
        (reading.get_gguf_hf_weights_map, "get_tensor_name_map"),
    ):
        assert name not in vars(reading), "it is taken once and for all"
        assert name in function.__code__.co_names
