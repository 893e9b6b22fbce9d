"""NEFTune: random noise on embeddings while a model is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EmbeddingNoise:
    """Noise of size alpha / sqrt(T D) on the embeddings of each document, T tokens of D numbers.

    T is the document's own length, in a packed row as in a padded one, so that how documents are put together does not
    change how strong the noise is. There is none in evaluation. It is drawn from torch's own generator, whose state is
    in every checkpoint, so that a resumed run draws the same.

    Source: Jain et al., arXiv:2310.05914, algorithm 1.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: tuple[int, ...] = ()
        model.get_input_embeddings().register_forward_hook(self._add)

    def watch(self, module: nn.Module) -> None:
        """Read the lengths of the documents off each batch that `module` is called with."""
        module.register_forward_pre_hook(self._read)

    def _read(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._lengths = tuple(arguments[0].document_lengths)

    def _add(self, module: nn.Module, _: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        lengths = torch.tensor(self._lengths, dtype=torch.float32, device=embedded.device)
        if embedded.shape[0] == 1 and int(lengths.sum()) == embedded.shape[1]:
            tokens = lengths.repeat_interleave(lengths.long())[None, :, None]  # [1, T, 1]
        else:
            tokens = lengths[:, None, None]  # [B, 1, 1]
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)
        size = self.alpha / (tokens * embedded.shape[-1]).sqrt()
        return embedded + (noise * size).to(embedded.dtype)


def upcast_norms(model: Any) -> int:
    """Compute norm layers in float32 where the rest is in 16 bits: their input and their weights are widened.

    What they give is rounded to the number format of what they were given. Returns how many layers there are.
    """

    given: dict[nn.Module, torch.dtype] = {}

    def widen(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        given[module] = arguments[0].dtype
        return (arguments[0].float(), *arguments[1:])

    def narrow(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return output.to(given[module])

    norms = [module for module in model.modules() if _is_norm(module)]
    for module in norms:
        module.float()
        module.register_forward_pre_hook(widen)
        module.register_forward_hook(narrow)
    return len(norms)


def _is_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and bool(own) and not list(module.children())
