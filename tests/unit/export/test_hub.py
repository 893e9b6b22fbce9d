"""Uploading, by huggingface_hub itself, to a Hub on this machine."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from burnish.errors import BurnishError
from burnish.export.hub import require_access, upload
from tests.uploads import serve


@pytest.fixture
def hub(monkeypatch):
    with serve(monkeypatch) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# It\n")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 300)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "it.gguf").write_bytes(b"GGUF" * 1000)
    return tmp_path


def test_all_files_arrive_in_one_commit(hub, folder):
    assert require_access("me/it", hub.token) == "me"
    assert upload(folder, "me/it", hub.token) == f"{hub.url}/me/it"
    assert hub.files == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert len(hub.stored) == 2
    assert hub.commits == ["Exported by Burnish"]
    assert hub.cards == [(folder / "README.md").read_text()]
    [made] = hub.created
    assert (made["name"], made["organization"], made["type"]) == ("it", "me", "model")


def test_a_model_is_private_unless_asked(hub, folder):
    upload(folder, "me/it", hub.token)
    upload(folder, "me/it", hub.token, public=True)
    assert [made["visibility"] for made in hub.created] == ["private", "public"]


def test_a_model_that_is_there_gets_another_commit(hub, folder):
    hub.refuses["/api/repos/create"] = 409
    upload(folder, "me/it", hub.token)
    assert hub.commits == ["Exported by Burnish"]


def test_what_is_wrong_is_told_before_any_work(hub, monkeypatch):
    with pytest.raises(BurnishError, match="does not take the model") as caught:
        require_access("me/it", "hf_wrong")
    assert "hf auth login" in caught.value.fix
    hub.role = "read"
    with pytest.raises(BurnishError, match="the token of me may only read"):
        require_access("me/it", hub.token)
    for name in ("it", "me/it/more", "me/", "me/my model"):
        with pytest.raises(BurnishError, match="no name of a model"):
            require_access(name, hub.token)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(BurnishError, match="there is no token for the Hub"):
        require_access("me/it", None)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BurnishError, match="HF_HUB_OFFLINE is set"):
        require_access("me/it", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BurnishError, match="the Hub cannot be reached") as caught:
        require_access("me/it", "hf_secret")
    assert "HF_ENDPOINT" in caught.value.fix


@pytest.mark.parametrize("path", ["/api/models/me/it/commit/main", "/me/it.git/info/lfs/objects/batch"])
def test_an_upload_that_fails_says_where_the_export_is(hub, folder, path):
    hub.refuses[path] = 403
    with pytest.raises(BurnishError, match="does not take the model") as caught:
        upload(folder, "me/it", hub.token)
    assert f"hf upload me/it {folder}" in caught.value.fix
    assert not hub.files


def test_an_object_that_does_not_arrive(hub, folder, monkeypatch):
    monkeypatch.setattr("tests.uploads._Handler.do_PUT", lambda self: self.send(422, {}))
    with pytest.raises(BurnishError, match="422"):
        upload(folder, "me/it", hub.token)
    assert not hub.commits
