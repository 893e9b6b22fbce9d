"""The error tree. Every error that a user can mend says what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

EXIT_DONE = 0
EXIT_DEFECT = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class BurnishError(Exception):
    """Something the user can mend: the command line prints it without a traceback and exits with 2.

    Args:
        what: one sentence that says what is wrong.
        at: where: a file, row and key, a setting's name and line, a path.
        fix: what to do about it.
    """

    exit_code = EXIT_USER

    def __init__(self, what: str, *, at: str | None = None, fix: str | None = None) -> None:
        self.what, self.at, self.fix = what, at, fix
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), dict(self.__dict__))  # from one process to another

    def __str__(self) -> str:
        lines = [self.what]
        if self.at:
            lines.append(f"  at: {self.at}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class SettingsError(BurnishError):
    """Settings that cannot be used; may carry several problems, all reported at once."""

    def __init__(self, problems: Sequence[BurnishError]) -> None:
        self.problems = list(problems)
        first = self.problems[0]
        super().__init__(first.what, at=first.at, fix=first.fix)

    def __str__(self) -> str:
        problems = getattr(self, "problems", None)
        if not problems:
            return super().__str__()
        return "\n".join(str(problem) for problem in problems)


class DataError(BurnishError):
    """Data that cannot be read or converted; `at` names file, row and key."""


class TemplateError(BurnishError):
    """A chat template that cannot render a conversation or cannot be trained on."""


class ModelError(BurnishError):
    """A model that cannot be found, loaded or saved."""


class RunFolderError(BurnishError):
    """An output folder that is in use, not writable or too small."""


class MissingExtraError(BurnishError):
    """A feature whose optional dependency is not installed: an extra of ours, or packages that we have no extra for."""

    def __init__(self, feature: str, extra: str = "", *, packages: Sequence[str] = ()) -> None:
        wanted = " ".join(packages) or f"'burnish[{extra}]'"
        named = (
            f"packages that are not installed: {', '.join(packages)}" if packages else "a package that is not installed"
        )
        super().__init__(f"{feature} needs {named}", fix=f"pip install {wanted}")


class ShapeError(ValueError):
    """A tensor of the wrong shape reached our own code: a defect, not the user's fault."""


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint; the command line exits with 130."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, checkpoint: str | None) -> None:
        self.checkpoint = checkpoint
        super().__init__(f"interrupted; saved {checkpoint}" if checkpoint else "interrupted")


class OtherRankFailed(Exception):
    """Another process of the run failed first and has told the user; this one ends without a word.

    Args:
        rank: of the process that failed.
        text: its error.
        code: its exit status, which this process takes over.
    """

    def __init__(self, rank: int, text: str, code: int) -> None:
        self.rank, self.text, self.exit_code = rank, text, code
        super().__init__(f"rank {rank} failed: {text}")

    def __reduce__(self) -> tuple[Any, ...]:
        return OtherRankFailed, (self.rank, self.text, self.exit_code)


def _rebuilt(kind: type[BurnishError], state: dict[str, Any]) -> BurnishError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    Exception.__init__(error, str(error))
    return error
