"""An exported folder on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.errors import BurnishError

_LOG_IN = "log in with `hf auth login`, or give hf_hub_token; the token needs the right to write"


def _api(token: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=token)


def _http_error() -> type[Exception]:
    """The base of what huggingface_hub's HTTP library raises, whichever that is in its version."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__mro__[1]


def _troubles() -> Any:  # a tuple of classes
    """What huggingface_hub raises: its own errors, those of its uploads, and those of its HTTP library."""
    return OSError, ValueError, RuntimeError, _http_error()


def require_access(repo: str, token: str | None) -> str:
    """The name of the account that uploads; asked before any work is done.

    Raises:
        BurnishError: the name cannot be one, there is no token, it is refused or may only read, or the Hub cannot be
            reached.
    """
    from huggingface_hub.utils import validate_repo_id

    try:
        if repo.count("/") != 1:
            raise ValueError
        validate_repo_id(repo)
    except ValueError:
        fix = "write owner/name, with letters, digits, - _ and . alone"
        raise BurnishError(f"'{repo}' is no name of a model on the Hub", at="--push-to-hub", fix=fix) from None
    try:
        account = _api(token).whoami()
        name = str(account["name"])
    except (*_troubles(), KeyError) as error:
        raise _failed(repo, error) from error
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise BurnishError(f"the token of {name} may only read", at=repo, fix=_LOG_IN)
    return name


def upload(folder: Path, repo: str, token: str | None, *, public: bool = False) -> str:
    """Create the model on the Hub if it is not there, and upload a folder in one commit; returns its address.

    One commit, so that nobody sees a model with half of its files: `upload_folder` may make several.

    Args:
        public: who may see it, if it is new; one that is there already stays as it is.
    Raises:
        BurnishError: the Hub refuses. The folder stays where it is.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api(token)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True, repo_type="model")
        api.create_commit(
            repo,
            [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files],
            commit_message="Exported by Burnish",
            repo_type="model",
        )
    except _troubles() as error:
        failed = _failed(repo, error)
        failed.fix = f"{failed.fix}. The export stands in {folder}; `hf upload {repo} {folder}` sends it as it is"
        raise failed from error
    return str(url)


def _failed(repo: str, error: Exception) -> BurnishError:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalTokenNotFoundError):
        return BurnishError("there is no token for the Hub", at=repo, fix=_LOG_IN)
    if isinstance(error, OfflineModeIsEnabled):
        return BurnishError("the Hub is not asked: HF_HUB_OFFLINE is set", at=repo, fix="unset it to upload")
    first = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, HfHubHTTPError):
        return BurnishError(f"the Hub does not take the model: {first}", at=repo, fix=_LOG_IN)
    if isinstance(error, _http_error()):
        fix = "check the network, and HF_ENDPOINT if that is set"
        return BurnishError(f"the Hub cannot be reached: {first}", at=repo, fix=fix)
    return BurnishError(f"the model could not be uploaded: {first}", at=repo, fix="try again; if it stays, see the Hub")
