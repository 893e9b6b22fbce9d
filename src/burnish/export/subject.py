"""What is exported: where its parts are, how large it is, and how it was trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch

from burnish.errors import ModelError
from burnish.model.load import Loaded, load_model, stored_quantization
from burnish.model.precision import choose_device
from burnish.model.quantize import Quantization
from burnish.model.quiet import quiet_transformers
from burnish.model.reward import head_folder
from burnish.model.source import ModelSource, find_model, trained_over, with_adapters
from burnish.runs.folder import SUMMARY, read_summary
from burnish.template import ChatTemplate, load_template

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FILES_BESIDE = 50_000_000  # bytes for tokenizer, configs and card
_SPARE = 1.3  # memory besides the weights: activations, the logits of three conversations, files being written


@dataclass(frozen=True)
class Wish:
    """What is to be exported and how it is loaded.

    Attributes:
        name: a model, a run folder, a checkpoint.
        adapters: further ones to put on top, in order.
        dtype: float32, bfloat16 or float16 of the exported weights; auto is the base's own.
        device: cpu, or auto for the machine's accelerator.
        template, default_system: None for those of the run.
        hub: revision, cache_dir and token of downloads.
    """

    name: str
    adapters: tuple[str, ...] = ()
    dtype: str = "auto"
    device: str = "cpu"
    template: str | None = None
    default_system: str | None = None
    enable_thinking: bool | None = None
    trust_remote_code: bool = False
    hub: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What to write, and where to.

    Attributes:
        to: the folder.
        overwrite: replace an earlier export there.
        shard_gb: most of one file of weights, in GB (10^9 bytes).
        sampling: how tokens are drawn, where that is asked for; by the names of `generation.SAMPLING`.
    """

    to: str
    overwrite: bool = False
    shard_gb: float = 5.0
    sampling: Mapping[str, Any] = field(default_factory=dict)


class Subject:
    """A model that was found, before any weights are read.

    Raises:
        ModelError: there is none, or its base is quantized on disk.
    """

    def __init__(self, wish: Wish, say: Callable[[str], None]) -> None:
        self.wish = wish
        source = find_model(wish.name, say)
        self.source: ModelSource = with_adapters(source, wish.adapters)
        stored = stored_quantization(source, **wish.hub)
        if stored:
            raise ModelError(
                f"the weights of this model are quantized ({stored}), and exporting would keep what that lost",
                at=wish.name,
                fix="export from the 16-bit model",
            )
        self.device = choose_device(wish.device == "cpu")
        self.reward_head = head_folder(self.source)

    @property
    def folder(self) -> Path | None:
        """The run folder, or the folder of the last adapter or of the model; None for a name on the hub."""
        place = Path(self.source.adapters[-1] if self.source.adapters else self.source.location)
        return place if place.is_dir() else None

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json of the run that trained it, or of the run its checkpoint lies in; empty where there is none."""
        for place in (self.folder, self.folder.parent) if self.folder else ():
            if (place / SUMMARY).is_file():
                return read_summary(place)
        return {}

    @cached_property
    def config(self) -> Any:
        """The base model's config."""
        from transformers import AutoConfig

        hub = {} if self.source.local else self.wish.hub
        gguf = {"gguf_file": self.source.gguf_file} if self.source.gguf_file else {}
        try:
            with quiet_transformers():
                return AutoConfig.from_pretrained(
                    self.source.location, trust_remote_code=self.wish.trust_remote_code, **hub, **gguf
                )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"the model's config cannot be read: {str(error).splitlines()[0][:200]}",
                at=self.source.location,
                fix="check the folder: it needs config.json",
            ) from error

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the exported weights: as asked, else as the base has them."""
        if self.wish.dtype != "auto":
            return DTYPES[self.wish.dtype]
        own = getattr(self.config.get_text_config(), "dtype", None) or _dtype_on_disk(Path(self.source.location))
        if isinstance(own, str):
            own = DTYPES.get(own)
        return own if own is not None and own in DTYPES.values() else torch.bfloat16

    @cached_property
    def parameters(self) -> int:
        """How many weights the model has; tied ones count once."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"), quiet_transformers():
            model = AutoModelForCausalLM.from_config(self.config, trust_remote_code=self.wish.trust_remote_code)
        return sum(weight.numel() for weight in model.parameters())

    @cached_property
    def compute_dtype(self) -> torch.dtype:
        """In which number format models are compared: float32 where that fits into memory."""
        free = psutil.virtual_memory().available
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        return torch.float32 if 4 * self.parameters * _SPARE < free else self.dtype

    def load(self, dtype: torch.dtype, *, merge: bool, quantization: Quantization | None = None) -> Loaded:
        """The model with its adapters merged, or with the last one beside the weights."""
        return load_model(
            self.source,
            dtype=dtype,
            device=self.device,
            merge=merge and bool(self.source.adapters),
            quantization=quantization,
            trust_remote_code=self.wish.trust_remote_code,
            **self.wish.hub,
        )

    @property
    def trained_over(self) -> Quantization | None:
        """How the base was held in training; None for whole weights."""
        return trained_over(self.source)

    def template(self, loaded: Loaded) -> ChatTemplate | None:
        """The template it was trained with; None where it was trained on plain text and has none."""
        if not (self.wish.template or self.source.template or loaded.tokenizer.chat_template):
            return None
        return load_template(
            loaded.tokenizer,
            self.wish.template or self.source.template,
            default_system=self.wish.default_system or self.source.default_system,
            extra_stop_ids=loaded.stop_ids,
            enable_thinking=self.wish.enable_thinking,
        )

    @property
    def inputs(self) -> Sequence[str]:
        """Folders and files that are read."""
        gguf = [str(Path(self.source.location) / self.source.gguf_file)] if self.source.gguf_file else []
        return [self.source.location, *self.source.adapters, *gguf]


def _dtype_on_disk(folder: Path) -> str | None:
    """The number format of the first matrix in a model's files, for configs that do not name one."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        found = [part["dtype"] for name, part in header.items() if name != "__metadata__" and len(part["shape"]) > 1]
        if found:
            return names.get(found[0])
    return None
