"""An exported folder on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.errors import BurnishError


def _api(token: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=token)


def require_access(repo: str, token: str | None) -> str:
    """The name of the account that uploads; asked before any work is done.

    Raises:
        BurnishError: there is no token, it is refused, or the Hub cannot be reached.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise BurnishError(f"'{repo}' is no name of a model on the Hub", at="--push-to-hub", fix="write owner/name")
    try:
        return str(_api(token).whoami()["name"])
    except (OSError, ValueError, KeyError) as error:  # what huggingface_hub raises derives from these
        raise _failed(repo, error) from error


def upload(folder: Path, repo: str, token: str | None, *, public: bool = False) -> str:
    """Create the model on the Hub if it is not there, and upload a folder in one commit; returns its address.

    Args:
        public: who may see it, if it is new; one that is there already stays as it is.
    Raises:
        BurnishError: the Hub refuses. The folder stays where it is.
    """
    api = _api(token)
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True, repo_type="model")
        api.upload_folder(folder_path=str(folder), repo_id=repo, commit_message="Exported by Burnish")
    except (OSError, ValueError) as error:
        raise _failed(repo, error) from error
    return str(url)


def _failed(repo: str, error: Exception) -> BurnishError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BurnishError(
        f"the Hub does not take the model: {first[:200]}",
        at=repo,
        fix="log in with `hf auth login`, or give hf_hub_token; the token needs the right to write",
    )
