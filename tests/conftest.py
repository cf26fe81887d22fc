"""Fixtures for everybody: where the real data is, and how many threads torch may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: many threads make tiny networks slower, and one makes sums repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Give the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def brats_data() -> Path:
    """Give the folder of real BraTS data (``original/<case>/...``), or skip with the reason.

    It is ``$DIFFSEG_DATA``, or ``shared/data`` beside the checkout; it is not part of the project.
    """
    named = os.environ.get("DIFFSEG_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "original").is_dir():
        pytest.skip(f"no real BraTS data at {folder}: set DIFFSEG_DATA to a folder with original/")
    return folder
