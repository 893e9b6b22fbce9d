"""DeepSpeed's ZeRO: optimizer state (1), gradients (2) and weights (3) cut into shards, also with offloading.

Source: Rajbhandari et al., ZeRO, arXiv:1910.02054; Ren et al., ZeRO-Offload, arXiv:2101.06840.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from burnish import log
from burnish.errors import MissingExtraError
from burnish.model.compat import communicate_without_compiling
from burnish.train.deepspeed_config import fill_sizes, zero_stage
from burnish.train.engine import Engine, MakeOptimizer, gathered_weights
from burnish.train.optimizers import OptimizerOptions
from burnish.train.optimizers.masters import MASTER
from burnish.train.processes import Processes

ADAMW = "adamw"  # the kind, in the names of its state
_MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroEngine(Engine):
    """DeepSpeed holds the weights, exchanges gradients, clips and updates; the loop says when a step ends.

    Args:
        config: DeepSpeed's configuration, filled by `fill_config`.
    """

    name = "DeepSpeed ZeRO"

    def __init__(self, processes: Processes, device: torch.device, config: dict[str, Any]) -> None:
        super().__init__(processes, device)
        self.config, self.stage = config, zero_stage(config)
        self._deepspeed = _import_deepspeed()
        if device.type == "cpu":
            communicate_without_compiling(self._deepspeed)
        self.cuts_weights = self.stage == 3
        self._engine: Any = None
        self._trained: dict[str, nn.Parameter] = {}

    @property
    def load_device(self) -> torch.device:
        """The CPU for ZeRO 3, which then takes each weight's shard to its device."""
        return torch.device("cpu") if self.stage == 3 else self.device

    def describe(self) -> str:
        """Processes, ZeRO's stage and what is offloaded, for people."""
        zero = self.config.get("zero_optimization", {})
        parts = [f"{self.num_processes} processes", f"{self.name} {self.stage}"]
        for part, words in (("offload_optimizer", "optimizer"), ("offload_param", "weights")):
            place = (zero.get(part) or {}).get("device", "none")
            parts += [f"{words} on {place}"] if place != "none" else []
        return " · ".join(parts)

    # -- building -----------------------------------------------------------------------------------------

    def build_optimizer(self, make: MakeOptimizer, options: OptimizerOptions) -> Any:
        """A plain AdamW: DeepSpeed cuts its parameters into flat shards and keeps the float32 copies itself."""
        whole = make(replace(options, masters=False))
        [plain] = whole.parts().values()  # a rule of the settings lets nothing but AdamW come here
        self._trained = {
            name: parameter
            for group in whole.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }
        for group, ours in zip(plain.param_groups, whole.param_groups, strict=True):
            group["rate_factor"] = ours["rate_factor"]  # the loop multiplies the rate by it
        return plain

    def prepare(self, module: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """Hand both to DeepSpeed; the update happens within `clip_grad_norm_`, so the loop's own one does nothing."""
        if self.cuts_weights and hasattr(module, "in_step"):
            module.in_step = True  # type: ignore[assignment]
        hidden = max((p.shape[-1] for p in module.parameters() if p.ndim > 1), default=1024)
        model_config = getattr(getattr(module, "model", None), "config", None)
        if model_config is not None:
            hidden = getattr(model_config.get_text_config(), "hidden_size", hidden)
        config = fill_sizes(self.config, hidden)
        with _said_to_the_log():
            self._engine, *_ = self._deepspeed.initialize(
                model=module, optimizer=optimizer, config=config, dist_init_required=False
            )
        self._engine.set_gradient_accumulation_boundary(True)  # `no_sync` says which micro-batches are none
        return self._engine, _Done()

    def unwrap_model(self, module: Any) -> Any:
        """The module below DeepSpeed's."""
        return module.module

    # -- a step -------------------------------------------------------------------------------------------

    @contextmanager
    def no_sync(self, module: Any) -> Iterator[None]:
        """Micro-batches before the last one of a step."""
        module.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            module.set_gradient_accumulation_boundary(True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss, which the loop has divided already."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip_grad_norm_(self, parameters: Iterator[nn.Parameter], max_norm: float) -> Tensor | None:
        """Clip and update, which DeepSpeed does together; returns the gradients' norm before clipping."""
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else torch.as_tensor(norm)

    # -- checkpoints --------------------------------------------------------------------------------------

    @torch.no_grad()
    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """With ZeRO 3, gather one weight after the other into the memory of the first process's CPU."""
        if not self.cuts_weights or self._engine is None:
            return None
        named = gathered_weights(model, self._kept)
        return named if self.is_main_process else {}

    @torch.no_grad()
    def copy_weights(self, model: nn.Module, into: Mapping[str, Tensor]) -> None:
        """Gather one weight after the other."""
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in into:
                with self._deepspeed.zero.GatheredParameters([parameter]):
                    into[name].copy_(parameter)

    def _kept(self, parameter: nn.Parameter) -> Tensor:
        with self._deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().cpu().clone() if self.is_main_process else torch.empty(0)

    @torch.no_grad()
    def optimizer_tensors(self, optimizer: Any) -> dict[str, Tensor]:
        """Moments and float32 copies of each trained weight, and the count of updates."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        _link_state(self._engine.optimizer)
        step = next((state["step"] for state in optimizer.state.values() if "step" in state), None)
        named: dict[str, Tensor] = {}
        for name, parameter in self._trained.items():
            found = {f"{ADAMW}/{key}/{name}": safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
            if step is not None:
                found[f"{ADAMW}/step/{name}"] = torch.as_tensor(step)
            if parameter.dtype != torch.float32:
                found[f"{MASTER}/{name}"] = safe_get_full_fp32_param(parameter)
            if self.is_main_process:
                named |= {key: value.detach().cpu().contiguous().clone() for key, value in found.items()}
        return named

    @torch.no_grad()
    def load_optimizer(self, optimizer: Any, named: Mapping[str, Tensor]) -> None:
        """Put back what any engine saved; the number of processes may be another one."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if not named:
            return
        saved = {path.split("/", 2)[2] for path in named}
        if saved != self._trained.keys():
            raise ValueError(f"{len(saved)} tensors were trained, now there are {len(self._trained)}")
        if any(path.split("/")[0] not in (ADAMW, MASTER.split("/")[0]) for path in named):
            raise ValueError("it is not AdamW's")
        _make_state(self._engine.optimizer, optimizer, named[f"{ADAMW}/step/{next(iter(saved))}"])
        for name, parameter in self._trained.items():
            if f"{MASTER}/{name}" in named:
                safe_set_full_fp32_param(parameter, named[f"{MASTER}/{name}"].to(self.device))
            for key in _MOMENTS:
                safe_set_full_optimizer_state(parameter, named[f"{ADAMW}/{key}/{name}"].to(self.device), key)


class _Done:
    """Stands for the optimizer in the loop, where the update has been made already."""

    def step(self) -> None:
        pass

    def zero_grad(self) -> None:
        pass


def _make_state(zero: Any, optimizer: Any, step: Tensor) -> None:
    """Let each flat shard have the state that AdamW makes at its first step, so that it can be filled."""
    for group in optimizer.param_groups:
        for flat in group["params"]:
            optimizer.state[flat] = {
                "step": step.clone(),
                **{key: torch.zeros_like(flat, memory_format=torch.preserve_format) for key in _MOMENTS},
            }
    _link_state(zero)


def _link_state(zero: Any) -> None:
    """Let each weight find its part of the flat state (ZeRO 1 and 2).

    DeepSpeed does so after the first group's first update, when the other groups have no state yet.
    """
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _import_deepspeed() -> Any:
    try:
        with _said_to_the_log():
            import deepspeed
    except ImportError as error:
        raise MissingExtraError("deepspeed", "deepspeed") from error
    deepspeed.utils.logger.setLevel("ERROR")
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 is leaving behind.
    warnings.filterwarnings("ignore", message="`torch.distributed.*is deprecated", category=FutureWarning)
    return deepspeed


@contextmanager
def _said_to_the_log() -> Iterator[None]:
    """DeepSpeed tells on stdout what it compiles."""

    class Lines:
        def write(self, text: str) -> int:
            if text.strip():
                log.logger.info(text.strip())
            return len(text)

        def flush(self) -> None:
            pass

    with redirect_stdout(Lines()):
        yield
