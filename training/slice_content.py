"""How much brain and tumour is on each slice of a cached case, beside its arrays.

It decides which slices are used; without it every array would have to be read at every start.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def measure_content(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the shares (n, 2) of slices that are brain and tumour, in [0, 1].

    Parameters
    ----------
    images : (n, 4, Y, X)
        Brain is where one of them is above 0.
    masks : (n, Y, X)
    """
    brain = np.mean(images.max(axis=1) > 0, axis=(1, 2))
    return np.stack([brain, np.mean(masks > 0, axis=(1, 2))], axis=1)


def find_content(folder: Path, name: str) -> Path:
    """Return the file of a case's shares."""
    return folder / f"{name}.content.npy"


def read_content(folder: Path, name: str, n_slices: int) -> NDArray[np.float64] | None:
    """Return the shares of a case; None if there are none, or of other arrays than its own.

    Caches that were made before there were any have none.
    """
    path = find_content(folder, name)
    arrays = [folder / f"{name}.{kind}.npy" for kind in ("images", "masks")]
    try:
        if path.stat().st_mtime_ns < max(array.stat().st_mtime_ns for array in arrays):
            return None
        content: NDArray[np.float64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return content if content.shape == (n_slices, 2) else None
