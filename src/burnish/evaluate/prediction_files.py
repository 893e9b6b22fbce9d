"""predictions.jsonl and predict.json: written row by row, gone on with after a kill, never mixed with other runs'."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from burnish.errors import RunFolderError
from burnish.model.source import ModelSource
from burnish.runs.files import to_json, write_atomically
from burnish.runs.lock import hold

PREDICTIONS, RESULTS, PAGE = "predictions.jsonl", "predict.json", "predictions.html"
_SCHEMA = 1
_PROBES, _PROBE_BYTES = 64, 1 << 16
_READ = ("*.safetensors", "config.json", "adapter_config.json", "tokenizer*.json", "*.jinja")


class PredictionFiles:
    """The predictions of one model on one set of rows, in a folder. Use `open`.

    Attributes:
        done: number of a row → its line, for all that are written.
        seconds: spent on them by earlier calls, as far as that is known.
    """

    def __init__(self, folder: Path, about: dict[str, Any], stream: BinaryIO, done: dict[int, dict[str, Any]]) -> None:
        self.folder, self.done = folder, done
        self.seconds = float(about.get("runtime_s") or 0.0)
        self._about, self._stream = about, stream
        self._started = time.perf_counter()

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, fingerprints: Mapping[str, str], *, overwrite: bool, renew: bool = False
    ) -> Iterator[PredictionFiles]:
        """Open a folder for predictions; rows that are there are kept.

        Args:
            fingerprints: name → digest of what decides the predictions.
            overwrite: remove predictions that are there (nothing else), unless they are the beginning of these.
            renew: remove them only if they are those of something else.
        Raises:
            RunFolderError: predictions of something else are there, another process works here, or nothing can be
                written here.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        with hold(folder):
            there = read_results(folder) or {}
            same = there.get("fingerprints") == dict(fingerprints)
            broke_off = same and there.get("status") == "running"
            if (overwrite and not broke_off) or (renew and not same):
                for name in (PREDICTIONS, RESULTS, PAGE):
                    (folder / name).unlink(missing_ok=True)
            about = _about(folder, fingerprints)
            done = _lines(folder / PREDICTIONS) if about else {}
            about = {"schema": _SCHEMA, "status": "running", "fingerprints": dict(fingerprints), **_kept(about)}
            try:
                write_atomically(folder / RESULTS, (to_json(about, indent=2) + "\n").encode())
                with (folder / PREDICTIONS).open("ab") as stream:
                    files = cls(folder, about, stream, done)
                    try:
                        yield files
                    finally:
                        files._keep_time()
            except OSError as error:
                raise _cannot_write(folder, error) from error

    def add(self, line: dict[str, Any]) -> None:
        """Write a row's line; it is in the file when this returns."""
        self._stream.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8"))
        self._stream.flush()
        self.done[line["index"]] = line

    def lines(self) -> list[dict[str, Any]]:
        """All lines in the order of the rows."""
        return [self.done[place] for place in sorted(self.done)]

    def finish(self, results: Mapping[str, Any]) -> None:
        """Put the lines in the order of the rows and write the figures."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines())
        write_atomically(self.folder / PREDICTIONS, text.encode("utf-8"))
        self._about = {**self._about, **results, "status": "completed"}
        write_atomically(self.folder / RESULTS, (to_json(self._about, indent=2) + "\n").encode())

    def _keep_time(self) -> None:
        """After an error or Ctrl-C: remember the time spent, so that tokens/s stay true."""
        if self._about["status"] == "running":
            self._about["runtime_s"] = round(self.seconds + time.perf_counter() - self._started, 3)
            write_atomically(self.folder / RESULTS, (to_json(self._about, indent=2) + "\n").encode())


def read_results(folder: Path) -> dict[str, Any] | None:
    """What predict.json holds; None where there is none that can be read."""
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _about(folder: Path, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """What an earlier call wrote of itself; empty where there was none. Raises RunFolderError for another one."""
    about = read_results(folder)
    if about is None and not (folder / PREDICTIONS).exists():
        return {}
    known = (about or {}).get("fingerprints", {})
    changed = [name for name, digest in fingerprints.items() if known.get(name) != digest]
    if changed:
        raise RunFolderError(
            f"the predictions here were made with other {' and other '.join(changed)}",
            at=str(folder / PREDICTIONS),
            fix="overwrite_output_dir=true replaces them, output_dir=… puts the new ones elsewhere",
        )
    return about or {}


def _kept(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"runtime_s": about["runtime_s"]} if "runtime_s" in about else {}


def _lines(path: Path) -> dict[int, dict[str, Any]]:
    """The rows in a file. A last line that was being written when the process died is cut off the file."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    found = {}
    for number, text in enumerate(whole.decode("utf-8").splitlines()):
        try:
            line = json.loads(text)
            found[int(line["index"])] = line
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                "this line is no prediction", at=f"{path}: line {number + 1}", fix="remove it, or the file"
            ) from error
    return found


def _cannot_write(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"the predictions cannot be written: {error.strerror or error}",
        at=str(error.filename or folder),
        fix="free space, or name another output_dir; the rows that are done are kept",
    )


def weights_digest(source: ModelSource) -> str:
    """A digest of a model's weights and tokenizer, from 64 samples of each file: another training gives another one.

    A model on the hub counts by its name alone.
    """
    digest = hashlib.sha256(source.location.encode() if not source.local else b"")
    folders = [Path(each) for each in (*([source.location] if source.local else ()), *source.adapters)]
    for folder in folders:
        names = [folder / source.gguf_file] if source.gguf_file and folder == folders[0] else []
        names = names or sorted(file for pattern in _READ for file in folder.glob(pattern))
        for file in names:
            digest.update(file.name.encode())
            _sample(digest, file)
    return digest.hexdigest()


def _sample(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        for probe in range(_PROBES if size > _PROBES * _PROBE_BYTES else 1):
            stream.seek(probe * (size - _PROBE_BYTES) // (_PROBES - 1) if size > _PROBES * _PROBE_BYTES else 0)
            digest.update(stream.read(_PROBE_BYTES if size > _PROBES * _PROBE_BYTES else size))
