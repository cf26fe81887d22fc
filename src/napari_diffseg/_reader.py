"""The napari reader: a BraTS case from a folder, one of its files or all of its files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_diffseg._layers import LayerData, find_layers, get_tag, make_case_layers
from napari_diffseg.core.brats import MODALITIES, discover_case, is_brats_path, load_case

if TYPE_CHECKING:
    from napari_diffseg.core.brats import CaseFiles

PathOrPaths = str | Path | Sequence[str | Path]

DROP_S = 10.0
"""Files of one drop arrive one by one; those within so many seconds are no new request."""


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[Any]] | None:
    """Return the reader if the names look like a BraTS case, otherwise None."""
    return read_case if is_brats_path(path) else None


def read_case(path: PathOrPaths) -> list[Any]:
    """Read the case that a path belongs to: images, and the outline of the truth if there is one.

    Any file stands for its whole case, so four files that are dropped together would open it four
    times: a case that the viewer shows already is not read again.

    Raises
    ------
    CaseError
        If the case is incomplete or a file is damaged; the message names the file.
    """
    files = discover_case(path)
    if _is_open(files):
        return [(None,)]  # napari's sign for "read, but nothing to add"
    return load_layers(files)


def load_layers(path: PathOrPaths | CaseFiles) -> list[LayerData]:
    """Load a case as layers, whether or not it is open."""
    return make_case_layers(load_case(path))


def _is_open(files: CaseFiles) -> bool:
    from napari import current_viewer
    from napari.utils.notifications import show_info

    viewer = current_viewer()
    shown = [] if viewer is None else find_layers(viewer.layers, role="image")
    same = [tag for tag in map(get_tag, shown) if tag and tag["source"].files == files]
    if len(same) < len(MODALITIES):
        return False
    if time.monotonic() - max(tag["created_s"] for tag in same) > DROP_S:
        show_info(f"{files.name} is open already. Remove its layers to read it again.")
    return True
