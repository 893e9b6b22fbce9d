"""The policy that dpo and kto compare with: the model as it was when training began, or one that the user names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch

from burnish import log
from burnish.batch.collate import Batch
from burnish.config import Settings
from burnish.errors import ModelError
from burnish.kernels.attention import packed_rows
from burnish.losses.logprobs import SequenceLogprobs
from burnish.model.load import Loaded, load_model, stored_quantization
from burnish.model.quantize import quantization_of
from burnish.model.save import is_adapter, without_adapter
from burnish.model.source import find_model, with_adapters
from burnish.train.logprobs import answer_logprobs
from burnish.train.model import takes_packed_rows

_OF_ADAPTERS = (".lora_", ".modules_to_save.", ".trainable_tokens_")
_TWIN = "reference"
"""The name of the frozen adapter that keeps what the trained one was at the start."""


class Reference:
    """Log-probabilities of answers under a policy that does not learn.

    It is no module of its own: what wraps, saves or counts the trained model never sees it.

    Args:
        model: what computes them; may be the trained model itself.
        why: what it is, for people.
        switched: that model → a context in which it is the reference.
        bare: whether it is the model without its adapter then.
    """

    def __init__(
        self,
        model: Any,
        why: str,
        switched: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
        *,
        bare: bool = False,
    ) -> None:
        self.model, self.why, self._switched, self._bare = model, why, switched, bare

    def fingerprint(self) -> str:
        """SHA-256 over the weights that decide what the reference says, as they are in memory."""
        digest = hashlib.sha256()
        with self._switched(self.model):
            for name, value in self.model.state_dict().items():
                if self._bare and any(part in name for part in _OF_ADAPTERS):
                    continue
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    def takes_packed_rows(self, trained: Any) -> bool:
        """Whether it reads packed rows, as the trained model does; asks only where it is another model."""
        return self.model is trained or takes_packed_rows(self.model)

    def on(self, copy: Any) -> Reference:
        """The same reference with a copy of its model."""
        return Reference(copy, self.why, self._switched, bare=self._bare)

    def logprobs(self, batch: Batch, *, packed: bool) -> SequenceLogprobs:
        """[documents]: the summed log-probabilities of each document's answer, without dropout and gradients."""
        with self.asked(packed=packed) as model:
            return answer_logprobs(model, batch, packed=packed)

    @contextmanager
    def asked(self, *, packed: bool) -> Iterator[Any]:
        """In this block the model that is given is the reference, without dropout and gradients."""
        training = self.model.training
        rows = packed_rows(without_adapter(self.model)) if packed else nullcontext()
        with torch.no_grad(), self._switched(self.model), rows:
            self.model.eval()
            try:
                yield self.model
            finally:
                self.model.train(training)


def start_reference(model: Any, *, at_once: bool = False) -> Reference:
    """The model as it is now, kept at the least cost in memory.

    A fresh adapter does nothing, so that the model without it is the start. An adapter that does something, because it
    is trained on, is kept as a second, frozen one. Else a frozen copy of the whole model is kept. With
    `at_once` nothing is kept: the reference is asked only before training.
    """
    bare = is_adapter(model) and _does_nothing(model)
    if at_once and not bare:
        return Reference(model, "the model at the start, asked once before training")
    if not is_adapter(model):
        copy = deepcopy(model)
        copy.requires_grad_(False)
        size = sum(p.numel() * p.element_size() for p in copy.parameters()) / 1e6
        return Reference(copy, f"a frozen copy of the model at the start, {size:.0f} MB more")
    if bare:
        why = "the model without its adapter, which costs no memory"
        return Reference(model, why, lambda one: one.disable_adapter(), bare=True)
    _keep_adapter(model)
    return Reference(model, "the adapter as it was at the start, kept beside the trained one", _as_twin)


def find_reference(settings: Settings, loaded: Loaded) -> Reference:
    """The reference that the settings ask for: `ref_model`, or the start of the run. Says which.

    Raises:
        ModelError: `ref_model` cannot be read, or has other tokens.
    """
    chosen = settings.preference
    if chosen.ref_model:
        found = _named(settings, loaded)
    else:
        found = start_reference(loaded.model, at_once=chosen.precompute_ref)
    log.say(f"reference: {found.why}")
    return found


def _named(settings: Settings, loaded: Loaded) -> Reference:
    chosen, model = settings.preference, settings.model
    assert chosen.ref_model is not None
    try:
        found = find_model(chosen.ref_model, log.say)
    except ModelError as error:
        raise ModelError(error.what, at=f"ref_model: {chosen.ref_model}", fix=error.fix) from error
    source = with_adapters(found, chosen.ref_model_adapters, "ref_model_adapters")
    weights = next(loaded.model.parameters())
    other = load_model(
        source,
        dtype=weights.dtype,
        device=weights.device,
        flash_attn=model.flash_attn,
        cache_dir=model.cache_dir,
        trust_remote_code=model.trust_remote_code,
        token=model.hf_hub_token,
        merge=bool(source.adapters) and not stored_quantization(source),
        quantization=quantization_of(chosen.ref_model_quantization_bit),
    )
    if other.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise ModelError(
            f"the reference model '{source.name}' has other tokens than the model that is trained",
            at="ref_model",
            fix="use a reference with the same tokenizer, such as the model that training starts from",
        )
    return Reference(other.model, f"{source.name}, a model of its own")


def _does_nothing(model: Any) -> bool:
    """Whether an adapter adds nothing: one factor of each pair is zero, and layers trained in full are as they were."""
    zeros = [value for name, value in model.named_parameters() if ".lora_B." in name or ".lora_embedding_A." in name]
    for module in model.modules():
        rows = getattr(module, "token_adapter", None)  # rows of new tokens
        if rows is not None:
            values = rows.trainable_tokens_delta, rows.trainable_tokens_original
            if not torch.equal(*(each[model.active_adapter] for each in values)):
                return False
            continue
        originals = getattr(module, "original_module", None)
        if originals is not None and not _alike(originals, module.modules_to_save[model.active_adapter]):
            return False
    return bool(zeros) and not any(bool(value.any()) for value in zeros)


def _alike(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _keep_adapter(model: Any) -> None:
    """Put a frozen twin beside the trained adapter."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    trained = model.active_adapter
    config = deepcopy(model.peft_config[trained])
    config.init_lora_weights = True  # anything else may touch the base weights
    values = get_peft_model_state_dict(model, save_embedding_layers=False)
    model.add_adapter(_TWIN, config, autocast_adapter_dtype=False)
    twins = {name: value.detach().clone() for name, value in values.items()}
    set_peft_model_state_dict(model, twins, adapter_name=_TWIN)
    model.set_adapter(trained)


@contextmanager
def _as_twin(model: Any) -> Iterator[None]:
    trained = model.active_adapter
    model.set_adapter(_TWIN, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(trained)


def without_dropout(model: Any) -> None:
    """Turn all dropout of a model off, also where layers hold it as a number (attention)."""
    for module in without_adapter(model).modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout", "hidden_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
