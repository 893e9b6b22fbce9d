"""Datasets on a hub to local files: asked for by `huggingface_hub` or `modelscope`, kept in a cache folder.

Only data files are fetched. A loading script is never fetched and never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish import log
from burnish.data.hub_files import choose_converted, choose_files
from burnish.data.readers import READERS
from burnish.data.spec import DatasetSpec
from burnish.data.text import COMPRESSIONS
from burnish.errors import DataError, MissingExtraError

CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps its own Parquet form of a dataset."""
_BIG_BYTES = 20 << 20


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit: its files, and the header of its card."""

    commit: str
    files: tuple[str, ...]
    card: dict[str, Any]


def fetch_hugging_face(spec: DatasetSpec, cache_dir: Path, token: str | None, notes: list[str]) -> list[Path]:
    """The files of a dataset on the Hugging Face hub, downloaded where the cache does not have them.

    `HF_ENDPOINT` names a mirror, `HF_TOKEN` a token, and with `HF_HUB_OFFLINE=1` only the cache is used. Where
    the connection breaks, the download goes on where it stopped; what a killed process had of a file is lost, since
    the library names partial files anew each time.

    Raises:
        DataError: the repository, subset, split or a file is not there, or the hub cannot be reached.
    """
    listing = _list(spec, spec.revision or "main", cache_dir, token, notes)
    chosen = choose_files(listing.files, listing.card, spec, notes)
    if not chosen:
        notes.append(f"{spec.name}: '{spec.source}' has no data files; the Parquet files that the hub made are read")
        listing = _list(spec, CONVERTED, cache_dir, token, notes)
        chosen = choose_converted(listing.files, spec, notes)
    if not chosen:
        raise DataError(
            f"'{spec.source}' has no data files that can be read (a loading script is never run)",
            at=spec.where(),
            fix=f"the types that can be read: {', '.join(READERS)}",
        )
    return [_download(spec, name, listing.commit, cache_dir, token) for name in chosen]


def _list(spec: DatasetSpec, revision: str, cache_dir: Path, token: str | None, notes: list[str]) -> Listing:
    """Ask what a repository holds. The answer is kept, and serves where the hub cannot be reached."""
    from huggingface_hub import HfApi, constants

    kept = cache_dir / "listings" / f"{spec.source.replace('/', '--')}@{revision.replace('/', '--')}.json"
    if constants.HF_HUB_OFFLINE:
        if kept.is_file():
            return _read_listing(kept)
        raise DataError(
            f"'{spec.source}' is not in the cache, and HF_HUB_OFFLINE is set",
            at=str(cache_dir),
            fix="run once with a network, or unset HF_HUB_OFFLINE",
        )
    try:
        with _explained(spec, revision):
            info = HfApi(endpoint=_endpoint(), token=token).dataset_info(spec.source, revision=revision)
    except HubUnreachable as error:
        if not kept.is_file():
            raise
        notes.append(f"{spec.name}: {error.what}; the copy in the cache is used")
        return _read_listing(kept)
    card = info.card_data.to_dict() if info.card_data else {}
    files = tuple(sibling.rfilename for sibling in info.siblings or ())
    listing = Listing(info.sha or revision, files, {"configs": card.get("configs")})
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = kept.with_name(f"{kept.name}.{os.getpid()}")
    aside.write_text(json.dumps([listing.commit, listing.files, listing.card], default=str), encoding="utf-8")
    aside.replace(kept)
    return listing


def _read_listing(kept: Path) -> Listing:
    commit, files, card = json.loads(kept.read_text(encoding="utf-8"))
    return Listing(commit, tuple(files), card)


def _endpoint() -> str | None:
    """The mirror, read when it is needed: the library reads it only once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _download(spec: DatasetSpec, name: str, commit: str, cache_dir: Path, token: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(spec, commit, name):
        found = hf_hub_download(
            spec.source,
            name,
            repo_type="dataset",
            revision=commit,
            cache_dir=cache_dir / "hub",
            endpoint=_endpoint(),
            token=token,
            tqdm_class=_progress_class(),
        )
    return Path(found)


class HubUnreachable(DataError):
    """The hub did not answer, or answered that it cannot."""


@contextmanager
def _explained(spec: DatasetSpec, revision: str, name: str | None = None) -> Iterator[None]:
    """Errors of the library as errors that say what to do."""
    from huggingface_hub import errors

    # The HTTP library differs between versions of huggingface_hub; its error is the base of theirs.
    http_errors: Any = (errors.HfHubHTTPError.__mro__[1], OSError)
    what = f"'{spec.source}'" + (f", file {name}," if name else "")
    try:
        yield
    except errors.GatedRepoError:
        fix = "ask for access on its page, then set HF_TOKEN or hf_hub_token"
        raise DataError(f"{what} asks its users for consent first", at=spec.where(), fix=fix) from None
    except errors.RevisionNotFoundError:
        where = spec.where("revision")
        raise DataError(f"{what} has no revision '{revision}'", at=where, fix="name a branch, tag or commit") from None
    except errors.RepositoryNotFoundError:
        fix = "check the name (owner/dataset); for a private one set HF_TOKEN or hf_hub_token"
        fix = _no_path(spec) + fix
        raise DataError(f"{what} is not on the hub", at=spec.where(), fix=fix) from None
    except errors.HFValidationError as error:
        raise DataError(
            f"{what} is no name of a dataset: {error}", at=spec.where(), fix="write owner/dataset"
        ) from None
    except (errors.LocalEntryNotFoundError, *http_errors) as error:
        raise HubUnreachable(
            f"{what} cannot be fetched: {_first_line(error)}",
            at=spec.where(),
            fix=_no_path(spec) + "check the network, or set HF_ENDPOINT to a mirror; files that are complete are kept",
        ) from None


def _no_path(spec: DatasetSpec) -> str:
    """What to say first where the name may have been meant as a path."""
    return f"there is no file '{spec.name}' here either; " if spec.entry is None else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _progress_class() -> Any:
    """A stand-in for the bars of huggingface_hub that shows big files through our own log."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            total, done = int(options.get("total") or 0), int(options.get("initial") or 0)
            title = f"fetching {str(options.get('desc') or 'data').rpartition('/')[2]} (MB)"
            shown = total >= _BIG_BYTES
            self.ours = log.progress(title, total >> 20 if shown else 0, done=done >> 20)
            self.our_bar = self.ours.__enter__()
            self.bytes, self.closed = done, False
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            before, self.bytes = self.bytes, self.bytes + int(n or 0)
            if self.bytes >> 20 != before >> 20:
                self.our_bar.advance((self.bytes >> 20) - (before >> 20))
            return None

        def close(self) -> None:
            if not self.closed:
                self.closed = True
                self.ours.__exit__(None, None, None)
            super().close()

    return Bar


def fetch_modelscope(spec: DatasetSpec, cache_dir: Path, token: str | None, notes: list[str]) -> list[Path]:
    """The files of a dataset on ModelScope, through the `modelscope` package.

    It offers no listing, so all data files of the repository (or of `folder`) are fetched, then chosen from.

    Raises:
        MissingExtraError: the package is not installed.
        DataError: the dataset cannot be fetched, or has no such subset or split.
    """
    try:
        from modelscope.hub.snapshot_download import dataset_snapshot_download
    except ImportError:
        raise MissingExtraError(f"reading '{spec.source}' from ModelScope", "modelscope") from None
    try:
        fetched = dataset_snapshot_download(
            spec.source,
            revision=spec.revision or "master",
            cache_dir=str(cache_dir / "modelscope"),
            allow_patterns=_wanted_patterns(spec.folder),
            token=token,
        )
    except Exception as error:  # noqa: BLE001 - the package raises bare errors of several libraries
        raise DataError(
            f"'{spec.source}' cannot be fetched from ModelScope: {_first_line(error)}",
            at=spec.where(),
            fix="check the name and the network; for a private dataset set ms_hub_token",
        ) from None
    folder = Path(fetched)
    names = sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file())
    chosen = choose_files(names, read_card(folder / "README.md"), spec, notes)
    if not chosen:
        raise DataError(
            f"'{spec.source}' has no data files that can be read (a loading script is never run)",
            at=spec.where(),
            fix=f"the types that can be read: {', '.join(READERS)}",
        )
    return [folder / name for name in chosen]


def _wanted_patterns(folder: str | None) -> list[str]:
    base = f"{folder.strip('/')}/" if folder else ""
    endings: Sequence[str] = [f"{kind}{packed}" for kind in READERS for packed in ("", *COMPRESSIONS)]
    return ["README.md", *(f"{base}*{kind}" for kind in endings)]


def read_card(path: Path) -> dict[str, Any]:
    """The header of a README between its two `---` lines; empty where there is none that can be read."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    if not text.startswith("---"):
        return {}
    try:
        card = yaml.safe_load(text[3:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}
