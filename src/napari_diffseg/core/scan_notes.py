"""What about the files of a case may harm a result: sentences for a person.

The viewer shows them when a case is opened, the command line says them, the record keeps them.
Nothing here stops anybody: a note says what looks odd, and the user knows whether it is.

Intensities need no note for being scaled or shifted: `preprocessing` stretches each modality
between percentiles of its brain, so images that were normalised before give the same input, as
long as the background is 0.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core.brats import MODALITIES, RESECTION_CAVITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.geometry import Geometry

UNSEEN = "the model has not seen such data"

THICK_SLICES_MM = 3.0
PIXELS_MM = 0.75, 1.35
"""In-plane spacing that counts as the 1 mm of the training data."""
UNSTRIPPED_FRACTION = 0.7  # a brain fills about half of the smallest box around it
FEW_VALUES = 8
LEAST_OVERLAP = 0.8  # Dice of two modalities' tissue; one mask strips all of them in BraTS
_COARSE = 2  # intensities are looked at on every second voxel of each axis


def find_scan_notes(case: Case) -> tuple[str, ...]:
    """Return what looks unlike BraTS about a case, the gravest first.

    Takes about half a second at 155x240x240: in the viewer, for another thread.
    """
    return (*_note_images(case.prior_image), *_note_grid(case.geometry), *_note_labels(case))


def _note_images(prior_image: NDArray[np.float32]) -> list[str]:
    """Look at the intensities, (4, Z, Y, X)."""
    notes = [
        f"{_name(a)} and {_name(b)} are the same image, voxel by voxel: one of the files is in the "
        "wrong place."
        for a, b in combinations(range(len(prior_image)), 2)
        if _are_equal(prior_image[a], prior_image[b])
    ]
    coarse = prior_image[:, ::_COARSE, ::_COARSE, ::_COARSE]
    notes += [note for index, image in enumerate(coarse) for note in _note_values(index, image)]
    backgrounds = _note_backgrounds(coarse)
    if backgrounds:
        return notes + backgrounds  # whatever else is odd follows from that
    tissue = coarse != 0
    filled = np.count_nonzero(tissue.any(axis=0)) / tissue[0].size
    if filled > UNSTRIPPED_FRACTION:
        notes.append(
            f"{filled:.0%} of all voxels differ from 0: the images do not look skull-stripped, as "
            "BraTS is and the model expects."
        )
        return notes
    return notes + _note_overlap(tissue)


def _note_values(index: int, image: NDArray[np.float32]) -> list[str]:
    """Tell a mask that was given as an image."""
    inside = image[image != 0]
    # Most images show on few voxels already that they have many values.
    for voxels in (inside[:: max(inside.size // 1000, 1)], inside):
        n_values = len(np.unique(voxels))
        if n_values > FEW_VALUES:
            return []
    return [
        f"{_name(index)} has {n_values} different values only: it looks like a mask, not like "
        "an MRI."
    ]


def _note_backgrounds(images: NDArray[np.float32]) -> list[str]:
    """Tell images (4, Z, Y, X) whose background is not 0, by the faces of the volume."""
    notes, shifted = [], []
    for index, image in enumerate(images):
        background = _find_background(image)
        if not background:
            continue
        inside = image[image != background]
        if inside.size and background > np.percentile(inside, 95):
            notes.append(
                f"{_name(index)} looks inverted: the background ({background:g}) is brighter than "
                f"the brain; {UNSEEN}."
            )
        else:
            shifted.append(f"{_name(index)} ({background:g})")
    if shifted:
        notes.append(
            f"The background is not 0 in {', '.join(shifted)}, so that all of it counts as brain. "
            "Set it to 0."
        )
    return notes


def _note_overlap(tissue: NDArray[np.bool_]) -> list[str]:
    """Compare where the modalities (4, Z, Y, X) have tissue with where most of them have it."""
    most = tissue.sum(axis=0) >= (len(tissue) + 1) // 2
    notes = []
    for index, here in enumerate(tissue):
        both = 2 * np.count_nonzero(here & most) / max(here.sum() + most.sum(), 1)
        if both < LEAST_OVERLAP:
            notes.append(
                f"{_name(index)} does not cover the same brain as the others (overlap {both:.2f}): "
                "are the four images of one person, and registered?"
            )
    return notes


def _note_grid(geometry: Geometry) -> list[str]:
    notes = []
    if geometry.is_oblique:
        notes.append(
            f"The scan is oblique ({geometry.oblique_degrees:.1f} degrees): slices are those of "
            "the scan, not of the body's axes. Results are saved with the scan's own position."
        )
    z_mm, *in_plane_mm = geometry.spacing_mm
    if z_mm > THICK_SLICES_MM:
        notes.append(f"Slices are {z_mm:.1f} mm apart, not 1 mm: {UNSEEN}.")
    numbers = geometry.slice_numbers
    if numbers is not None and len(numbers) <= max(numbers) - min(numbers):
        notes.append(
            f"Of slices {min(numbers)} to {max(numbers)} only {len(numbers)} are there: what lies "
            "between is missing, so volumes, distances and lesions in 3-D are not those of the "
            "whole tumour."
        )
    low, high = PIXELS_MM
    if not all(low <= edge <= high for edge in in_plane_mm):
        y_mm, x_mm = in_plane_mm
        notes.append(
            f"Pixels are {x_mm:.2g} x {y_mm:.2g} mm, not 1 mm as in the model's training data: "
            "they are resampled for it."
        )
    return notes


def _note_labels(case: Case) -> list[str]:
    """Tell labels that are not counted as tumour."""
    if not case.n_cavity_voxels:
        return []
    cavity_ml = case.n_cavity_voxels * case.geometry.voxel_volume_ml
    return [
        f"Label {RESECTION_CAVITY} ({cavity_ml:.1f} mL) is taken for the resection cavity, as in "
        "BraTS from 2024 on, and is no part of the whole tumour."
    ]


def _find_background(image: NDArray[np.float32]) -> float | None:
    """Return the value that nearly all of the volume's faces have; None if there is none."""
    shell = np.concatenate([image[[0, -1]].ravel(), image[:, [0, -1]].ravel()])
    value = float(np.median(shell))
    return value if np.mean(shell == value) > 0.9 else None


def _are_equal(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    middle = len(first) // 2
    return np.array_equal(first[middle], second[middle]) and np.array_equal(first, second)


def _name(index: int) -> str:
    return {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}[MODALITIES[index]]
