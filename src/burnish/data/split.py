"""Taking some of the samples: a random part, or an evaluation split."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from burnish.data.records import Sample
from burnish.errors import DataError


def choose(total: int, count: int, seed: int, name: str) -> list[int]:
    """`count` random positions out of `total`; where there are fewer, all of them and then some again.

    Returns:
        Positions in the order they were drawn. The same seed and dataset name give the same ones.
    """
    rng = random.Random(f"num_samples {seed} {_last_part(name)}")
    drawn = rng.sample(range(total), min(count, total))
    return drawn + [rng.randrange(total) for _ in range(count - len(drawn))]


def split_samples(samples: Sequence[Sample], val_size: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out an evaluation part, from each dataset in proportion to its size.

    Copies of one row (from `num_samples`) stay on one side: no row is both trained on and evaluated.

    Args:
        samples: all samples.
        val_size: below 1 a share of the rows, from 1 on a count of rows; 0 holds out nothing.
        seed: the same seed and samples give the same split.
    Returns:
        Training and evaluation samples, each in the order of `samples`.
    Raises:
        DataError: val_size is negative, or nothing would be left to train on.
    """
    rows: dict[str, list[tuple[str, int]]] = {}
    for dataset, file, row in dict.fromkeys((sample.dataset, sample.file, sample.row) for sample in samples):
        rows.setdefault(dataset, []).append((file, row))
    held: set[tuple[str, tuple[str, int]]] = set()
    for dataset, positions in held_out({name: len(found) for name, found in rows.items()}, val_size, seed).items():
        held.update((dataset, rows[dataset][position]) for position in positions)
    kept: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        kept[(sample.dataset, (sample.file, sample.row)) in held].append(sample)
    return kept


def held_out(sizes: Mapping[str, int], val_size: float, seed: int) -> dict[str, list[int]]:
    """Which rows of each dataset are held out, as positions among its distinct rows.

    Args:
        sizes: distinct rows of each dataset.
        val_size, seed: as in `split_samples`.
    Raises:
        DataError: as `split_samples`.
    """
    if val_size < 0:
        raise DataError(f"val_size is {val_size}", at="val_size", fix="give a share below 1, or a count")
    total = sum(sizes.values())
    if val_size == 0 or not total:
        return {}
    wanted = max(1, round(total * val_size)) if val_size < 1 else int(val_size)
    if wanted >= total:
        raise DataError(
            f"val_size {val_size:g} holds out {wanted} of {total} rows: none is left to train on",
            at="val_size",
            fix=f"give a count below {total}, or a smaller share",
        )
    return {
        dataset: random.Random(f"val_size {seed} {_last_part(dataset)}").sample(range(sizes[dataset]), count)
        for dataset, count in _shares(sizes, wanted).items()
    }


def _shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` divided in proportion to the sizes; what is left over goes to the largest remainders."""
    total = sum(sizes.values())
    shares = {name: size * wanted // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(sizes[name] * wanted % total), name))
    for name in by_remainder[: wanted - sum(shares.values())]:
        shares[name] += 1
    return shares


def _last_part(name: str) -> str:
    """A dataset's name without the folders before it: data that was moved is drawn from as before."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1]
