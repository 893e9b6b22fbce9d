"""Answers of served models to data: for `burnish predict URL`, and for a judge."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.config import Settings
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.data.records import Sample
    from burnish.generate.remote import RemoteModel


NO_NAME = frozenset({"max_length"})
"""Settings of the sampler that OpenAI's interface has no name for, and no server is known to take."""


def refuse_idle(settings: Settings, idle: Collection[str]) -> None:
    """Raise BurnishError for settings of the command line that would be ignored."""
    for key in sorted(settings.given & set(idle)):
        if settings.origins.get(key) == "command line":
            raise BurnishError(f"'{key}' has no effect on a served model", at="command line", fix="leave it out")


def load_served(settings: Settings, url: str, model: str | None, option: str = "--model") -> RemoteModel:
    """A served model that is to answer data, with the sampler that the settings ask for, so that it and a model that
    is here are asked alike. What OpenAI's interface has no name for is sent only where it was set.

    Args:
        option: what the user names its model with.
    """
    from burnish.api import predicted_data, sampling_of
    from burnish.generate.remote import load_remote_model

    predicted_data(settings)  # an error there needs no server
    remote = load_remote_model(url, model, option=option, note=log.note)
    sampling, always = sampling_of(settings), {"max_new_tokens", "temperature", "top_p"}
    if sampling.do_sample:
        sampling = replace(sampling, seed=settings.training.seed)
    else:
        always.add("do_sample")
    remote.steer(sampling, always | settings.given)
    return remote


def answer_data_served(
    settings: Settings,
    remote: RemoteModel,
    folder: Path,
    samples: Iterable[Sample],
    *,
    at_once: int,
    overwrite: bool,
    renew: bool,
) -> dict[str, Any]:
    """Ask a served model what the settings name; returns what predict.json holds.

    Args:
        samples: rows of `predicted_samples`.
        at_once: requests under way at a time.
        overwrite: ask anew, for a server whose model has changed under the same name.
        renew: replace answers of something else; else they are an error.
    """
    from burnish.api import data_fingerprint, digest, predicted_data
    from burnish.evaluate.served import predict_served
    from burnish.generate.remote import shown_url

    names, held_out = predicted_data(settings)
    return predict_served(
        remote,
        samples,
        folder,
        about={
            "model": remote.model,
            "url": shown_url(remote.name),
            "datasets": list(names),
            "held_out": held_out,
            "sampling": remote.arguments(),
        },
        fingerprints={
            "weights": digest([remote.name, remote.model]),
            "data": data_fingerprint(settings),
            "settings": digest(remote.arguments()),
        },
        at_once=at_once,
        overwrite=overwrite,
        renew=renew,
    )


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")
