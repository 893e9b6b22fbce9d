"""Functions that a settings file names: found in files and modules, and blamed for what they raise."""

from __future__ import annotations

import pytest

from burnish.errors import BurnishError
from burnish.user_code import load_object, own_code


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n\n\n@dataclasses.dataclass\nclass Box:\n    size: int\n\n\n"
        "def double(number):\n    return 2 * number\n"
    )


def test_a_file_or_a_module(tmp_path):
    assert load_object("mine.py:double", "callbacks")(4) == 8
    assert load_object(f"{tmp_path}/mine.py:Box", "callbacks")(3).size == 3
    assert load_object("mine:double", "callbacks")(2) == 4
    assert load_object("math:sqrt", "callbacks")(9) == 3


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("double", "'double' does not name a function"),
        ("mine.py:", "'mine.py:' does not name a function"),
        ("yours.py:double", "there is no file yours.py"),
        ("mine.py:doubel", "there is no function 'doubel' in mine.py"),
        ("no_such_module:double", "no_such_module failed: ModuleNotFoundError"),
    ],
)
def test_what_is_not_there(spec, what):
    with pytest.raises(BurnishError, match="^" + what.replace(".", r"\.")) as caught:
        load_object(spec, "loss_function")
    assert caught.value.at == "loss_function"
    if "doubel" in spec:
        assert caught.value.fix == "did you mean 'double'?"


def test_a_file_that_fails_shows_its_own_line(tmp_path):
    (tmp_path / "broken.py").write_text("number = 1\nnumber / 0\n")
    with pytest.raises(BurnishError, match=r"ZeroDivisionError[\s\S]*broken.py\", line 2[\s\S]*number / 0"):
        load_object("broken.py:number", "loss_function")


def test_errors_of_ours_pass_through():
    with pytest.raises(BurnishError, match=r"^mine$"), own_code("callbacks", "f"):
        raise BurnishError("mine")
