"""Native code is compiled once and kept; where it cannot be, the reason is said."""

import stat

import pytest

from burnish.kernels import native as native_room
from burnish.kernels.native import CannotCompile, native


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "缓存 of mine"))
    native.cache_clear()
    yield tmp_path
    native.cache_clear()


def compiler(folder, body):
    path = folder / "mycc"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_without_a_compiler_it_says_so(fresh, monkeypatch):
    monkeypatch.setattr(native_room.shutil, "which", lambda name: None)
    with pytest.raises(CannotCompile, match="no C compiler"):
        native("decode")


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch):
    monkeypatch.setenv("CC", compiler(fresh, "echo 'omp.h: not found' >&2; exit 1"))
    with pytest.raises(CannotCompile, match=r"mycc failed: omp.h: not found"):
        native("decode")
    assert not list(fresh.rglob("*.so"))


def test_what_is_no_library_is_refused(fresh, monkeypatch):
    monkeypatch.setenv("CC", compiler(fresh, 'while [ "$1" != -o ]; do shift; done; echo junk > "$2"'))
    with pytest.raises(CannotCompile, match="cannot be loaded"):
        native("decode")


def test_a_folder_that_cannot_be_written_is_a_reason(fresh, monkeypatch):
    (fresh / "缓存 of mine").write_text("a file")
    with pytest.raises(CannotCompile, match="compiling failed"):
        native("decode")


def test_it_is_compiled_once(fresh, monkeypatch):
    try:
        native("decode")
    except CannotCompile as error:
        pytest.skip(str(error))
    native.cache_clear()
    monkeypatch.setattr(native_room, "_compile", lambda *given: pytest.fail("compiled again"))
    assert native("decode").burnish_operation_size() > 0
