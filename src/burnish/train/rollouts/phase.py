"""The rollout phase: sample answers, judge them, find advantages, and keep it all for the steps that learn from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish import log
from burnish.batch.collate import RolloutBatch
from burnish.batch.store import Selection
from burnish.errors import BurnishError, RunFolderError
from burnish.train.engine import Engine
from burnish.train.figures import Sums, add
from burnish.train.reference import Reference
from burnish.train.rollouts.answers import Answer, Buffer
from burnish.train.rollouts.asking import NAMED, ask, counted, prompt_of, tell, where
from burnish.train.rollouts.completions import CompletionsFile
from burnish.train.rollouts.evaluating import HeldOut
from burnish.train.rollouts.methods import Judged, Method
from burnish.train.rollouts.plan import RolloutPlan
from burnish.train.rollouts.prompts import StreamedPrompts
from burnish.train.rollouts.rewarding import Judge
from burnish.train.rollouts.sample import Policy

ROLLOUT_FILE = "rollout.safetensors"
_UNSCORED_IN_A_ROW = 3
_WIDE_GAP = 0.1  # nats a token; 16-bit kernels of two kinds differ by some hundredths


@dataclass(frozen=True)
class RolloutOptions:
    """How rollouts are made.

    `units`: what an answer counts for in the loss, None where its tokens do. `keeps_old`: answers are learnt from in
    more than one step, so the probabilities of the policy that sampled are kept. `resample_times`: rounds of sampling
    other prompts in the place of groups whose rewards are all equal. `masks_truncated`: answers cut at the longest
    length are not learnt from.
    """

    units: int | None
    keeps_old: bool
    resample_times: int = 0
    masks_truncated: bool = False


@dataclass
class _State:
    """What a checkpoint keeps as JSON."""

    rollout: int = -1  # the number of the one in the buffer
    drawn: int = 0  # prompts so far
    unscored: int = 0  # rollouts in a row without a reward
    figures: Sums = field(default_factory=dict)  # of the rollout in the buffer
    method: dict[str, Any] = field(default_factory=dict)


class Rollouts:
    """What the loop takes its batches from, in place of a plan over samples on disk.

    Every rank holds the whole buffer; the prompts of a rollout are shared out, and what comes of them is gathered, so
    that advantages are the same everywhere. A seed belongs to a prompt and not to a rank.

    Args:
        prompts: the examples, with their records; on disk, or of a stream.
        reference: asked where the method's `beta` is not 0.
        held_out: what evaluations answer; None for none.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        prompts: Selection | StreamedPrompts,
        policy: Policy,
        judge: Judge,
        method: Method,
        options: RolloutOptions,
        reference: Reference | None,
        engine: Engine,
        completions: CompletionsFile | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self.stream = prompts if isinstance(prompts, StreamedPrompts) else None
        self.plan, self.prompts, self.policy, self.judge = plan, prompts, policy, judge
        self.method, self.options, self.engine = method, options, engine
        self.reference = reference if method.beta else None
        self.completions, self.held_out = completions, held_out
        self._state = _State()
        self._buffer: Buffer | None = None
        self._numbers: list[int] = []  # the prompt of each answer
        self._told_of_gap = False

    # -- what the loop asks -------------------------------------------------------------------------------------

    @property
    def rows_a_step(self) -> int:
        return self.plan.answers_a_step

    @property
    def steps_an_epoch(self) -> int:
        return 0 if self.stream else self.plan.steps_of(1)

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps of so many passes over the prompts."""
        return self.plan.steps_of(epochs)

    def epoch_at(self, step: int) -> float:
        """Passes over the prompts after `step` steps; of a stream, those that are complete."""
        return self.stream.epoch_at(self._state.drawn) if self.stream else self.plan.epoch_at(step)

    def position(self, step: int) -> None:
        """Nothing: `write` keeps it."""
        return None

    @property
    def stand_in(self) -> list[int]:
        """An answer for a rank that has none."""
        return [int(self._filled.used.nonzero()[0, 0])]

    def step(self, step: int, rank: int = 0) -> list[list[int]]:
        """The micro-batches of a step, as places in the buffer that `prepare` filled."""
        return self.plan.step(step, rank, self._filled.used.tolist())

    def batch(self, numbers: Sequence[int]) -> RolloutBatch:
        """Answers of the buffer as a batch."""
        return self._filled.batch(numbers, self.policy.layout, self.options.units)

    def describe(self, numbers: Sequence[int]) -> str:
        """Datasets and rows of the prompts of answers, for errors."""
        return "; ".join(dict.fromkeys(where(self.prompts, self._numbers[number]) for number in numbers))

    def prepare(self, step: int) -> Sums:
        """Make the rollout that a step learns from, if it is not there; returns its figures.

        Raises:
            BurnishError: several rollouts in a row had no reward.
        """
        rollout = step // self.plan.steps_a_rollout
        if rollout != self._state.rollout:
            self._make(rollout, step + 1)
        return dict(self._state.figures) if self.engine.is_main_process else {}

    @property
    def _filled(self) -> Buffer:
        assert self._buffer is not None, "no rollout was made yet"
        return self._buffer

    # -- one rollout ----------------------------------------------------------------------------------------------

    def _make(self, rollout: int, first_step: int) -> None:
        figures: Sums = {}
        if self.stream:
            self.stream.begin(self._state.drawn)
        with self.policy.ready():
            answers, varied = self._gather(figures)
            said = self._said(answers)
        rewards = torch.tensor([float("nan") if one.reward is None else one.reward for one in answers])
        used = rewards.isfinite() & torch.tensor(varied)
        if self.options.masks_truncated:
            used &= torch.tensor([one.finished for one in answers])
        groups = torch.arange(len(answers)) // self.plan.copies
        lengths = torch.tensor([len(one.ids) for one in answers])
        learnt = self.method.learn(Judged(rewards, groups, lengths, used, **said))
        old = said.get("old_logprobs")
        if old is not None:  # what sampler and training forward differ by: rounding, or something to look into
            sampled = torch.tensor([value for one in answers for value in one.logprobs])
            gap = float((old - sampled).abs().sum())
            add(figures, {"sampling_gap": [gap, float(len(old))]})
            self._watch_the_gap(gap / max(len(old), 1))
        kept = {name: value for name, value in said.items() if name != "ref_logprobs" or self._loss_has_reference}
        if not self.options.keeps_old:
            kept["old_logprobs"] = None
        self._buffer = Buffer.of(answers, used, kept, learnt)
        self._numbers = [one.number for one in answers]
        own = {name: [float(total), float(count)] for name, (total, count) in learnt.figures.items()}
        if "zero_variance_groups" in figures:  # counted before groups were dropped
            own.pop("zero_variance_groups", None)
        add(figures, own)
        state = self._state
        state.rollout, state.figures, state.method = rollout, figures, self.method.state_dict()
        self._watch_for_rewards(used, answers)
        if self.completions and self.engine.is_main_process and self.completions.due(first_step):
            shown = [prompt_of(self.prompts, one.number) for one in answers]
            places = [where(self.prompts, one.number) for one in answers]
            self.completions.write(first_step, answers, shown, places)

    def _gather(self, figures: Sums) -> tuple[list[Answer], list[bool]]:
        """The answers of a rollout, groups side by side; and which of them are worth learning from.

        Groups whose rewards are all equal teach nothing. Where other prompts may be sampled in their place, those that
        are left over at the end are not learnt from, so that they leave the denominator too.
        """
        wanted, rounds = self.plan.prompts_a_rollout, self.options.resample_times
        kept: list[list[Answer]] = []
        spare: list[list[Answer]] = []
        notes: list[str] = []
        for round_ in range(rounds + 1):
            found = self._sample(wanted - len(kept), notes)
            for answers in found:
                (kept if not rounds or _differ(answers) else spare).append(answers)
            if rounds:
                alike = [not _differ(answers) for answers in found]
                add(figures, {"zero_variance_groups": [float(sum(alike)), float(len(alike))]})
            if len(kept) == wanted or round_ == rounds:
                break
        if rounds:
            add(figures, {"resampled_rounds": [float(round_), 1.0]})
        tell(notes, "in this rollout")
        groups = [*kept, *spare[: wanted - len(kept)]]
        flat = [answer for answers in groups for answer in answers]
        longest = max(len(one.ids) for one in flat)
        add(figures, counted(self.judge, flat) | {"completions/max_length": [float(longest), 1.0]})
        return flat, [place < len(kept) * self.plan.copies for place in range(len(flat))]

    def _sample(self, count: int, notes: list[str]) -> list[list[Answer]]:
        """Sample and judge the answers to the next `count` prompts, on all ranks; every rank gets all of them."""
        engine, first = self.engine, self._state.drawn
        self._state.drawn += count
        draw = self.stream.draw if self.stream else self.plan.prompt
        drawn = [draw(place) for place in range(first, first + count)]
        mine = range(first + engine.process_index, first + count, engine.num_processes)
        numbers = drawn[engine.process_index :: engine.num_processes]
        seeds = [self.plan.seed_of(place) for place in mine]
        judged, said = ask(
            self.policy, self.judge, self.prompts, numbers, places=mine, seeds=seeds, copies=self.plan.copies
        )
        together = self._everywhere((judged, said))
        notes += [note for _, each in together for note in each]
        every = sorted((one for part, _ in together for one in part), key=lambda one: one.place)
        return [every[start : start + self.plan.copies] for start in range(0, len(every), self.plan.copies)]

    def _said(self, answers: Sequence[Answer]) -> dict[str, Tensor | None]:
        """What policy, value head and reference say of all answers' tokens; the ranks share the work."""
        # What another engine sampled with is not known to be this policy until it is looked at.
        wants_old = self.options.keeps_old or self.method.asks_old or self.policy.other is not None
        if not wants_old and self.reference is None:
            return {}
        engine = self.engine
        mine = range(engine.process_index, len(answers), engine.num_processes)
        parts = self.policy.said(
            [answers[number].example() for number in mine],
            reference=self.reference,
            old=wants_old,
            values=self.method.asks_values,
        )
        whole: dict[str, Tensor | None] = {}
        together = self._everywhere(parts)
        for name in parts:
            each: list[Tensor] = [torch.empty(0)] * len(answers)
            for rank, given in enumerate(together):
                each[rank :: engine.num_processes] = given[name]
            whole[name] = torch.cat(each)
        return whole

    @property
    def _loss_has_reference(self) -> bool:
        """Whether the KL stands in the loss; else it is part of the rewards already."""
        return not self.method.asks_old

    def _everywhere(self, mine: Any) -> list[Any]:
        """What each rank has, in the order of the ranks."""
        if self.engine.num_processes == 1:
            return [mine]
        from accelerate.utils import gather_object

        return list(gather_object([mine]))

    # -- what people are told ---------------------------------------------------------------------------------------

    def _watch_the_gap(self, gap: float) -> None:
        """Say once that the engine that samples and the model that learns are not the same policy."""
        if self.policy.other is None or gap <= _WIDE_GAP or self._told_of_gap:
            return
        self._told_of_gap = True
        log.note(
            f"vLLM's log-probabilities are {gap:.3f} nats a token away from those of the training (sampling_gap): "
            f"above {_WIDE_GAP:g} the answers are those of another policy; look at number formats, top_p and top_k"
        )

    def _watch_for_rewards(self, used: Tensor, answers: Sequence[Answer]) -> None:
        if any(one.reward is not None for one in answers):
            self._state.unscored = 0
            if self.options.masks_truncated and not any(one.finished for one in answers):
                log.note(
                    f"all {len(answers)} answers of this rollout were cut at max_new_tokens, and "
                    "mask_truncated_completions leaves such out: the weights stay as they are"
                )
            return
        self._state.unscored += 1
        what = f"none of the {len(answers)} answers of this rollout got a reward"
        if self._state.unscored < _UNSCORED_IN_A_ROW:
            log.note(f"{what}: the weights stay as they are")
            return
        raise BurnishError(
            f"{what}, nor did those of the {_UNSCORED_IN_A_ROW - 1} rollouts before it",
            at=self.describe(range(min(NAMED, len(answers)))),
            fix=f"look at the notes about {', '.join(self.judge.names)} above; the last checkpoint is from before",
        )

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def write(self, folder: Path, step: int) -> None:
        """Put what exact resuming needs into a checkpoint; the buffer only where steps are still to learn from it.

        Args:
            step: finished optimizer steps.
        """
        from safetensors.torch import save_file

        busy = self._buffer is not None and step % self.plan.steps_a_rollout
        tensors = self._filled.tensors() if busy else {"none": torch.zeros(1)}
        about = {**vars(self._state), "step": step, "numbers": self._numbers if busy else []}
        about |= {"stream": self.stream.position()} if self.stream else {}
        save_file(tensors, folder / ROLLOUT_FILE, metadata={"state": json.dumps(about)})

    def summary(self) -> dict[str, Any] | None:
        """What was read of a stream, for run.json; None where the prompts are on disk."""
        return self.stream.summary(self._state.drawn) if self.stream else None

    def close(self) -> None:
        """End what prepares prompts ahead, and another engine that samples."""
        if self.stream:
            self.stream.close()
        if self.policy.other is not None:
            self.policy.other.close()

    def start(self) -> None:
        """Begin from the beginning."""
        if self.completions and self.engine.is_main_process:
            self.completions.truncate_after(0)

    def read(self, folder: Path) -> None:
        """Put back what `write` kept. Raises RunFolderError where it is not there."""
        from safetensors import safe_open

        file = folder / ROLLOUT_FILE
        if not file.is_file():
            raise RunFolderError(
                "this checkpoint holds no rollout", at=str(folder), fix="resume with the stage that wrote it"
            )
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        self._numbers, step = about.pop("numbers"), about.pop("step")
        position = about.pop("stream", None)
        self._state = _State(**about)
        if self.stream and position is not None:
            self.stream.seek(position, self._state.drawn)
        self.method.load_state_dict(self._state.method)
        if "none" not in tensors:
            self._buffer = Buffer.from_tensors(tensors)
        if self.completions and self.engine.is_main_process:
            self.completions.truncate_after(step)


def _differ(answers: Sequence[Answer]) -> bool:
    """Whether a group has rewards that are not all equal."""
    return len({one.reward for one in answers if one.reward is not None}) > 1
