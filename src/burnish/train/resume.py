"""Checkpoints of a run: what is written, what a resumed run takes over, and what differs from before."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from burnish import log
from burnish.config import Settings
from burnish.errors import RunFolderError
from burnish.model.load import Loaded
from burnish.model.reward import has_value_head, load_value_head, save_value_head, split_head, value_head_apart
from burnish.model.save import is_adapter, load_adapter_weights, mend_generation_config, save_tokenizer, save_weights
from burnish.runs.checkpoints import (
    MANIFEST,
    checkpoint_step,
    list_checkpoints,
    newest_complete,
    rotate,
    verify,
    write_checkpoint,
)
from burnish.runs.files import is_disk_full, place_files
from burnish.runs.folder import RunFolder
from burnish.template import ChatTemplate
from burnish.train.data import RunData
from burnish.train.engine import Engine
from burnish.train.exact import LENGTH, exact_settings
from burnish.train.preflight import checkpoints_to_come, require_room, require_saveable
from burnish.train.rollouts.phase import Rollouts
from burnish.train.stages import Stage
from burnish.train.state import (
    STATE_FILE,
    Progress,
    load_state,
    read_progress,
    rng_tensors,
    save_rng,
    save_state,
)

Weights = dict[str, Any]
"""Tensors by their names in the model."""


class Checkpoints:
    """The checkpoints in one run folder."""

    def __init__(self, settings: Settings, folder: RunFolder, engine: Engine, stage: Stage) -> None:
        self.settings, self.folder, self.engine, self.stage = settings, folder, engine, stage
        self.is_main: bool = engine.is_main_process
        self.rollouts: Rollouts | None = None  # of a stage that has them, once they are built
        self._resumed_from: Path | None = None
        self._last_weights: Path | None = None  # the checkpoint whose weights the finished run gets

    def resume(self, loaded: Loaded, data: RunData) -> Progress:
        """Put the weights back as a checkpoint has them, or start fresh; says what differs from before.

        `restore` puts back the rest, once the optimizer is there.

        Raises:
            RunFolderError: the checkpoint that was asked for is not complete or does not fit.
        """
        asked = self.settings.training.resume_from_checkpoint
        fresh = Progress(fingerprint=data.fingerprint, settings=exact_settings(self.settings, self.engine))
        checkpoint = self._find(asked) if asked else None
        if checkpoint is None:
            if asked:
                log.note("no checkpoint to resume from yet; starting from the beginning")
            if self.is_main:
                self.folder.metrics.truncate_after(0)
                self._set_aside_later_checkpoints(-1)
            return fresh
        before = read_progress(checkpoint)
        for key, value in fresh.settings.items():
            if key in before.settings and before.settings[key] != value:
                log.note(f"{key} was {before.settings[key]} and is now {value}: the run will not be the same one")
        if before.fingerprint and before.fingerprint != data.fingerprint:
            log.note("the data gives other tokens than before the interruption: the run will not be the same one")
        _load_weights(loaded, checkpoint)
        progress, self._resumed_from = before, checkpoint
        if any(before.settings.get(key) != fresh.settings[key] for key in LENGTH):
            progress.ended = None
        progress.settings, progress.fingerprint = fresh.settings, fresh.fingerprint
        self._bring_best(progress, checkpoint.parent)
        if not self.is_main:
            progress.window_figures = {}  # what was saved is the sum over all ranks; the first one goes on with it
        if self.is_main:
            self.folder.metrics.truncate_after(progress.step)
            self._set_aside_later_checkpoints(progress.step)
            self._rotate(progress, checkpoint)  # it may have been killed between the last save and this
        log.say(f"resumed from {checkpoint.name}")
        return progress

    def restore(self, optimizer: Any) -> None:
        """Put optimizer and random state back as the checkpoint of `resume` has them; the last thing before a step."""
        if self._resumed_from is not None:
            load_state(self._resumed_from, self.engine, optimizer)
            if self.rollouts is not None:
                self.rollouts.read(self._resumed_from)
        elif self.rollouts is not None:
            self.rollouts.start()

    def _set_aside_later_checkpoints(self, step: int) -> None:
        """Rename checkpoints of a branch that is abandoned by going on from an earlier one; none is deleted."""
        for path in list_checkpoints(self.folder.path):
            if (checkpoint_step(path) or 0) > step:
                aside = path.with_name(f"abandoned-{path.name}-{time.strftime('%Y%m%d-%H%M%S')}")
                path.rename(aside)
                log.note(f"{path.name} is later than the step this run goes on from; kept as {aside.name}")

    def _find(self, asked: bool | str) -> Path | None:
        if isinstance(asked, str):
            path = Path(asked).expanduser()
            if (path / STATE_FILE).is_file() or path.name.startswith("checkpoint-"):
                problems = verify(path)
                if problems:
                    raise RunFolderError(
                        f"this checkpoint is not complete: {problems[0]}",
                        at=str(path),
                        fix="resume_from_checkpoint: true takes the newest complete one",
                    )
                return path
            parent = path
        else:
            parent = self.folder.path
        newest, skipped = newest_complete(parent)
        for folder, reason in skipped:
            log.note(f"skipped {folder.name}: {reason}")
        while newest is not None and not (newest / STATE_FILE).is_file():
            log.note(f"skipped {newest.name}: it holds weights only (save_only_model)")
            step = checkpoint_step(newest) or 0
            older = [p for p in list_checkpoints(parent) if (checkpoint_step(p) or 0) < step and not verify(p)]
            newest = older[-1] if older else None
        if newest is None and (skipped or isinstance(asked, str)):
            raise RunFolderError(
                "none of the checkpoints here is complete" if skipped else "there is no checkpoint here to go on from",
                at=str(parent),
                fix="without resume_from_checkpoint, overwrite_output_dir: true starts anew and deletes the run here",
            )
        return newest

    def save(
        self, loaded: Loaded, template: ChatTemplate, optimizer: Any, progress: Progress, stopping: bool
    ) -> Path | None:
        """Write a checkpoint, whole or not at all, and rotate the old ones. Called on every rank.

        A run that is stopping saves its state even with save_only_model: else it could not go on.
        """
        training = self.settings.training
        with_state = stopping or not training.save_only_model
        weights = self.engine.whole_weights(loaded.model)
        state = self.engine.optimizer_tensors(optimizer) if with_state else {}

        def write(folder: Path) -> None:
            self.write_model(loaded, template, folder, weights)
            if with_state:
                save_state(folder, progress, state)
                if self.rollouts is not None:
                    self.rollouts.write(folder, progress.step)
                for rank, random_state in enumerate(random_states):
                    if rank:
                        save_rng(folder, rank, random_state)

        random_states = self.engine.gather_objects(rng_tensors())
        path = None
        if self.is_main:
            self.folder.metrics.flush()  # a checkpoint must not survive the rows before it
            path = write_checkpoint(self.folder.path, progress.step, write)
            self._rotate(progress, path)
        self.engine.wait_for_everyone()
        return path

    def load_weights(self, loaded: Loaded, step: int) -> bool:
        """Put the weights of this run's own checkpoint back into the model. False, with a note, where it is damaged."""
        checkpoint = self.folder.path / f"checkpoint-{step}"
        if problems := verify(checkpoint):
            log.note(f"{checkpoint.name} was the best and cannot be used: {problems[0]}; keeping the last weights")
            return False
        if self.engine.cuts_weights:
            self._last_weights = checkpoint  # the model holds shards: the files are taken as they are
        else:
            _load_weights(loaded, checkpoint)
        return True

    def _rotate(self, progress: Progress, newest: Path) -> None:
        best = self.folder.path / f"checkpoint-{progress.best_step}"
        protect = [newest, best] if self._keeps_best else [newest]
        rotate(self.folder.path, self.settings.training.save_total_limit, protect=protect)

    def _bring_best(self, progress: Progress, parent: Path) -> None:
        """Have the best checkpoint so far in this folder too; where it is lost, the best is looked for anew."""
        if not progress.best_step or not self._keeps_best:
            return
        name = f"checkpoint-{progress.best_step}"
        if not verify(self.folder.path / name):
            return
        if problems := verify(parent / name):
            log.note(f"the best so far, {name}, cannot be used: {problems[0]}; the best is looked for from here on")
            progress.best_value, progress.best_step, progress.worse_evaluations = None, 0, 0
        elif self.is_main:

            def copy(folder: Path) -> None:
                shutil.copytree(parent / name, folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)

            write_checkpoint(self.folder.path, progress.best_step, copy)

    @property
    def _keeps_best(self) -> bool:
        training = self.settings.training
        return training.load_best_model_at_end or training.save_strategy == "best"

    def preflight(
        self, loaded: Loaded, template: ChatTemplate, optimizer: Any, done: int, total: int, every: int
    ) -> None:
        """Fail before the first step, not at the first save: can it be written, and is there room for it all?

        It is saved once for nothing: an adapter with zeros, of full weights one number.

        Args:
            done, total: steps made, and of the whole run.  every: steps between two checkpoints; 0 if not known.
        Raises:
            ModelError, RunFolderError: what is trained could not be saved.
        """
        model, training, stand_in = loaded.model, self.settings.training, {"rehearsal": torch.zeros(1)}
        if is_adapter(model):
            every_name = model.named_parameters(remove_duplicate=False)  # tied copies are saved under both
            trained = {name: parameter for name, parameter in every_name if parameter.requires_grad}
            stand_in = {name: torch.zeros(p.shape, dtype=p.dtype) for name, p in trained.items()}
        elif changed := mend_generation_config(model):
            log.note(changed)
        require_saveable(lambda folder: self.write_model(loaded, template, folder, stand_in), self.folder.path)
        saved = [p for p in model.parameters() if p.requires_grad or not is_adapter(model)]
        weights = sum(p.numel() * p.element_size() for p in saved)
        states = sum(p.numel() * 12 for group in optimizer.param_groups for p in group["params"])
        coming = 0
        if training.save_strategy != "no":
            there, best = len(list_checkpoints(self.folder.path)), training.load_best_model_at_end
            coming = checkpoints_to_come(total, done, every, training.save_total_limit, there, best=best)
        require_room(self.folder, weights, 0 if training.save_only_model else states, coming)

    def write_final(self, loaded: Loaded, template: ChatTemplate, step: int, weights: Weights | None) -> None:
        """Write what was trained into the run folder: each file whole, or as it was.

        Args:
            weights: as in `write_model`.

        Raises:
            RunFolderError: the disk refuses; the checkpoint of the last step, if there is one, still holds it all.
        """
        try:
            place_files(self.folder.path, lambda folder: self._write_last(loaded, template, folder, weights))
        except Exception as error:
            full = is_disk_full(error)
            if not (full or isinstance(error, OSError)):
                raise
            kept = (self.folder.path / f"checkpoint-{step}").is_dir()
            raise RunFolderError(
                f"{'the disk is full' if full else error}: the trained weights could not be saved"
                + (f"; checkpoint-{step} holds them" if kept else ""),
                at=str(self.folder.path),
                fix=f"{'free some space' if full else 'mend that'}, then `resume_from_checkpoint: true` "
                + ("saves them without training again" if kept else "goes on from the last checkpoint"),
            ) from error

    def _write_last(self, loaded: Loaded, template: ChatTemplate, folder: Path, weights: Weights | None) -> None:
        self.write_model(loaded, template, folder, weights)
        if self._last_weights is not None:
            for file in (
                *self._last_weights.glob("*model*.safetensors*"),
                *self._last_weights.glob("*_head.safetensors"),
            ):
                shutil.copyfile(file, folder / file.name)

    def write_model(self, loaded: Loaded, template: ChatTemplate, folder: Path, weights: Weights | None = None) -> None:
        """Write what was trained and the tokenizer with the training template.

        Args:
            weights: tensors by name to write in place of the model's own.
        """
        source = loaded.source
        base = str(Path(source.location).resolve()) if source.local else source.location
        if source.gguf_file:
            base = str(Path(base) / source.gguf_file)
        head, below = (None, None) if weights is None else split_head(weights)
        with value_head_apart(loaded.model):
            save_weights(
                loaded.model,
                folder,
                base_name=base,
                merged=loaded.merged,
                weights=below,
                start=loaded.start,
                changes=loaded.changes,
            )
        if has_value_head(loaded.model):
            save_value_head(loaded.model, folder, head)
        if self.stage.chats:
            save_tokenizer(loaded.tokenizer, folder, template.saved_source, template.terminator_id)
        else:
            save_tokenizer(loaded.tokenizer, folder, loaded.tokenizer.chat_template, loaded.tokenizer.eos_token_id)


def _load_weights(loaded: Loaded, checkpoint: Path) -> None:
    """Put the trained weights of a checkpoint back into a model that was built the same way."""
    model = loaded.model
    try:
        with value_head_apart(model):
            differing = _copy_weights(loaded, checkpoint)
    except (RuntimeError, KeyError, ValueError) as error:  # torch's words for shapes that differ
        differing = [str(error).strip().splitlines()[-1].strip()]
    if differing:
        raise RunFolderError(
            f"the checkpoint does not fit this model: {differing[0][:200]}",
            at=str(checkpoint),
            fix="resume with the same model, finetuning_type, lora_rank and lora_target, or use a new output_dir",
        )
    if has_value_head(model):
        load_value_head(model, checkpoint)


def _copy_weights(loaded: Loaded, checkpoint: Path) -> list[str]:
    """Load the weights; returns what differs between the checkpoint and the model."""
    from safetensors.torch import load_file

    model = loaded.model
    adapter = checkpoint / "adapter_model.safetensors"
    if adapter.is_file() != is_adapter(model):
        return ["one of them is a LoRA run and the other is not"]
    if adapter.is_file():
        differing, loaded.start = load_adapter_weights(model, adapter, loaded.start)
        return differing
    weights: dict[str, Any] = {}
    for shard in sorted(checkpoint.glob("model*.safetensors")):
        weights |= load_file(shard)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    return [f"'{name}' has no counterpart" for name in [*unexpected, *(n for n in missing if n not in tied)]]
