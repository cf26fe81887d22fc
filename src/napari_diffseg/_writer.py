"""The napari writers: a layer of ours as NIfTI, on the grid of the scan that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_diffseg._layers import TAG
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import PROBABILITY_SLOPE, check_outputs
from napari_diffseg.core.volume import save_on_source_grid

if TYPE_CHECKING:
    from napari_diffseg.core.brats import Case


def write_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an image or labels layer as ``.nii.gz`` or ``.nii``; return the path.

    Images of a case and its maps keep their values, samples are 8-bit with a scale factor, masks
    are 0 and 1.

    Raises
    ------
    DiffsegError
        The layer does not belong to a case, has lost its grid, or the file cannot be written.
    """
    from pathlib import Path

    tag = meta.get("metadata", {}).get(TAG)
    name = meta.get("name", "The layer")
    if not isinstance(tag, dict) or "source" not in tag:
        raise DiffsegError(
            f"{name} was not made by napari-diffseg, so the grid of its scan is not known. Save it "
            "with another plugin, or in another format."
        )
    case: Case = tag["source"]
    array = np.asarray(data)
    if array.shape[-3:] != case.geometry.shape or array.ndim not in (3, 4):
        raise DiffsegError(f"{name} no longer has the voxels of {case.name}.")
    check_outputs([Path(path)], case.files)
    if tag["role"] in ("mask", "truth", "edited"):
        array = (array > 0).view(np.uint8)
    slope = PROBABILITY_SLOPE if tag["role"] == "samples" else 1.0
    description = f"napari-diffseg: {tag['role']}"
    save_on_source_grid(path, array, case.geometry, slope=slope, description=description)
    return [path]
