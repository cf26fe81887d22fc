"""The napari reader: a BraTS case from a folder, one of its files or all of its files."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_diffseg._layers import (
    TAG,
    LayerData,
    find_cases,
    find_layers,
    get_tag,
    make_case_layers,
    make_edited_layer,
    make_result_layers,
)
from napari_diffseg.core.brats import MODALITIES, discover_case, is_brats_path, load_case
from napari_diffseg.core.consensus import decide, make_mask
from napari_diffseg.core.overlaps import Overlaps
from napari_diffseg.core.reopen import is_result_path, load_result

if TYPE_CHECKING:
    from napari_diffseg.core.brats import Case, CaseFiles

PathOrPaths = str | Path | Sequence[str | Path]

DROP_S = 10.0
"""Files of one drop arrive one by one; those within so many seconds are no new request."""


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[Any]] | None:
    """Return the reader of a saved result or of a BraTS case, by the names; otherwise None."""
    if is_result_path(path):
        return read_result
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


def read_result(path: PathOrPaths) -> list[Any]:
    """Read a result that was saved (``CASE_diffseg.json``), with the case unless it is open.

    Raises
    ------
    DiffsegError
        See `core.reopen.load_result`.
    """
    from napari import current_viewer

    viewer = current_viewer()
    known = [] if viewer is None else find_cases(viewer.layers)
    return load_result_layers(str(path), known)


def load_result_layers(path: str, known: Sequence[Case]) -> list[LayerData]:
    """Load a result as layers; the mask, which is the last, carries what the dock needs."""
    saved = load_result(path, known=known)
    record, case, ensemble = saved.record, saved.case, saved.ensemble
    maps = record.maps
    if ensemble is None:
        samples = None
        mean, variance = saved.maps["mean"], saved.maps["variance"]
        mask = (saved.maps["mask"] > 0).view(np.uint8)
    else:
        samples = ensemble.members_uint8()
        mean = ensemble.mean_map(maps.n_members, maps.of)
        variance = ensemble.variance_map(maps.n_members, maps.of)
        decision = decide(
            ensemble, maps.consensus, threshold=maps.threshold, k=maps.n_members, of=maps.of
        )
        mask = make_mask(ensemble, decision).view(np.uint8)
    details = {
        "model": record.run.model.file,
        "model_sha256": record.run.model.sha256,
        "n_steps": record.run.n_steps,
        "sampler": record.run.sampler,
        "seed": record.run.seed,
    }
    empty = np.zeros((1, *case.geometry.shape), np.uint8)
    shown = make_result_layers(
        case,
        uuid.uuid4().hex[:12],
        empty if samples is None else samples,
        mean,
        variance,
        mask,
        details,
    )
    if samples is None:
        del shown["samples"]
    shown["mask"][1]["metadata"][TAG].update(
        saved=saved, overlaps=None if ensemble is None else Overlaps.of_ensemble(ensemble)
    )
    layers = [*shown.values()]
    if saved.edited is not None and record.edited is not None:
        mask = saved.edited.view(np.uint8)
        layers.insert(-1, make_edited_layer(case, record.edited.run, mask, record.edited))
    return layers if case in known else [*make_case_layers(case), *layers]


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
