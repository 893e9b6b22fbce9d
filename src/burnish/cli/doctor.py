"""`burnish runs doctor`: what a run left, and what its model says when it is asked."""

from __future__ import annotations

import gc
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.cli.runs import print_json
from burnish.config import Settings, load_settings
from burnish.errors import BurnishError
from burnish.runs.doctor import Evidence, diagnose, render
from burnish.runs.doctor.curves import spiking_steps
from burnish.runs.doctor.probe import Asked, Probe
from burnish.runs.doctor.rows import RowLoss, odd_rows
from burnish.runs.doctor.sawtooth import waves_of

if TYPE_CHECKING:
    from burnish.batch.store import Origin
    from burnish.data.records import Sample
    from burnish.evaluate.probing import Likely, Pair
    from burnish.generate.chat import ChatModel
    from burnish.train.data import RunData, TrainSet
    from burnish.train.sample_losses import SampleLoss

_PAIRS = 4  # rows whose losses are measured for each prompt that is asked
_LEAST_PAIRS, _MOST_PAIRS = 32, 128
_MEASURED = ("sft", "pt")


def run_doctor(run_dir: str, *, probe: int = 0, worst: int = 0, as_json: bool = False) -> None:
    """Print what is wrong with a run."""
    log.set_quiet(as_json)
    run = Evidence.of(Path(run_dir))
    run = examined(run, probe, worst)
    findings = diagnose(run)
    if not as_json:
        log.console().print(render(run, findings), markup=False, soft_wrap=True)
        return
    told: dict[str, Any] = {
        "schema": 1,
        "run": str(run.path),
        "findings": [finding.as_json() for finding in findings],
        **({"probe": run.probe.as_json()} if run.probe else {}),
        **({"worst": [each.as_json() for each in run.odd_rows]} if worst else {}),
    }
    print_json(told)


def examined(run: Evidence, probe: int, worst: int) -> Evidence:
    """The evidence with what is measured for it: what was asked for, and what was in the batches of spikes and waves.

    Args:
        probe: training prompts to ask the model, and as many held-out ones.
        worst: rows to list.
    Raises:
        BurnishError: what was asked for cannot be measured.
    """
    wanted = probe or worst or spiking_steps(run) or waves_of(run)
    return _Examination(run).evidence(probe, worst) if wanted else run


class _Examination:
    """What needs the run's data and its model."""

    def __init__(self, run: Evidence) -> None:
        held = dict(run.summary.get("settings") or {})
        own = {"resume_from_checkpoint": None, "overwrite_output_dir": None, "overwrite_cache": None}
        self.run = run
        self.settings: Settings = load_settings({**held, **own, "output_dir": str(run.path)})

    def evidence(self, probe: int, worst: int) -> Evidence:
        """As `examined`."""
        self._check(probe, worst)
        try:
            data = self._data()
        except BurnishError as error:
            if probe or worst:
                raise
            return replace(self.run, batches=_reason(error), order=_reason(error))
        found = self._batches(data)
        if not (probe or worst):
            return found
        chat = self._model()
        losses = self._losses(chat, data) if worst else []
        if losses:
            rows = [RowLoss(one.dataset, one.file, one.row, one.loss, one.tokens, one.text) for one in losses]
            of_each = {(row.dataset, row.file, row.row): row.loss for row in rows}
            found = replace(found, odd_rows=odd_rows(rows, worst), losses=of_each)
        return replace(found, probe=self._probe(chat, data, probe)) if probe else found

    def _check(self, probe: int, worst: int) -> None:
        stage = self.run.stage
        if probe and stage != "sft":
            raise BurnishError(
                f"stage: {stage} does not teach the answers of the data, so they cannot be compared",
                at="--probe",
                fix="leave it out" + (", or use --worst" if stage == "pt" else ""),
            )
        if worst and stage not in _MEASURED:
            raise BurnishError(
                f"the loss of stage: {stage} is not one of single rows", at="--worst", fix="leave it out"
            )

    # -- data ---------------------------------------------------------------------------------------------

    def _data(self) -> RunData:
        from burnish.train.retrace import data_of_run

        return data_of_run(self.settings, self.run.summary)

    def _batches(self, data: RunData) -> Evidence:
        """The rows of spikes, and where the loss goes up and down what was in all its steps."""
        from burnish.train.retrace import order_of_run, rows_of_steps

        run = self.run
        steps = {step for each in spiking_steps(run) for step in range(each.first, each.last + 1)}
        every = range(1, run.series("loss")[-1][0] + 1) if waves_of(run) else ()
        try:
            batches = rows_of_steps(self.settings, run.summary, data, sorted(steps)) if steps else {}
            order = order_of_run(self.settings, run.summary, data, every) if every else None
        except BurnishError as error:
            return replace(run, batches=_reason(error), order=_reason(error))
        return replace(run, batches=batches, order=order)

    def _samples(self, names: Sequence[str], wanted: Collection[Origin]) -> Iterator[Sample]:
        """The rows that are wanted, in file order."""
        from burnish.data.load import iter_samples
        from burnish.train.sets import data_folder, reading

        left = set(wanted)
        settings = self.settings
        for one in iter_samples(names, data_folder(settings), on_bad_row=settings.data.on_bad_row, **reading(settings)):
            if (one.dataset, one.file, one.row) in left:
                left.remove((one.dataset, one.file, one.row))
                yield one
            if not left:
                return

    # -- the model ----------------------------------------------------------------------------------------

    def _model(self) -> ChatModel:
        from burnish.api import loading_options, sampling_of
        from burnish.generate.chat import load_chat_model

        options = loading_options(self.settings) | {"adapters": ()}  # they belong to the base that the run began from
        return load_chat_model(str(self.run.path), say=log.say, sampling=sampling_of(self.settings), **options)

    def _losses(self, chat: ChatModel, data: RunData) -> list[SampleLoss]:
        from burnish.batch.windows import Windows
        from burnish.train.sample_losses import losses_of

        assert data.train is not None
        examples = data.train.documents if isinstance(data.train, Windows) else data.train
        return losses_of(self.settings, chat.model, chat.template, examples)

    def _probe(self, chat: ChatModel, data: RunData, count: int) -> Probe:
        from burnish.evaluate.probing import ask, found_on, measure

        pairs = {"training": self._pairs(chat, self.settings.data.dataset, [data.train], count)}
        eval_names = self.settings.data.eval_dataset or self.settings.data.dataset
        pairs["held-out"] = self._pairs(chat, eval_names, list(data.eval.values()), count)
        kinds = {name: part for name, part in pairs.items() if part}
        if not pairs["training"]:
            raise BurnishError("no training row has an answer to compare with", at="--probe", fix="leave it out")
        size, seed = self.settings.training.per_device_eval_batch_size, self.settings.training.seed
        said = {name: ask(chat, part[:count], batch_size=size, seed=seed) for name, part in kinds.items()}
        tuned = {name: measure(chat.model, part) for name, part in kinds.items()}
        base, notes = self._before(chat, kinds)
        found: dict[str, Asked] = {
            name: found_on(part, said[name], tuned[name], base.get(name)) for name, part in kinds.items()
        }
        return Probe(found["training"], found.get("held-out"), tuple(notes))

    def _before(self, chat: ChatModel, kinds: dict[str, list[Pair]]) -> tuple[dict[str, Likely], list[str]]:
        """The same losses under the model that the run began from; it takes the place of the tuned one in memory."""
        from burnish.api import load_base
        from burnish.evaluate.probing import known_ids, measure

        if self.settings.model.train_from_scratch:
            return {}, []
        rows = chat.model.get_input_embeddings().weight.shape[0]
        chat.model = None
        gc.collect()
        try:
            base = load_base(self.settings, chat)
        except BurnishError as error:
            return {}, [f"the model before training was not asked: {error.what}"]
        if not all(known_ids(base.model, part) for part in kinds.values()):
            return {}, [f"the model before training lacks tokens of the run ({rows} rows), so it was not asked"]
        return {name: measure(base.model, part, "before training") for name, part in kinds.items()}, []

    def _pairs(self, chat: ChatModel, names: Sequence[str], sets: Sequence[TrainSet | None], count: int) -> list[Pair]:
        """Some rows of sets, drawn with the run's seed: the first `count` of them are asked, all are measured."""
        from burnish.evaluate.probing import pairs_of
        from burnish.generate.engine import Engine

        wanted = min(max(_LEAST_PAIRS, _PAIRS * count), max(_MOST_PAIRS, count))
        origins = [(part, number) for part in sets if part is not None for number in range(len(part))]
        draw = random.Random(f"doctor/{self.settings.training.seed}")
        # A row may have become several samples: some more are drawn than are wanted.
        drawn = draw.sample(origins, min(len(origins), 4 * wanted))
        chosen = list(dict.fromkeys(part.origin(number) for part, number in drawn))[:wanted]
        found = {(one.dataset, one.file, one.row): one for one in self._samples(names, chosen)}
        room = Engine(chat.model, slots=1).window
        return pairs_of([found[origin] for origin in chosen if origin in found], chat.template, room)


def _reason(error: BurnishError) -> str:
    return f"{error.what} ({error.at})" if error.at else error.what
