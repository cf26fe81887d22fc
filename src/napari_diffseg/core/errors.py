"""Errors that are meant for the user: each message names the file and says what to do."""

from __future__ import annotations

from pathlib import Path


class DiffsegError(Exception):
    """Base class of every error whose message can be shown to a user as it is."""


class CaseError(DiffsegError):
    """A case or one of its files cannot be used as it is (missing, ambiguous, damaged)."""


class CheckpointError(DiffsegError):
    """A model file cannot be used as it is (damaged, foreign, from a later version)."""


class ParameterError(DiffsegError):
    """A parameter is outside of what the method or the case allows."""


def explain_unwritable(error: Exception, what: str, folder: Path) -> DiffsegError | None:
    """Return one error that names the folder into which several files could not be written.

    They are written into a hidden folder first, and its name says nothing to anybody.

    Parameters
    ----------
    error
        An OSError, or an error that one has caused; of any other None is returned.
    what
        What was to be written, to begin a sentence with.
    folder
        Where the user wanted it.
    """
    reason = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(reason, OSError):
        return None
    advice = "Make room, or"
    if isinstance(reason, PermissionError) and reason.filename2:  # Windows: it cannot be moved
        advice = f"Close {Path(reason.filename).name} in other programs, or"
    return DiffsegError(
        f"{what} cannot be written into {folder}: {reason.strerror or reason}. Nothing of it was "
        f"written. {advice} choose another folder."
    )
