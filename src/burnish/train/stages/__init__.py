"""A stage is a value made of functions: what becomes of the records, and what module computes the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.batch.chunks import MakeChunk
from burnish.batch.collate import Batch, Layout
from burnish.batch.plan import Plan
from burnish.batch.store import Selection
from burnish.config import Settings
from burnish.model.load import Loaded
from burnish.registry import LazyTable
from burnish.template import ChatTemplate, Example
from burnish.train.engine import Engine
from burnish.train.figures import Sums
from burnish.train.reference import Reference
from burnish.train.rollouts.phase import Rollouts
from burnish.train.rollouts.prompts import StreamedPrompts
from burnish.train.rollouts.rewarding import Judge

STAGES = LazyTable("stage")
for _name in ("sft", "pt", "rm", "dpo", "kto", "ppo", "grpo", "rloo"):
    STAGES.add(_name, f"burnish.train.stages.{_name}:STAGE")


@dataclass(frozen=True)
class Parts:
    """What a stage's module is made from.

    Attributes:
        model: as it is trained, with its adapters.
        packed: whether it takes padding-free rows.
        datasets: names of the datasets that `Batch.datasets` counts; none where there is only one.
        reference: what `Stage.reference` gave; None where it gave none, or all it would say is computed already.
    """

    settings: Settings
    model: Any
    packed: bool
    datasets: Sequence[str] = ()
    reference: Reference | None = None


@dataclass(frozen=True)
class RolloutParts:
    """What a stage's rollouts are made from.

    Attributes:
        loaded: the model as it is trained, with its tokenizer.
        prompts: the examples, with their records; on disk, or of a stream.
        held_out: those that are evaluated on, by the name of their set.
        reference: what `Stage.reference` gave.
        folder: the run folder.
        judge: what scores the answers.
    """

    settings: Settings
    loaded: Loaded
    template: ChatTemplate
    prompts: Selection | StreamedPrompts
    layout: Layout
    engine: Engine
    reference: Reference | None
    folder: Path
    judge: Judge
    held_out: Mapping[str, Selection] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One way of training.

    Attributes:
        name: as in `stage:`.
        chunk: (samples, template, label options) → Chunk; the work of one process, found by its name.
        collate: (examples, sample numbers, layout) → Batch.
        module: Parts → a module whose forward takes a Batch and returns a LossSum.
        chats: whether the tuned model speaks by the chat template, which is then saved with it.
        unit: examples a sample becomes, which stay side by side in everything: 2 for a pair of answers.
        extend: (settings, loaded) → nothing: adds to the model what this stage trains besides it, such as a head.
        reference: (settings, loaded) → the policy to compare with, made before the model is trained; None for none.
        check: (settings, training examples' marks) → nothing: says or refuses what the labels need, before training.
        before_step: (module, examples of each micro-batch of this rank, layout, accelerator) → nothing: measures what
            all micro-batches of an optimizer step share.
        rollouts: RolloutParts → what makes the samples of the steps while the run goes on; the examples of the data
            are then prompts, and `collate` is not asked.
    """

    name: str
    chunk: MakeChunk
    collate: Callable[[Sequence[Example], Sequence[int], Layout], Batch]
    module: Callable[[Parts], Any]
    chats: bool = True
    unit: int = 1
    extend: Callable[[Settings, Loaded], None] | None = None
    reference: Callable[[Settings, Loaded], Reference | None] | None = None
    check: Callable[[Settings, Any], None] | None = None
    before_step: Callable[[Any, Sequence[Sequence[Example]], Layout, Any], None] | None = None
    rollouts: Callable[[RolloutParts], Rollouts] | None = None


def measured(
    stage: Stage, module: Any, plan: Plan, example: Callable[[int], Example], layout: Layout, accelerator: Any
) -> Callable[[int], Sums]:
    """What the loop calls before an optimizer step, with the number of finished steps."""
    measure = stage.before_step

    def before_step(step: int) -> Sums:
        if measure is not None:
            micro = plan.step(step, accelerator.process_index)
            measure(module, [[example(number) for number in part] for part in micro], layout, accelerator)
        return {}

    return before_step
