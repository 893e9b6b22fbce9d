"""Datasets that take turns, each read from its own place on: what they hold in turn is divided into lanes, too.

A lane mixes its own share of each dataset. Which dataset a sample comes from is a function of the seed, the pass, the
lane and the number of the choice, and a place is that number and a place in each dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from burnish.data.corpus import Corpus, Undivided
from burnish.data.draws import Draws
from burnish.data.mix import Chances, Turns
from burnish.data.records import Sample
from burnish.errors import DataError


class PartReader(Protocol):
    """The samples of a pass over a lane of a dataset, and the place after the last one that was taken."""

    @property
    def cursor(self) -> dict[str, Any]: ...

    def __next__(self) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...


class Part(Protocol):
    """One dataset of a mixture: a Corpus, or Draws from one."""

    def read(self, lane: int = 0, lanes: int = 1, cursor: Mapping[str, Any] | None = None) -> PartReader: ...

    def divide(self, lanes: int) -> Sequence[Any]: ...

    def hold_out(self, samples: Any, count: int) -> None: ...


class Mixture:
    """The datasets of a corpus, mixed.

    Args:
        corpus: names the datasets.
        strategy, probs: as in `Turns`.
        seed: for `probs`.
    Raises:
        DataError: as `Draws`.
    """

    def __init__(self, corpus: Corpus, strategy: str, probs: Sequence[float] | None, seed: int) -> None:
        self.strategy, self.probs, self.seed = strategy, probs, seed
        self.names = [spec.name for spec in corpus.specs]
        each = [corpus.alone(number) for number in range(len(self.names))]
        self.parts: list[Part] = [Draws(one) if one.specs[0].num_samples else one for one in each]

    def read(
        self, lane: int = 0, lanes: int = 1, cursor: Mapping[str, Any] | None = None, epoch: int = 0
    ) -> MixtureReader:
        """Begin a pass over a lane, or go on with one.

        Args:
            cursor: that of an earlier reader of this lane and pass.
            epoch: which pass it is: the datasets take turns in another order in each, where chance decides.
        Raises:
            Undivided: as `divide`.
        """
        starts = [partial(part.read, lane, lanes) for part in self.parts]
        places = [None] * len(starts) if cursor is None else cursor["parts"]
        running = [start(place) for start, place in zip(starts, places, strict=True)]
        chance = Chances(f"interleave {self.seed}/{epoch}/{lane}")
        return MixtureReader(starts, self.strategy, self.probs, chance, cursor, running)

    def divide(self, lanes: int) -> list[list[Any]]:
        """What each lane holds of each dataset. Raises Undivided where one of them has no such lanes."""
        found = []
        for name, part in zip(self.names, self.parts, strict=True):
            try:
                found.append(part.divide(lanes))
            except Undivided as error:
                raise Undivided(f"{name}: {error.what}") from None
        return [[shares[lane] for shares in found] for lane in range(lanes)]

    def hold_out(self, samples: MixtureReader, count: int) -> None:
        """Leave the rows that `samples` gave out of all passes from now on.

        Raises:
            DataError: a dataset has none left.
        """
        for part, reader in zip(self.parts, samples.running, strict=True):
            part.hold_out(reader, count)
        used_up = samples.standing["used_up"]
        for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            if number in used_up or next(iter(part.read()), None) is None:
                raise DataError(
                    f"val_size {count} holds out all rows of '{name}': none is left to train on",
                    at="val_size",
                    fix="give a smaller count, or name an eval_dataset",
                )


class MixtureReader(Turns[Sample]):
    """The samples of one pass over a lane; `cursor` is the place after the last one that was taken."""

    running: list[PartReader]  # type: ignore[assignment]

    @property
    def cursor(self) -> dict[str, Any]:
        """Whose turn is next, and the place in each dataset; ready for JSON."""
        return {**self.standing, "parts": [reader.cursor for reader in self.running]}
