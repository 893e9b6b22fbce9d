"""Uploading, against a Hub that writes down what it is asked."""

from __future__ import annotations

import pytest

from burnish.errors import BurnishError
from burnish.export import hub


class Hub:
    asked: list = []  # noqa: RUF012 - shared with the test

    def __init__(self, token=None):
        self.asked.append(("token", token))

    def whoami(self):
        return {"name": "me"}

    def create_repo(self, repo, **options):
        self.asked.append(("create", repo, options["private"]))
        return f"https://hub/{repo}"

    def upload_folder(self, *, folder_path, repo_id, commit_message):
        self.asked.append(("upload", folder_path, repo_id))


def test_an_upload_is_private_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    Hub.asked.clear()
    assert hub.require_access("me/model", "secret") == "me"
    assert hub.upload(tmp_path, "me/model", "secret") == "https://hub/me/model"
    hub.upload(tmp_path, "me/model", "secret", public=True)
    created = [each for each in Hub.asked if each[0] == "create"]
    assert created == [("create", "me/model", True), ("create", "me/model", False)]
    assert ("upload", str(tmp_path), "me/model") in Hub.asked


def test_a_hub_that_refuses_is_an_error(tmp_path, monkeypatch):
    class Refusing(Hub):
        def whoami(self):
            raise OSError("401 Client Error\nRequest ID: 5")

    monkeypatch.setattr("huggingface_hub.HfApi", Refusing)
    with pytest.raises(BurnishError, match="does not take the model: 401 Client Error"):
        hub.require_access("me/model", None)
    with pytest.raises(BurnishError, match="no name of a model"):
        hub.require_access("model", None)
