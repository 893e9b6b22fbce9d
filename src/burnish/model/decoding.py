"""A model's step of generation as a program for the decoding kernel.

A family is taken when it is one of those whose layers are known here; each number that a layer computes with (its
scale, window, norm, activation) is read from the layer itself. What is not understood is refused with a reason, and the
model then makes its tokens the plain way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn

from burnish.kernels.codes import ACTIVATIONS, TYPES
from burnish.kernels.decode import (
    Attend,
    Gated,
    Linear,
    NativeDecode,
    Norm,
    Program,
    Softcap,
    Step,
    Table,
    read_faster,
)
from burnish.model.fused import activation_of, is_lora, is_watched, norm_of
from burnish.model.save import without_adapter

FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma", "gemma2", "gemma3_text", "granite", "olmo2"}
)


class NotUnderstood(Exception):
    """Why a model has no program, in a few words."""


Parts = tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor, float]]]
"""A linear layer's weight [N, K], bias [N], and the A [r, K], B [N, r] and scale of each adapter over it."""


_STEPS_BEFORE = 16  # steps after which it pays to look for weights that are read faster from a copy
_SHARE = 8  # of the free memory, at most one part in so many is taken for them
_Copies = dict[tuple[int, torch.Size, int], Tensor | None]
_copies_of: WeakKeyDictionary[Any, _Copies] = WeakKeyDictionary()
"""Of each model, its weights (where they lie, their shape and version) as they are read faster; None where they are as
they should be, or there was no room."""


class Decoder:
    """One step of a model in native code, for at most `rows` rows, with the adapters that are active when it is made.

    Float32 weights that fit in bfloat16 to the last bit are read from a copy in half the bytes, and weights that lie
    across the cache's lines, as files that are mapped have them, from one that does not, where memory allows.

    Raises:
        NotUnderstood: the model has something that the kernel does not do.
        CannotCompile: there is no native code here.
    """

    def __init__(self, model: Any, rows: int) -> None:
        whole = without_adapter(model)
        self._model, self._base = model, _base(whole)
        for module in model.modules():
            if is_watched(module) or hasattr(module, "_hf_hook"):
                raise NotUnderstood(f"somebody watches its {type(module).__name__}")
        self._state = _state(model)
        self._factor = float(getattr(self._base, "embedding_multiplier", 1.0))
        self.dtype: torch.dtype = self._base.embed_tokens.weight.dtype
        program = _Reader(whole, self._base).program()
        self.kind = (self.dtype, *(type(step).__name__ for stage in program.stages for step in stage))
        """What the step is made of: that of two adapters is mostly the same."""
        self._native = NativeDecode(program, rows)
        self._steps = 0
        if self._model in _copies_of:  # another decoder of this model has looked already
            self._use_copies(old_ones_only=True)

    @property
    def fresh(self) -> bool:
        """Whether the model still has the weights and adapters that this was made for; training in place is seen."""
        return self._state == _state(self._model)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], places: Tensor, keys: dict[int, Tensor], values: dict[int, Tensor]) -> Tensor:
        """Append a token to each row.

        Args:
            places: [B] int64, where the tokens stand.  keys, values: as `SlotStore` keeps them, written into.
        Returns:
            [B, V] float32, overwritten by the next step.
        """
        self._steps += 1
        if self._steps == _STEPS_BEFORE:
            self._use_copies()
        tables, room = self._native.program.tables, next(iter(keys.values())).shape[2]
        for name, (cosines, _) in tables.items():
            if len(cosines) < room:
                tables[name] = _table(self._base, name, room)
        inputs = self._base.embed_tokens(torch.tensor(tokens)[:, None])[:, 0].float()
        return self._native.run(inputs * self._factor, places, keys, values)

    def _use_copies(self, old_ones_only: bool = False) -> None:
        """Read weights from copies that are faster: those that are there already, and new ones while there is room."""
        before, now = _copies_of.get(self._model, {}), _Copies()
        room = psutil.virtual_memory().available // _SHARE + sum(
            copy.nbytes for copy in before.values() if copy is not None
        )

        # PyTorch's fused optimizers change weights without a new version: copies of what is trained would be old ones.
        trained = {each.untyped_storage().data_ptr() for each in self._model.parameters() if each.requires_grad}

        def copied(weight: Tensor) -> Tensor | None:
            nonlocal room
            if weight.is_inference() or weight.untyped_storage().data_ptr() in trained:  # a change could not be told
                return None
            key = (weight.data_ptr(), weight.shape, weight._version)
            if key not in now:
                if key not in before and old_ones_only:
                    return None
                now[key] = copy = before[key] if key in before else read_faster(weight, room)
                room -= 0 if copy is None else copy.nbytes
            return now[key]

        self._native.narrow(copied)
        _copies_of[self._model] = now


def _base(whole: Any) -> Any:
    """The module that has the layers of a model."""
    config = whole.config
    if config.model_type not in FAMILIES:
        raise NotUnderstood(f"{config.model_type} is none of the families that the decoding kernel knows")
    base = getattr(whole, "model", None)
    if base is None or not all(hasattr(base, name) for name in ("layers", "embed_tokens", "norm", "rotary_emb")):
        raise NotUnderstood("its layers are not where they are expected")
    return base


def _state(model: Any) -> tuple[Any, ...]:
    """What a program depends on: where the weights lie and their versions, as some are copied; the active adapters."""
    found: list[Any] = []
    for parameter in model.parameters():
        found.append((parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version))
    for module in model.modules():
        if is_lora(module):
            scales = tuple(module.scaling.get(name) for name in module.active_adapters)
            found.append((tuple(module.active_adapters), scales, bool(module.merged), module.disable_adapters))
    return tuple(found)


def _table(base: Any, name: str, room: int) -> Table:
    """Cosines and sines of the first `room` places, as the model's own module computes them."""
    if not name:
        return torch.zeros(room, 0), torch.zeros(room, 0)
    rotary = base.rotary_emb
    places, like = torch.arange(room)[None], torch.zeros(1, room, 1)
    extra = (name,) if "layer_type" in inspect.signature(rotary.forward).parameters else ()
    cosines, sines = rotary(like, places, *extra)
    return cosines[0].float().contiguous(), sines[0].float().contiguous()


class _Reader:
    """Reads a model's layers into the operations of a program."""

    def __init__(self, whole: Any, base: Any) -> None:
        self.whole, self.base, self.config = whole, base, base.config
        self.stages: list[list[Step]] = []
        self.widths: dict[str, int] = {}
        self._tried: dict[Any, Any] = {}

    def program(self) -> Program:
        if getattr(self.config, "use_bidirectional_attention", False):
            raise NotUnderstood("its tokens look ahead")
        hidden = self._norm(self.base.norm).weight.shape[0]
        self.widths |= {"x": hidden, "h": hidden}
        names = []
        for number, layer in enumerate(self.base.layers[: self.config.num_hidden_layers]):
            names.append(self._layer(layer, number))
        self._then(self._norm(self.base.norm, "x", "h"))
        scale = 1.0 / float(getattr(self.config, "logits_scaling", 1.0))
        self._project("h", [("logits", _parts(self.whole.lm_head))], scale)
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap:
            self._then(Softcap("logits", float(cap)))
        return Program(self.stages, self.widths, {name: (torch.zeros(0, 0), torch.zeros(0, 0)) for name in names})

    def _layer(self, layer: Any, number: int) -> str:
        names = {name for name, _ in layer.named_children() if name.endswith("layernorm")}
        if names == {"input_layernorm", "post_attention_layernorm"}:
            before, after = (layer.input_layernorm, layer.post_attention_layernorm), (None, None)
        elif names == {"post_attention_layernorm", "post_feedforward_layernorm"}:
            before, after = (None, None), (layer.post_attention_layernorm, layer.post_feedforward_layernorm)
        elif len(names) == 4 and hasattr(layer, "pre_feedforward_layernorm"):
            before = (layer.input_layernorm, layer.pre_feedforward_layernorm)
            after = (layer.post_attention_layernorm, layer.post_feedforward_layernorm)
        else:
            raise NotUnderstood(f"the norms of its layers are {', '.join(sorted(names))}")
        factor = float(getattr(layer, "residual_multiplier", 1.0))
        source = self._normed(before[0])
        rope = self._attention(layer.self_attn, number, source)
        self._residual("mixed", _parts(layer.self_attn.o_proj), after[0], factor)
        self._mlp(layer.mlp, self._normed(before[1]))
        self._residual("up", _parts(layer.mlp.down_proj), after[1], factor)
        return rope

    def _attention(self, attention: Any, number: int, source: str) -> str:
        size, config = int(attention.head_dim), self.config
        heads, shared = int(config.num_attention_heads), int(config.num_key_value_heads)
        rows = [heads * size, shared * size, shared * size]
        if hasattr(attention, "qkv_proj"):
            parts = list(_split(_parts(attention.qkv_proj), rows))
        else:
            parts = [_parts(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
        if [len(weight) for weight, _, _ in parts] != rows:
            raise NotUnderstood("its heads are not laid out as expected")
        self._project(source, list(zip(("q", "k", "v"), parts, strict=True)))
        norms: dict[str, Any] = {}
        for buffer, name in (("q", "q_norm"), ("k", "k_norm")):
            if hasattr(attention, name):
                norms[buffer] = self._norm(getattr(attention, name), buffer, buffer)
        over_heads = bool(norms) and all(norm.weight.shape[0] == size for norm in norms.values())
        if norms and not over_heads:
            self._then(*norms.values())  # over all heads at once, before they are told apart
        like = norms["q"] if over_heads else None
        rope = self._rope(attention, number)
        self.widths["mixed"] = heads * size
        if hasattr(attention, "sliding_window"):
            window = attention.sliding_window
        else:  # read from the settings at each call by those that have one
            window = getattr(config, "sliding_window", None) if config.model_type in ("mistral", "phi3") else None
        self._then(
            Attend(
                "q",
                "k",
                "v",
                "mixed",
                layer=number,
                heads=heads,
                shared=shared,
                size=size,
                rope=rope,
                scale=float(attention.scaling),
                window=window,
                softcap=getattr(attention, "attn_logit_softcapping", None),
                q_norm=like.weight if like else None,
                k_norm=norms["k"].weight if like else None,
                eps=like.eps if like else 0.0,
                offset=like.offset if like else 0.0,
            )
        )
        return rope

    def _rope(self, attention: Any, number: int) -> str:
        """The name of the layer's table; empty for a layer without positions."""
        if not getattr(attention, "use_rope", True):
            return ""
        kinds = getattr(self.config, "layer_types", None)
        return kinds[number] if kinds else "full_attention"

    def _mlp(self, mlp: Any, source: str) -> None:
        activation = activation_of(getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None))
        if activation not in ACTIVATIONS:
            raise NotUnderstood("its MLPs have an activation that the kernel does not know")
        if hasattr(mlp, "gate_up_proj"):
            whole = _parts(mlp.gate_up_proj)
            gate, up = _split(whole, [len(whole[0]) // 2] * 2)
        else:
            gate, up = _parts(mlp.gate_proj), _parts(mlp.up_proj)
        self._project(source, [("gate", gate), ("up", up)])
        self._then(Gated("gate", "up", "up", activation))

    def _normed(self, module: Any) -> str:
        """The buffer with what follows a norm, or the residual stream where there is none."""
        if module is None:
            return "x"
        self._then(self._norm(module, "x", "h"))
        return "h"

    def _residual(self, source: str, parts: Parts, norm: Any, factor: float) -> None:
        """x += factor · norm(projection)."""
        if norm is None:
            self._project(source, [("x", parts)], factor, add=True)
        elif factor == 1.0:
            self._project(source, [("h", parts)])
            self._then(self._norm(norm, "h", "x", add=True))
        else:
            raise NotUnderstood("its layers scale what a norm gives")

    def _norm(self, module: Any, source: str = "", out: str = "", add: bool = False) -> Norm:
        found = norm_of(module, self._tried)
        if found is None:
            raise NotUnderstood(f"{type(module).__name__} is no norm that the kernel knows")
        epsilon, offset = found
        return Norm(source, out, _as_float(_here(module.weight)), epsilon, offset, add)

    def _project(self, source: str, wanted: list[tuple[str, Parts]], scale: float = 1.0, add: bool = False) -> None:
        first: list[Step] = []
        then: list[list[Step]] = []
        for out, (weight, bias, adapters) in wanted:
            if out not in ("x", "h"):
                self.widths[out] = len(weight)
            shift = None if bias is None else _as_float(bias * scale if scale != 1.0 else bias)
            first.append(Linear(source, out, weight, shift, scale, add))
            for place, (down, up, factor) in enumerate(adapters):
                name = f"{out} rank {place}"
                self.widths[name] = max(self.widths.get(name, 0), len(down))
                first.append(Linear(source, name, down))
                while len(then) <= place:
                    then.append([])
                then[place].append(Linear(name, out, up, scale=factor * scale, add=True))
        self._then(*first)
        for stage in then:
            self._then(*stage)

    def _then(self, *steps: Step) -> None:
        self.stages.append(list(steps))


def _parts(module: Any) -> Parts:
    """A linear layer's tensors with those of its active adapters."""
    if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        plain = module.disable_adapters or not active
        module = module.original_module if plain else module.modules_to_save[active[0]]
    adapters: list[tuple[Tensor, Tensor, float]] = []
    if is_lora(module):
        off = module.merged or module.disable_adapters
        if module.merged and module.disable_adapters:
            raise NotUnderstood("its adapters are merged and switched off")
        for name in [] if off else module.active_adapters:
            if name not in module.lora_A:
                continue
            if name in module.lora_variant or module.lora_B[name].bias is not None:
                raise NotUnderstood("its adapter is more than a product of two matrices")
            down, up = _here(module.lora_A[name].weight), _here(module.lora_B[name].weight)
            adapters.append((down, up, float(module.scaling[name])))
        module = module.base_layer
    if type(module) is not nn.Linear:
        raise NotUnderstood(f"{type(module).__name__} is no plain linear layer")
    return _here(module.weight), None if module.bias is None else _here(module.bias), adapters


def _split(parts: Parts, rows: Sequence[int]) -> Iterator[Parts]:
    """One layer that stands for several, told apart by its outputs."""
    weight, bias, adapters = parts
    start = 0
    for count in rows:
        cut = slice(start, start + count)
        yield weight[cut], None if bias is None else bias[cut], [(down, up[cut], by) for down, up, by in adapters]
        start += count


def _here(parameter: Tensor) -> Tensor:
    """The numbers of a parameter, where the kernel can read them."""
    tensor = parameter.detach()
    if type(tensor) is not Tensor or tensor.device.type != "cpu" or not tensor.numel():
        raise NotUnderstood("its weights are not all in the memory of this process")
    if tensor.dtype not in TYPES:
        raise NotUnderstood(f"its weights are {str(tensor.dtype).removeprefix('torch.')}")
    if not tensor.is_contiguous():
        raise NotUnderstood("its weights do not lie in rows")
    return tensor


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()
