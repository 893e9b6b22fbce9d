"""Corrections of other libraries. Each names the versions it was made for, why, and what it waits for upstream.

`tests/unit/model/test_compat.py` fails once an installed version has passed a bound: look then whether the
correction is still needed, and remove it or raise the bound.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn

BOUNDS = {"bitsandbytes": "0.51", "deepspeed": "0.20", "gguf": "0.20", "peft": "0.22", "transformers": "5.24"}
"""Package → the first version that nobody has looked at."""


def communicate_without_compiling(deepspeed: Any) -> None:
    """Let DeepSpeed talk through gloo on a CPU, and not through an operation of its own.

    deepspeed < 0.20 compiles that operation when it is first used, one or two minutes on each new installation and only
    where there is a compiler; it has no switch for it. To be called before its communication begins.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def import_peft() -> None:
    """Import PEFT, and leave bitsandbytes for the day on which a model has a layer of it.

    peft < 0.22 imports bitsandbytes with itself, and again to ask what kind of layer it puts an adapter on. That takes
    two seconds, loads torch's compiler and may print a warning. A layer of bitsandbytes exists only where bitsandbytes
    was imported, so that PEFT may take it for absent until then. To be called before anything else imports PEFT;
    later it leaves what was imported as it is.

    Upstream: no issue was found.
    """
    spec = find_spec("bitsandbytes") if not {"peft", "bitsandbytes"} & set(sys.modules) else None
    if spec is not None:
        later = _Later(spec.name)
        later.__spec__, later.__file__ = spec, spec.origin  # what is asked of every module, and loads nothing
        sys.modules[spec.name] = later
        try:
            import_module("peft")
        finally:
            if sys.modules.get(spec.name) is later:
                del sys.modules[spec.name]
    layers = import_module("peft.tuners.lora.model")
    for name in PEFT_ASKS:
        ask = getattr(layers, name, None)
        if ask is not None and hasattr(ask, "cache_info"):  # PEFT's own, and not yet the one that is put in its place
            setattr(layers, name, _once_imported(ask))


PEFT_ASKS = ("is_bnb_available", "is_bnb_4bit_available")
"""What PEFT's LoRA asks before it looks for layers of bitsandbytes."""


def _once_imported(ask: Callable[[], bool]) -> Callable[[], bool]:
    @wraps(ask)
    def available() -> bool:
        return "bitsandbytes" in sys.modules and ask()

    return available


class _Later(ModuleType):
    """Stands for a module that is imported when something of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """Within it transformers parses a GGUF file once, and makes gguf's table of tensor names once.

    transformers < 5.24 with gguf < 0.20: the file, with every word of its vocabulary, is parsed for the config, again
    for the tokenizer and again for the weights, and the table is made anew for each module of the model. Together that
    takes longer than all the rest. Both are taken from gguf at each call, so that it is enough to keep them there.

    Upstream: no issue was found.
    """
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, make in own.items():
        setattr(gguf, name, cache(make))
    try:
        yield
    finally:
        for name, make in own.items():
            setattr(gguf, name, make)


def correct_quantized_layers(model: nn.Module) -> None:
    """Apply what bitsandbytes' layers need; to be called before anything was computed with them."""
    _keep_weights_unpacked(model)
    _keep_scales(model)


def _keep_weights_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes' 4-bit layers from repacking their weights in place when they are evaluated on a CPU.

    bitsandbytes < 0.51, on CPUs with AVX512-BF16: the first forward pass in eval mode rewrites the weights into the
    layout of a fast kernel, and `matmul_4bit` uses that kernel from then on, in training too. The kernel has no
    backward pass, so that the gradient of all layers below is lost, while the loss hardly moves: one evaluation in
    mid-training ruins the run in silence. Unpacking later does not help either, since packing rounds the scales to
    bf16 and drops their own quantization; and layers whose width is no multiple of 32, or whose inputs are none of
    64, fail. A layer decides by an attribute of its own, which is turned off here, before anything was evaluated.

    Upstream: the packing came with bitsandbytes pull request 1804; issue 2078 is about another of its effects.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - no attribute that torch declares


def _keep_scales(model: nn.Module) -> None:
    """Keep the scales of bitsandbytes' 8-bit layers through PEFT's reading of their weights on a CPU.

    peft < 0.22 with bitsandbytes < 0.51: a layer takes its scales over from its weight at the first forward pass and
    leaves none there. DoRA reads the weight in each forward pass, and on a CPU PEFT then puts a fresh copy of it in
    place, which looks as if it had scales to give; the next forward pass takes over none and fails.

    Upstream: it came with peft pull request 1724; there was no issue about it.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            setattr(module, "init_8bit_state", partial(_take_scales_over, module))  # noqa: B010 - as above


def _take_scales_over(layer: Any) -> None:
    """What `Linear8bitLt.init_8bit_state` does, for a weight that has scales."""
    if layer.weight.SCB is not None:
        layer.state.CB, layer.state.SCB = layer.weight.CB, layer.weight.SCB
    layer.weight.CB = layer.weight.SCB = None
