"""FSDP2: weights, gradients and optimizer state cut into shards, one for each process.

torch's `fully_shard` is called directly, so that it is the same on CPUs (gloo) and GPUs (nccl).

Source: Zhao et al., PyTorch FSDP, arXiv:2304.11277; torch.distributed.fsdp.fully_shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from burnish.errors import BurnishError
from burnish.model.save import without_adapter
from burnish.train.engine import Engine, gathered_weights
from burnish.train.parallel import FsdpOptions
from burnish.train.processes import Processes


class ShardedEngine(Engine):
    """Each process holds a shard of every weight; a layer is gathered while it computes."""

    name = "FSDP2"
    cuts_weights = True

    def __init__(self, processes: Processes, device: torch.device, options: FsdpOptions) -> None:
        super().__init__(processes, device)
        self.options = options
        self._mesh = self._make_mesh(device.type)
        self._shards: list[FSDPModule] = []
        self._placements: Any = None  # how each weight is cut
        self._trained: set[int] = set()  # shards; switching an adapter off and on may change what they say of gradients

    @property
    def load_device(self) -> torch.device:
        """The CPU: each shard moves to its device when it is cut."""
        return torch.device("cpu")

    def describe(self) -> str:
        """Processes, engine and how weights are kept, for people."""
        options = self.options
        kept = (
            "weights are gathered for each pass" if options.reshard else "gathered weights stay for the backward pass"
        )
        parts = [f"{self.num_processes} processes", self.name, kept]
        parts += ["one copy a machine"] if options.hybrid else []
        return " · ".join([*parts, *(["shards on the CPU"] if options.offload else [])])

    def _make_mesh(self, device_type: str) -> DeviceMesh:
        here = self.processes.here
        if self.options.hybrid:
            shape = (here.world // here.local_world, here.local_world)
            return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))
        return init_device_mesh(device_type, (here.world,), mesh_dim_names=("shard",))

    def shard(self, module: nn.Module) -> nn.Module:
        """Cut each layer, then what is left: embeddings, the last norm and the head."""
        offload: OffloadPolicy = OffloadPolicy()
        if self.options.offload:
            offload = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        options: dict[str, Any] = {
            "mesh": self._mesh,
            "reshard_after_forward": self.options.reshard,
            "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),  # sums of bf16 gradients are made in fp32
            "offload_policy": offload,
        }
        for part in self._layers(module):
            fully_shard(part, **options)
        fully_shard(module, **options)
        if hasattr(module, "in_step"):
            module.in_step = True  # type: ignore[assignment]
        self._shards = [part for part in module.modules() if isinstance(part, FSDPModule)]
        self._trained = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        self._placements = next(p.placements for p in module.parameters() if isinstance(p, DTensor))
        return module

    def _layers(self, module: nn.Module) -> list[nn.Module]:
        """The modules that are gathered one at a time, inner ones first."""
        model = without_adapter(getattr(module, "model", module))
        ends = [model.get_input_embeddings(), model.get_output_embeddings()]
        outer = {id(weight) for end in ends if end is not None for weight in end.parameters()}
        # Embeddings and head may be one weight, and the loss uses the head's outside of its forward pass.
        parts = [part for part in reversed(list(module.modules())) if outer.isdisjoint(map(id, part.parameters()))]
        if self.options.min_params:
            large = [part for part in parts if sum(p.numel() for p in part.parameters()) >= self.options.min_params]
            return [part for part in large if not isinstance(part, nn.ModuleList | nn.ModuleDict)]
        names = set(self.options.layers or getattr(model, "_no_split_modules", ()) or ())
        found = [part for part in parts if type(part).__name__ in names]
        if self.options.layers and not found:
            raise BurnishError(
                f"this model has no layer of the class {', '.join(sorted(names))}",
                at="fsdp_config: transformer_layer_cls_to_wrap",
                fix="leave it out, and the model says which layers there are",
            )
        return found

    def unwrap_model(self, module: Any) -> Any:
        """The module itself: FSDP2 puts no other one around it."""
        return module

    def prepare(self, module: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """Both as they are."""
        return module, optimizer

    # -- a step -------------------------------------------------------------------------------------------

    @contextmanager
    def no_sync(self, module: Any) -> Iterator[None]:
        """Keep gradients whole here until the last micro-batch."""
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Iterator[nn.Parameter], max_norm: float) -> Tensor | None:
        """Scale all gradients down to an L2 norm of `max_norm` over all shards; returns the norm before."""
        norm = nn.utils.clip_grad_norm_(list(parameters), max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    # -- checkpoints --------------------------------------------------------------------------------------

    @torch.no_grad()
    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Gather one weight after the other; the first process keeps them, in the memory of its CPU."""
        for part in self._shards:
            part.reshard()  # after an evaluation the outermost weights are still gathered
        named = gathered_weights(model, self._kept, lambda parameter: id(parameter) in self._trained)
        return named if self.is_main_process else {}

    @torch.no_grad()
    def copy_weights(self, model: nn.Module, into: Mapping[str, Tensor]) -> None:
        """Gather one weight after the other."""
        for part in self._shards:
            part.reshard()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in into:
                here = parameter.detach().to(self.device)
                into[name].copy_(here.full_tensor() if isinstance(here, DTensor) else here)

    def _kept(self, tensor: Tensor) -> Tensor:
        whole = tensor.detach()
        whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
        return whole.cpu().contiguous() if self.is_main_process else torch.empty(0)

    @torch.no_grad()
    def optimizer_tensors(self, optimizer: Any) -> dict[str, Tensor]:
        """Gather the state, one tensor after the other."""
        named = {name: self._kept(value) for name, value in optimizer.tensors().items()}
        return named if self.is_main_process else {}

    @torch.no_grad()
    def load_optimizer(self, optimizer: Any, named: Mapping[str, Tensor]) -> None:
        """Cut whole tensors into this process's shards; single numbers stay as they are."""
        optimizer.load_tensors({name: self._cut(value) if value.ndim else value for name, value in named.items()})

    def _cut(self, value: Tensor) -> Tensor:
        device = "cpu" if self.options.offload else self.device
        # Each process has read the same file, so nothing needs to be sent.
        cut = distribute_tensor(value.to(self.device), self._mesh, self._placements, src_data_rank=None)
        return cut.to(device)
