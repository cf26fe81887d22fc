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
from napari_diffseg.core.consensus import Decision, decide, make_mask, restore_staple
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.overlaps import Overlaps
from napari_diffseg.core.reopen import is_result_path, load_result, load_saved_mask

if TYPE_CHECKING:
    from napari_diffseg.core.brats import Case, CaseFiles
    from napari_diffseg.core.ensemble import Ensemble
    from napari_diffseg.core.reopen import SavedResult

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
    from napari.utils.notifications import show_warning

    viewer = current_viewer()
    known = [] if viewer is None else find_cases(viewer.layers)
    layers = load_result_layers(str(path), known)
    if note := layers[-1][1]["metadata"][TAG]["note"]:
        show_warning(note)
    return layers


def load_result_layers(
    path: str, known: Sequence[Case], folder: Path | None = None
) -> list[LayerData]:
    """Load a result as layers; the mask, which is the last, carries what the dock needs.

    See `core.reopen.load_result` for the parameters.
    """
    saved = load_result(path, folder=folder, known=known)
    record, case, ensemble = saved.record, saved.case, saved.ensemble
    maps, decision, note = record.maps, Decision(), ""
    if ensemble is None:
        samples = None
        mean, variance = saved.maps["mean"], saved.maps["variance"]
        disagreement = saved.maps.get("disagreement")
        mask = (saved.maps["mask"] > 0).view(np.uint8)
    else:
        samples = ensemble.members_uint8()
        mean = ensemble.mean_map(maps.n_members, maps.of)
        variance = ensemble.variance_map(maps.n_members, maps.of)
        disagreement = ensemble.disagreement_map(maps.n_members, maps.of)
        decision, note = _decide(saved, ensemble)
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
        np.zeros_like(mean) if disagreement is None else disagreement,
        mask,
        details,
    )
    if samples is None:
        del shown["samples"]
    if disagreement is None:
        del shown["disagreement"]
    shown["mask"][1]["metadata"][TAG].update(
        saved=saved,
        overlaps=None if ensemble is None else Overlaps.of_ensemble(ensemble),
        staple=decision.staple,
        note=note,
    )
    layers = [*shown.values()]
    if saved.edited is not None and record.edited is not None:
        mask = saved.edited.view(np.uint8)
        layers.insert(-1, make_edited_layer(case, record.edited.run, mask, record.edited))
    return layers if case in known else [*make_case_layers(case), *layers]


def _decide(saved: SavedResult, ensemble: Ensemble) -> tuple[Decision, str]:
    """Return the rule that makes the mask, and what the user should know of it.

    Where STAPLE cannot be computed its mask is taken as it was saved.
    """
    maps, k = saved.record.maps, saved.record.maps.n_members
    try:
        return decide(ensemble, maps.consensus, threshold=maps.threshold, k=k, of=maps.of), ""
    except ParameterError as error:
        staple = restore_staple(load_saved_mask(saved))
        decision = Decision(maps.consensus, maps.threshold, k, maps.of, staple=staple)
        return decision, f"{error} The mask is shown as it was saved."


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
