"""Files of text: decompressed, decoded, in chunks or lines, with flat memory.

UTF-8 is the rule, with or without a byte order mark; UTF-16 is known by its mark. A file that is plain ASCII up to
its first foreign byte, and reads as common Chinese in GB18030 from there on, is taken for GB18030 and said so.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from burnish.errors import DataError

COMPRESSIONS = (".gz", ".zst")
_CHUNK_BYTES = 1 << 18
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark begins alike
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHINESE_SHARE = 0.8
_ENOUGH_BYTES = 64


class Mark(NamedTuple):
    """A place in a file between two rows.

    Args:
        byte: where; what lies before it is UTF-8.
        lines: how many lines lie before the one in which it is.
        rows: how many rows lie before it.
        ascii: nothing but ASCII lies before it, so that the file may yet turn out to be GB18030.
        column: where in its line it is, in characters from 1.
    """

    byte: int = 0
    lines: int = 0
    rows: int = 0
    ascii: bool = True
    column: int = 1


START = Mark()


def ending(path: Path) -> str:
    """The file type: the last ending without a compression, `.jsonl` for `chats.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed where it ends in .gz or .zst.

    Raises:
        DataError: the file cannot be opened, or its compressed data is broken or breaks off; also while it is read.
    """
    packed = path.suffix.lower()
    try:
        with _opened(path, packed) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(path, "gzip", error) from None
    except OSError as error:
        if packed == ".zst" and error.errno is None:
            raise _broken(path, "zstd", error) from None
        raise DataError(f"cannot read the file: {error.strerror or error}", at=str(path)) from None


def _opened(path: Path, packed: str) -> Any:
    if packed == ".gz":
        return gzip.open(path, "rb")
    if packed == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return path.open("rb")


def _broken(path: Path, name: str, error: Exception) -> DataError:
    return DataError(
        f"the {name} data is broken: {error}", at=str(path), fix="the file is damaged or incomplete: fetch it again"
    )


class _Decoder:
    """Bytes to text, piece by piece; settles on an encoding by the first bytes that tell.

    Args:
        at: where the first piece begins.
    """

    def __init__(self, path: Path, notes: list[str], at: Mark) -> None:
        self.path, self.notes = path, notes
        self.encoding = "utf-8" if at.byte else ""
        self.tail = b""
        self.fed = at.byte
        self.lines = at.lines
        self.ascii = at.ascii
        self.other: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes, final: bool) -> str:
        if not self.encoding:
            data = self._settle(data)
        text = self._other(data, final) if self.other else self._utf8(self.tail + data, final)
        self.lines += text.count("\n")
        return text

    def _settle(self, data: bytes) -> bytes:
        mark, self.encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
        if self.encoding == "utf-32":
            raise DataError("the file is UTF-32", at=f"{self.path}: byte 0", fix="save the file as UTF-8")
        if self.encoding == "utf-16":
            self.notes.append(f"{self.path.name}: read as UTF-16, by its byte order mark")
            self.other = codecs.getincrementaldecoder("utf-16")()
            return data
        self.ascii = not mark
        self.fed = len(mark)
        return data[len(mark) :]

    def _utf8(self, data: bytes, final: bool) -> str:
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            if self.ascii and data[: error.start].isascii():
                if not final and len(data) - error.start < _ENOUGH_BYTES:
                    return self._wait(data, error.start)
                text = self._chinese(data, final)
                if text:
                    return text
            raise self._error(data, error) from None
        self.tail = data[used:]
        self.fed += used
        self.ascii = self.ascii and text.isascii()
        return text

    def _wait(self, data: bytes, start: int) -> str:
        """Keep what follows for the next piece: a byte or two do not tell what a file is."""
        self.tail = data[start:]
        self.fed += start
        return data[:start].decode("ascii")

    def _chinese(self, data: bytes, final: bool) -> str:
        """The text as GB18030 if it then is mostly common Chinese; Latin-1 text, say, is not."""
        decoder = codecs.getincrementaldecoder("gb18030")()
        try:
            text = decoder.decode(data, final)
        except UnicodeDecodeError:
            return ""
        foreign = [char for char in text[:100_000] if not char.isascii()]
        common = len("".join(foreign).encode("gb2312", "ignore")) / 2
        if not foreign or common < _CHINESE_SHARE * len(foreign):
            return ""
        self.notes.append(f"{self.path.name}: is not UTF-8; read as GB18030")
        self.encoding, self.other, self.tail = "gb18030", decoder, b""
        self.fed += len(data)
        return text

    def _other(self, data: bytes, final: bool) -> str:
        assert self.other is not None
        pending = self.other.getstate()[0]
        try:
            text = self.other.decode(data, final)
        except UnicodeDecodeError as error:
            self.fed -= len(pending)
            raise self._error(pending + data, error) from None
        self.fed += len(data)
        return text

    def _error(self, data: bytes, error: UnicodeDecodeError) -> DataError:
        line = self.lines + data[: error.start].count(b"\n") + 1
        name = {"utf-8": "UTF-8", "utf-16": "UTF-16", "gb18030": "GB18030"}[self.encoding]
        return DataError(
            f"the file is not {name}: byte 0x{data[error.start]:02x}",
            at=f"{self.path}: line {line}, byte {self.fed + error.start}",
            fix="save the file as UTF-8",
        )


def read_chunks(path: Path, notes: list[str], at: Mark = START) -> Iterator[str]:
    """The text of a file in pieces of some hundred thousand characters.

    Args:
        notes: gets a sentence where they are not UTF-8.
        at: where to begin; of a compressed file only its start.
    Raises:
        DataError: bytes that are no text; names the line and the byte, both as they are after decompression.
    """
    decoder = _Decoder(path, notes, at)
    with open_bytes(path) as stream:
        if at.byte:
            stream.seek(at.byte)
        data = stream.read(_CHUNK_BYTES)
        while data:
            later = stream.read(_CHUNK_BYTES)
            text = decoder.feed(data, not later)
            if text:
                yield text
            data = later


def read_lines(path: Path, notes: list[str], at: Mark = START) -> Iterator[str]:
    """The lines of a file from a place on, each with its newline. Only a newline ends a line, as in JSON lines."""
    parts: list[str] = []
    for chunk in read_chunks(path, notes, at):
        first, *more = chunk.split("\n")
        parts.append(first)
        if more:
            yield "".join(parts) + "\n"
            for line in more[:-1]:
                yield line + "\n"
            parts = [more[-1]]
    last = "".join(parts)
    if last:
        yield last


def utf8_bytes(text: str) -> int:
    """How many bytes a text takes as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def first_byte(path: Path) -> int:
    """Where the text of a UTF-8 file begins that is not compressed: after its byte order mark, if it has one."""
    with open_bytes(path) as stream:
        return len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0


@contextmanager
def open_seekable(path: Path) -> Iterator[BinaryIO]:
    """A file that can be read from any place; a compressed one is unpacked into a temporary file."""
    with open_bytes(path) as stream:
        if path.suffix.lower() not in COMPRESSIONS:
            yield stream
            return
        import shutil
        import tempfile

        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(stream, unpacked, 1 << 20)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)
