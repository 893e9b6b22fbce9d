"""Triton kernels of the liger-kernel package, for NVIDIA GPUs."""

from __future__ import annotations

import inspect
from typing import Any

from burnish import log
from burnish.errors import MissingExtraError, ModelError
from burnish.registry import did_you_mean


def use_liger(model: Any) -> None:
    """Let a model of transformers compute positions, norms and MLPs with liger-kernel; its loss stays Burnish's own.

    On other machines this is a wish that is not met, and said: the result is the same without them.

    Raises:
        ModelError: a family that the package does not know.
        MissingExtraError: the package is not installed.
    """
    if model.device.type != "cuda":
        log.note("enable_liger_kernel needs an NVIDIA GPU; this run goes on without it")
        return
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as known
    except ImportError as error:
        raise MissingExtraError("enable_liger_kernel", packages=["liger-kernel"]) from error
    kind = model.config.get_text_config().model_type
    if kind not in known:
        raise ModelError(
            f"liger-kernel has no kernels for models of the family {kind}",
            at="enable_liger_kernel",
            fix=f"leave it out; {did_you_mean(kind, known)}",
        )
    apply = known[kind]
    takes = inspect.signature(apply).parameters
    # Logits exist only where there are labels, a chunk at a time; the package's head would want them all.
    wishes = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    apply(**{name: value for name, value in wishes.items() if name in takes}, model=model)
    log.say(f"kernels of liger-kernel: {kind}")
