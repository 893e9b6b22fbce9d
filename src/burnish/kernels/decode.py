"""Steps of generation on a CPU: one new token for each of a few rows, through all layers, in one call of native code.

A `Program` is the list of operations that a model's step is made of. Each operation reads and writes float32 buffers of
shape [rows, n]; weights are float32 or bfloat16 and are used where they lie, nothing is copied. Sums are in float32
whatever the weights are. Where the processor multiplies bfloat16 (AVX512-BF16), the inputs of bfloat16 weights and the
queries of bfloat16 keys are rounded to it, as the model itself rounds them (`rounds_inputs`).
`Reference` does the same operations with torch and defines what is right.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.kernels.cached_attention import cached_attention_reference
from burnish.kernels.codes import ACTIVATIONS, TYPES
from burnish.kernels.native import native
from burnish.kernels.projections import ACTIVATIONS as PLAIN
from burnish.kernels.rms_norm import rms_norm_reference

_NORM, _LINEAR, _ATTEND, _GATED, _SOFTCAP = range(5)
_LANES, _PAIRS, _BLOCK = 16, 32, 64
_LINE = 64  # bytes of a cache line: numbers that lie across two take two reads
_INT, _FLOAT, _POINTER, _LONG = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p, ctypes.c_int64
_FIELDS: tuple[tuple[str, Any], ...] = (
    *((name, _INT) for name in ("kind", "sync", "n", "k", "type", "add")),
    *((name, _FLOAT) for name in ("scale", "eps", "offset", "softcap")),
    *((name, _INT) for name in ("heads", "shared", "size", "turned", "window", "cache_type")),
    *((name, _POINTER) for name in ("weight", "bias", "input", "second", "third", "out")),
    *((name, _LONG) for name in ("in_stride", "second_stride", "out_stride")),
    *((name, _POINTER) for name in ("q_norm", "k_norm", "cos", "sin", "sinks", "keys", "values")),
    ("room", _LONG),
    *((name, _POINTER) for name in ("in_half", "out_half")),
    *((name, _LONG) for name in ("in_half_stride", "out_half_stride")),
)


class _Operation(ctypes.Structure):
    _fields_ = list(_FIELDS)


@dataclass(frozen=True, slots=True)
class Norm:
    """out (+)= input / sqrt(mean(input²) + eps) · (weight + offset).  input, out: buffers.  weight: [n] float32."""

    input: str
    out: str
    weight: Tensor
    eps: float
    offset: float = 0.0
    add: bool = False


@dataclass(frozen=True, slots=True)
class Linear:
    """out (+)= scale · (input weightᵀ) + bias.  weight: [n, k], contiguous rows.  bias: [n] float32 or None."""

    input: str
    out: str
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    add: bool = False


@dataclass(frozen=True, slots=True)
class Attend:
    """Rotates the buffers query [rows, H·D] and key [rows, H_kv·D], keeps key and value, and attends → out.

    Args:
        layer: whose keys and values are meant.  rope: the table's name in `Program.tables`.
        q_norm, k_norm: [D] float32, an RMSNorm of each head before the rotation, with `eps` and `offset`.
        window, softcap, sinks: as `cached_attention` has them.
    """

    query: str
    key: str
    value: str
    out: str
    layer: int
    heads: int
    shared: int
    size: int
    rope: str
    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Gated:
    """out = activation(gate) · up."""

    gate: str
    up: str
    out: str
    activation: str


@dataclass(frozen=True, slots=True)
class Softcap:
    """out = c · tanh(out / c)."""

    out: str
    value: float


Step = Norm | Linear | Attend | Gated | Softcap
Table = tuple[Tensor, Tensor]
"""Cosines and sines of each place: [places, turned] float32 each."""


@dataclass(slots=True)
class Program:
    """What a step does.

    stages: operations that need nothing of each other stand in one stage; stages run one after another.
    widths: numbers a row in each buffer. The step reads `x` and writes `logits`.
    tables: of each rope, for as many places as there is room for.
    """

    stages: list[list[Step]]
    widths: dict[str, int]
    tables: dict[str, Table] = field(default_factory=dict)


def rounds_inputs() -> bool:
    """Whether the kernel of this machine rounds what is multiplied with bfloat16.

    Raises:
        CannotCompile: there is no native code here.
    """
    return bool(native("decode").burnish_rounds())


class NativeDecode:
    """A program in native code, over buffers for at most `rows` rows.

    Raises:
        CannotCompile: there is no native code here.
    """

    def __init__(self, program: Program, rows: int) -> None:
        self.program = program
        self._call = native("decode")
        assert self._call.burnish_operation_size() == ctypes.sizeof(_Operation)
        self.buffers = {name: torch.zeros(rows, width) for name, width in program.widths.items()}
        self._halves = self._rounded_buffers(rows)
        steps = [(place == 0, step) for stage in program.stages for place, step in enumerate(stage)]
        self._steps = list(enumerate(step for _, step in steps))
        self._operations = (_Operation * len(steps))(*(self._operation(sync, step) for sync, step in steps))
        self._attending = [(place, step) for place, step in self._steps if isinstance(step, Attend)]
        self._widest = max((step.weight.shape[1] for _, step in steps if isinstance(step, Linear)), default=0)
        self._held: list[Tensor] = []  # what the operations point at and nobody else keeps
        self._taken = torch.zeros(0, dtype=torch.int32)
        self._scratch = torch.zeros(0)
        self._kept: tuple[int, ...] = ()

    def narrow(self, narrowed: Callable[[Tensor], Tensor | None]) -> None:
        """Read weights where `narrowed` says that the same numbers are read faster."""
        for place, step in self._steps:
            if isinstance(step, Linear) and (weight := narrowed(step.weight)) is not None:
                self._operations[place].weight = _contiguous(weight)
                self._operations[place].type = TYPES[weight.dtype]
                self._held.append(weight)

    def run(self, inputs: Tensor, places: Tensor, keys: dict[int, Tensor], values: dict[int, Tensor]) -> Tensor:
        """One step.

        Args:
            inputs: [B, K], what the first layer gets.  places: [B] int64, where each new token stands.
            keys, values: of each layer [slots, H_kv, room, D], as `SlotStore` has them; row i is slot i.
        Returns:
            [B, V] float32: a buffer, overwritten by the next step.
        """
        batch, threads = len(places), torch.get_num_threads()
        self._look_at(keys, values, threads)
        self.buffers["x"][:batch] = inputs
        if "x" in self._halves:
            self._halves["x"][:batch, : inputs.shape[1]] = inputs
        places = places.contiguous()
        self._call.burnish_decode(
            self._operations,
            len(self._operations),
            batch,
            _POINTER(places.data_ptr()),
            threads,
            _POINTER(self._taken.data_ptr()),
            _POINTER(self._scratch.data_ptr()),
            _LONG(self._scratch.shape[1]),
        )
        return self.buffers["logits"][:batch]

    def _look_at(self, keys: dict[int, Tensor], values: dict[int, Tensor], threads: int) -> None:
        """Point at the keys and values, which move when they grow."""
        kept = (threads, *(keys[step.layer].data_ptr() for _, step in self._attending))
        if kept == self._kept:
            return
        self._kept, most = kept, max(4 * self._widest, _BLOCK * len(self.buffers["x"]))
        for place, step in self._attending:
            operation, key, value = self._operations[place], keys[step.layer], values[step.layer]
            cosines, sines = self.program.tables[step.rope]
            assert len(cosines) >= key.shape[2]
            operation.keys, operation.values = _contiguous(key), _contiguous(value)
            operation.room, operation.cache_type = key.shape[2], TYPES[key.dtype]
            operation.cos, operation.sin = cosines.data_ptr(), sines.data_ptr()
            operation.turned = cosines.shape[1]
            most = max(most, step.heads // step.shared * (key.shape[2] + _LANES + step.size + _PAIRS))
        self._scratch = torch.zeros(threads, most)
        self._taken = torch.zeros(len(self._operations), threads, dtype=torch.int32)

    def _rounded_buffers(self, rows: int) -> dict[str, Tensor]:
        """[rows, n], bfloat16, n filled up with zeros to whole vectors: what rounded products read."""
        if not rounds_inputs():
            return {}
        steps = [step for stage in self.program.stages for step in stage]
        names = {step.input for step in steps if isinstance(step, Linear) and step.weight.dtype == torch.bfloat16}
        filled = {name: -(-self.program.widths[name] // _PAIRS) * _PAIRS for name in names}
        return {name: torch.zeros(rows, width, dtype=torch.bfloat16) for name, width in filled.items()}

    def _operation(self, sync: bool, step: Step) -> _Operation:
        given: dict[str, Any] = {"sync": sync}
        if isinstance(step, Norm):
            given |= {"kind": _NORM, "n": len(step.weight), "eps": step.eps, "offset": step.offset, "add": step.add}
            given |= {"weight": _float(step.weight)} | self._from(step.input)
        elif isinstance(step, Linear):
            given |= {"kind": _LINEAR, "n": step.weight.shape[0], "k": step.weight.shape[1], "scale": step.scale}
            given |= {"type": TYPES[step.weight.dtype], "add": step.add} | self._from(step.input)
            given |= {"weight": _contiguous(step.weight), "bias": _float(step.bias)}
            if step.weight.dtype == torch.bfloat16 and (half := self._halves.get(step.input)) is not None:
                given |= {"in_half": half.data_ptr(), "in_half_stride": half.shape[1]}
        elif isinstance(step, Attend):
            given |= {"kind": _ATTEND, "heads": step.heads, "shared": step.shared, "size": step.size}
            given |= {"window": step.window or 0, "softcap": step.softcap or 0.0, "scale": step.scale}
            given |= {"q_norm": _float(step.q_norm), "k_norm": _float(step.k_norm), "sinks": _float(step.sinks)}
            given |= {"eps": step.eps, "offset": step.offset, "third": self.buffers[step.value].data_ptr()}
            given |= self._from(step.query) | self._second(step.key)
        elif isinstance(step, Gated):
            given |= {"kind": _GATED, "n": self.program.widths[step.out], "type": ACTIVATIONS[step.activation]}
            given |= self._from(step.gate) | self._second(step.up)
        else:
            given |= {"kind": _SOFTCAP, "n": self.program.widths[step.out], "softcap": step.value}
        out = self.buffers[step.out]
        if (half := self._halves.get(step.out)) is not None:
            assert not isinstance(step, Softcap)
            given |= {"out_half": half.data_ptr(), "out_half_stride": half.shape[1]}
        return _Operation(out=out.data_ptr(), out_stride=out.shape[1], **given)

    def _from(self, name: str) -> dict[str, int]:
        return {"input": self.buffers[name].data_ptr(), "in_stride": self.program.widths[name]}

    def _second(self, name: str) -> dict[str, int]:
        return {"second": self.buffers[name].data_ptr(), "second_stride": self.program.widths[name]}


def _float(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.dtype == torch.float32
    return _contiguous(tensor)


def _contiguous(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return tensor.data_ptr()


def in_bfloat16(weight: Tensor) -> Tensor | None:
    """Float32 weights as bfloat16, where not a bit of them is lost; else None.

    Weights that are computed with in float32 mostly came from a checkpoint in bfloat16, and half the bytes hold them.
    """
    if weight.dtype != torch.float32 or not torch.equal(weight[:1].bfloat16().float(), weight[:1]):
        return None
    half = weight.bfloat16()
    rows = 4096  # looked at together: it bounds the memory that looking takes
    pairs = zip(half.split(rows), weight.split(rows), strict=True)
    return half if all(torch.equal(narrow.float(), wide) for narrow, wide in pairs) else None


def read_faster(weight: Tensor, room: int) -> Tensor | None:
    """A copy of at most `room` bytes with the same numbers that is read faster; None where there is none."""
    if weight.dtype == torch.float32 and weight.nbytes // 2 <= room:
        half = in_bfloat16(weight)
        if half is not None:
            return half
    return weight.clone() if weight.data_ptr() % _LINE and weight.nbytes <= room else None


class Reference:
    """A program done with torch, an operation at a time. rounds: as `rounds_inputs` has it."""

    def __init__(self, program: Program, rows: int, rounds: bool = False) -> None:
        self.program, self._rounds = program, rounds
        self.buffers = {name: torch.zeros(rows, width) for name, width in program.widths.items()}

    def run(self, inputs: Tensor, places: Tensor, keys: dict[int, Tensor], values: dict[int, Tensor]) -> Tensor:
        """As `NativeDecode.run`."""
        batch = len(places)
        held = {name: buffer[:batch] for name, buffer in self.buffers.items()}
        held["x"][:] = inputs
        for step in (step for stage in self.program.stages for step in stage):
            held[step.out][:] = self._done(step, held, places, keys, values)
        return held["logits"]

    def _done(
        self, step: Step, held: dict[str, Tensor], places: Tensor, keys: dict[int, Tensor], values: dict[int, Tensor]
    ) -> Tensor:
        if isinstance(step, Norm):
            result = rms_norm_reference(held[step.input], step.weight, step.eps, step.offset)
        elif isinstance(step, Linear):
            inputs = self._rounded(held[step.input], step.weight.dtype)
            result = F.linear(inputs, step.weight.float()) * step.scale
            result = result if step.bias is None else result + step.bias
        elif isinstance(step, Attend):
            return self._attended(step, held, places, keys[step.layer], values[step.layer])
        elif isinstance(step, Gated):
            return PLAIN[step.activation][0](held[step.gate]) * held[step.up]
        else:
            return step.value * torch.tanh(held[step.out] / step.value)
        return held[step.out] + result if step.add else result

    def _rounded(self, inputs: Tensor, other: torch.dtype) -> Tensor:
        return inputs.to(other).float() if self._rounds else inputs

    def _attended(self, step: Attend, held: dict[str, Tensor], places: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        results = []
        for row, place in enumerate(places.tolist()):
            query = held[step.query][row].view(step.heads, step.size)
            key = held[step.key][row].view(step.shared, step.size)
            cosines, sines = (table[place] for table in self.program.tables[step.rope])
            query = self._rounded(_turned(query, step.q_norm, step, cosines, sines), keys.dtype)
            keys[row, :, place] = _turned(key, step.k_norm, step, cosines, sines).to(keys.dtype)
            values[row, :, place] = held[step.value][row].view(step.shared, step.size).to(values.dtype)
            key, value = (kept[row : row + 1, :, : place + 1].float() for kept in (keys, values))
            mixed = cached_attention_reference(
                query[None, :, None], key, value, place, step.scale, step.window, step.softcap, step.sinks
            )
            results.append(mixed.flatten())
        return torch.stack(results)


def _turned(heads: Tensor, weight: Tensor | None, step: Attend, cosines: Tensor, sines: Tensor) -> Tensor:
    """[H, D], normed where there is a weight, the first of its numbers rotated (Su et al., arXiv:2104.09864)."""
    heads = heads if weight is None else rms_norm_reference(heads, weight, step.eps, step.offset)
    turned = heads[:, : len(cosines)]
    one, other = turned.chunk(2, dim=-1)
    rotated = turned * cosines + torch.cat([-other, one], dim=-1) * sines
    return torch.cat([rotated, heads[:, len(cosines) :]], dim=-1)
