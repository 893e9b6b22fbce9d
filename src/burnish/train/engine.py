"""The engine under the loop: one process, or several that each hold the whole model (DDP), through accelerate.

`fsdp.py` and `zero.py` hold the engines that cut a model into shards; all of them have the same face. The loop and the
checkpoints call nothing else to reach the other processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from burnish.errors import BurnishError
from burnish.model.save import is_adapter
from burnish.train.optimizers import OptimizerOptions
from burnish.train.processes import Processes

MakeOptimizer = Callable[[OptimizerOptions], Any]
"""Options → an optimizer over the trainable parameters."""


class Engine:
    """How a step is shared by processes. This one: each holds everything, gradients are averaged.

    Args:
        processes: who takes part.
        device: cpu, cuda or mps; with several processes each gets its own device of this kind.
        mixed: accelerate's name of the mixed precision: no or fp16.
        find_unused: let DDP look for parameters that took no part in a step.
    """

    name = "DDP"
    cuts_weights = False  # whether the model holds only a shard of each weight

    def __init__(
        self, processes: Processes, device: torch.device, mixed: str = "no", *, find_unused: bool = False
    ) -> None:
        self.processes = processes
        self.accelerator = build_accelerator(device, mixed, find_unused=find_unused)

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return self.accelerator.device

    @property
    def load_device(self) -> torch.device:
        """Where weights are loaded; an engine that cuts them up loads them beside the accelerator."""
        return self.device

    @property
    def num_processes(self) -> int:
        """Processes of the run."""
        return self.processes.here.world

    @property
    def process_index(self) -> int:
        """The number of this process, from 0."""
        return self.processes.here.rank

    @property
    def is_main_process(self) -> bool:
        """Whether this process talks and writes."""
        return self.processes.is_first

    def describe(self) -> str:
        """The engine in words for people; empty for one process alone."""
        return f"{self.num_processes} processes · {self.name}" if self.num_processes > 1 else ""

    @property
    def mixed_precision(self) -> str:
        """accelerate's name of the mixed precision."""
        return str(self.accelerator.mixed_precision)

    def autocast(self) -> AbstractContextManager[Any]:
        """In this block forward passes compute as in training."""
        return self.accelerator.autocast()

    def unwrap_model(self, module: Any) -> Any:
        """The module below the engine's wrapper."""
        return self.accelerator.unwrap_model(module)

    def require_whole_weights(self, what: str, why: str) -> None:
        """Raise BurnishError where this engine cuts weights into shards, with which `what` cannot be had."""
        if self.cuts_weights:
            raise BurnishError(
                f"{what} does not work with {self.name}, which cuts weights into shards: {why}",
                at=what,
                fix="train with DDP, or with ZeRO 1 or 2",
            )

    # -- building -----------------------------------------------------------------------------------------

    def shard(self, module: nn.Module) -> nn.Module:
        """Cut the module's weights into shards, where this engine does; before the optimizer is made."""
        return module

    def build_optimizer(self, make: MakeOptimizer, options: OptimizerOptions) -> Any:
        """The optimizer over what `shard` left."""
        return make(options)

    def prepare(self, module: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """The module and the optimizer as the loop calls them."""
        with warnings.catch_warnings():
            # torch 2.13 has a new name for `broadcast_buffers`, which accelerate 1.15 cannot pass on yet.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            return self.accelerator.prepare(module, optimizer)

    # -- a step -------------------------------------------------------------------------------------------

    def no_sync(self, module: Any) -> AbstractContextManager[Any]:
        """In this block gradients are added up here and not exchanged: all micro-batches of a step but the last."""
        return self.accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss."""
        self.accelerator.backward(loss)

    def clip_grad_norm_(self, parameters: Iterator[nn.Parameter], max_norm: float) -> Tensor | None:
        """Scale all gradients down to an L2 norm of `max_norm` over all processes; returns the norm before."""
        return self.accelerator.clip_grad_norm_(parameters, max_norm)

    def reduce(self, figures: Tensor, reduction: str = "sum") -> Tensor:
        """The sum of a small tensor over all processes, the same on all of them."""
        return self.accelerator.reduce(figures, reduction=reduction)

    def gather_objects(self, one: Any) -> list[Any]:
        """What each process has, in the order of the ranks; for small things."""
        if self.num_processes == 1:
            return [one]
        from accelerate.utils import gather_object

        return list(gather_object([one]))

    def wait_for_everyone(self) -> None:
        """Return when all processes have come here."""
        self.accelerator.wait_for_everyone()

    # -- checkpoints: called on all processes, since shards are gathered from them ------------------------

    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The weights to save on the first process, by name; None where the model itself holds them whole."""
        return None

    def copy_weights(self, model: nn.Module, into: Mapping[str, Tensor]) -> None:
        """Write the whole weights of a model into tensors of their shapes, by name, on every process."""
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in into:
                into[name].copy_(parameter)

    def optimizer_tensors(self, optimizer: Any) -> dict[str, Tensor]:
        """The optimizer's state as whole named tensors, for the first process to save."""
        return optimizer.tensors() if self.is_main_process else {}

    def load_optimizer(self, optimizer: Any, named: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_tensors` gave. Raises ValueError where it is of other parameters."""
        optimizer.load_tensors(dict(named))


def gathered_weights(
    model: nn.Module,
    gather: Callable[[nn.Parameter], Tensor],
    trains: Callable[[nn.Parameter], bool] = lambda parameter: parameter.requires_grad,
) -> dict[str, Tensor]:
    """The weights of a model whose processes hold shards, one gathered after the other; its buffers as they are.

    Of a model with an adapter only what is trained is gathered. Tied weights are one tensor under both names.

    Args:
        trains: whether a weight is trained.
    """
    gathered: dict[int, Tensor] = {}
    named: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        if is_adapter(model) and not trains(parameter):
            continue
        if id(parameter) not in gathered:
            gathered[id(parameter)] = gather(parameter)
        named[name] = gathered[id(parameter)]
    if not is_adapter(model):
        named |= {name: value for name, value in model.state_dict().items() if name not in parameters}
    return named


def build_accelerator(device: torch.device, mixed: str, *, find_unused: bool = False) -> Any:
    """accelerate's engine; its state is built anew, since one process may train several times."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=device.type == "cpu")
    # Buffers are the same everywhere; exchanging them in each forward pass would stall a rank that has rows alone.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=find_unused, broadcast_buffers=False)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed, kwargs_handlers=[ddp])
