"""Errors that are meant for the user: each message names the file and says what to do."""

from __future__ import annotations


class DiffsegError(Exception):
    """Base class of every error whose message can be shown to a user as it is."""


class CaseError(DiffsegError):
    """A case or one of its files cannot be used as it is (missing, ambiguous, damaged)."""


class CheckpointError(DiffsegError):
    """A model file cannot be used as it is (damaged, foreign, from a later version)."""


class ParameterError(DiffsegError):
    """A parameter is outside of what the method or the case allows."""
