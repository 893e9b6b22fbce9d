"""Any torch optimizers behind one face, with float32 copies of low-precision weights and state without pickles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Parameter groups → the optimizer that updates them."""

_OURS = ("params", "param_names", "kind", "rate_factor")
MASTER = "float32/master"
"""How the name of a float32 copy begins in a checkpoint."""
_NUMBERS: Mapping[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}


class _Trained(NamedTuple):
    """One parameter: the model's own, and the one that its optimizer updates (the same, or a float32 copy)."""

    name: str
    parameter: Tensor
    master: Tensor
    kind: str
    inner: dict[str, Any]  # its group in its own optimizer
    place: tuple[int, int]  # the numbers of that group and of the parameter in it


class MasterOptimizer(torch.optim.Optimizer):
    """One or more torch optimizers that update float32 copies of the model's parameters.

    `param_groups` hold the model's own parameters, so gradient scalers, clipping and wrappers see what they expect.
    Before each step the gradients go to the copies in float32; after it, the parameters are the rounded copies, so
    that small updates are not rounded away. For float32 parameters, or with `masters=False`, the copy is the
    parameter itself. The optimizers are made at the first use, from the parameters that the groups hold then: a
    wrapper such as FSDP may exchange them before.

    Args:
        groups: dicts with `params` (pairs of name and parameter), `lr`, `kind` (which of `makers`), `rate_factor`
            (the group's rate is the schedule's times this), and what that optimizer's groups hold.
        makers: kind → what makes the optimizer of all groups of that kind.
        masters: whether bfloat16 and float16 parameters get float32 copies.
    Source: master weights, Micikevicius et al., arXiv:1710.03740, section 3.1.
    """

    def __init__(self, groups: list[dict[str, Any]], makers: Mapping[str, Make], *, masters: bool = True) -> None:
        super().__init__(groups, {})
        self._makers, self._has_masters = makers, masters
        self._parts: dict[str, torch.optim.Optimizer] = {}
        self._inner: list[dict[str, Any]] = []  # [i] is the twin of self.param_groups[i] in its own optimizer

    def parts(self) -> Mapping[str, torch.optim.Optimizer]:
        """The optimizers by their kind."""
        if not self._parts:
            groups: dict[str, list[dict[str, Any]]] = {}
            for group in self.param_groups:
                own = {key: value for key, value in group.items() if key not in _OURS}
                own["params"] = [self._copy(parameter) for parameter in group["params"]]
                groups.setdefault(group["kind"], []).append(own)
            self._parts = {kind: self._makers[kind](own) for kind, own in groups.items()}
            made = {kind: iter(part.param_groups) for kind, part in self._parts.items()}
            self._inner = [next(made[group["kind"]]) for group in self.param_groups]
        return self._parts

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; gradients are read from the model's parameters, the rate of each group from its `lr`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parts = self.parts()
        for group, inner in zip(self.param_groups, self._inner, strict=True):
            inner["lr"] = group["lr"]
        copied = [each for each in self._each() if each.master is not each.parameter]
        for each in copied:
            each.master.grad = None if each.parameter.grad is None else each.parameter.grad.float()
        for part in parts.values():
            part.step()
        # PyTorch's fused steps do not say that they changed a parameter; who keeps what was made of it asks for this.
        torch.autograd.graph.increment_version([each.master for each in self._each()])
        for each in copied:
            if each.master.grad is not None:
                each.parameter.copy_(each.master)
                each.master.grad = None
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors, for a checkpoint: moments, step counts and float32 copies.

        A name is `kind/key/parameter`; a key that ends in `:int`, `:float` or `:bool` is a plain number of Python.
        """
        parts = self.parts()
        named: dict[str, Tensor] = {}
        for each in self._each():
            for key, value in parts[each.kind].state.get(each.master, {}).items():
                if isinstance(value, Tensor):
                    if not key.startswith("qmap"):  # bitsandbytes' table of the 256 values: the same in every run
                        named[f"{each.kind}/{key}/{each.name}"] = value.detach().cpu().contiguous()
                elif value is not None:
                    number = torch.tensor(value, dtype=_NUMBERS[type(value)])
                    named[f"{each.kind}/{key}:{type(value).__name__}/{each.name}"] = number
            if each.master is not each.parameter:
                named[f"{MASTER}/{each.name}"] = each.master.detach().cpu().contiguous()
        return named

    @torch.no_grad()
    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave; the model's parameters already hold their saved values.

        A float32 copy that was saved goes to this side's copy, or into the parameter itself where that is float32;
        a copy that was not saved (the run was in float32) starts from the parameter.

        Raises:
            ValueError: the state is of another set of parameters, or of another optimizer.
        """
        self.parts()
        own = {each.name: each for each in self._each()}
        for each in own.values():
            if each.master is not each.parameter:
                each.master.copy_(each.parameter)
        prepared: set[str] = set()
        for path, value in named.items():
            kind, key, name = path.split("/", 2) if path.count("/") > 1 else ("", "", path)
            if name not in own:
                raise ValueError(f"'{name}' was trained and is not now")
            if f"{kind}/{key}" == MASTER:
                if value.shape != own[name].master.shape:
                    shapes = f"{list(value.shape)}, now {list(own[name].master.shape)}"
                    raise ValueError(f"'{name}' had the shape {shapes}")
                own[name].master.copy_(value)
            elif kind != own[name].kind:
                raise ValueError(f"'{name}' was trained by {kind}, now by {own[name].kind}")
            else:
                if name not in prepared:
                    self._prepare_state(own[name])
                    prepared.add(name)
                self._set_state(own[name], key, value)
        for each in own.values():
            if each.master is not each.parameter:
                each.parameter.copy_(each.master)

    # -- inside -------------------------------------------------------------------------------------------

    def _copy(self, parameter: Tensor) -> Tensor:
        if self._has_masters and parameter.dtype in (torch.bfloat16, torch.float16):
            return nn.Parameter(parameter.detach().float())
        return parameter

    def _each(self) -> Iterator[_Trained]:
        seen: dict[str, int] = {}
        for group, inner in zip(self.param_groups, self._inner, strict=True):
            kind = group["kind"]
            seen[kind] = seen.get(kind, -1) + 1
            rows = zip(group["param_names"], group["params"], inner["params"], strict=True)
            for place, (name, parameter, master) in enumerate(rows):
                yield _Trained(name, parameter, master, kind, inner, (seen[kind], place))

    def _prepare_state(self, each: _Trained) -> None:
        """Let bitsandbytes make its own state first: its tables, and buffers that may be paged."""
        init: Any = getattr(self._parts[each.kind], "init_state", None)
        if init is not None:
            init(each.inner, each.master, *each.place)

    def _set_state(self, each: _Trained, key: str, value: Tensor) -> None:
        part = self._parts[each.kind]
        state = part.state[each.master]
        key, _, number = key.partition(":")
        current = state.get(key)
        if number:
            state[key] = value.item()
        elif isinstance(current, Tensor) and current.shape == value.shape:
            current.copy_(value)
        elif key == "step":  # torch keeps its step counts on the CPU, except for fused kernels
            state[key] = value.to(each.master.device if each.inner.get("fused") else "cpu").clone()
        else:
            moments = type(part).__module__.startswith("torch.optim")  # these have their parameter's dtype
            dtype = each.master.dtype if moments and value.is_floating_point() else value.dtype
            state[key] = value.to(each.master.device, dtype).clone()
