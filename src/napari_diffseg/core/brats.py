"""A BraTS case from its files: four modalities on one grid, and the expert labels if there are any.

Families of file names are in `case_names`, discovery in `case_discovery`; this module reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_diffseg.core.case_discovery import (
    discover_case,
    discover_cases,
    is_brats_path,
)
from napari_diffseg.core.case_files import CaseFiles, find_last_change, hash_images
from napari_diffseg.core.case_names import DECATHLON_ORDER, LABEL, MODALITIES
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.volume import Volume, load_4d, load_stack, load_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.geometry import Geometry

__all__ = [
    "GRID_TOLERANCE_MM",
    "MODALITIES",
    "RESECTION_CAVITY",
    "Case",
    "CaseFiles",
    "discover_case",
    "discover_cases",
    "has_cavity_label",
    "is_brats_path",
    "load_case",
    "whole_tumour",
]

GRID_TOLERANCE_MM = 0.1
"""How far the corners of two grids may be apart and still count as one grid."""

RESECTION_CAVITY = 4
"""The label that is no tumour where `has_cavity_label` says so."""

_MAX_LABEL = 4
_PAEDIATRIC = re.compile(r"(?<![a-z])peds?(?![a-z])", re.IGNORECASE)
_INTEGER_TOLERANCE = 1e-3  # labels that went through float32 or a scale factor


@dataclass(frozen=True, eq=False)
class Case:
    """One loaded case on the canonical grid.

    Attributes
    ----------
    name
        Name of the case, for titles and output files.
    files
        Where it came from.
    prior_image
        (4, Z, Y, X) float32, finite, intensities as in the files; channels as in `MODALITIES`.
    wt_truth
        (Z, Y, X) bool, whole tumour of the expert labels (`whole_tumour`), or None without labels.
    labels
        (Z, Y, X) uint8, the labels as they are, or None.
    geometry
        Grid of the t1 file (Decathlon: of the 4-D file), on which results are saved.
    sha256
        Of each modality's file, as it was when it was read (`hash_images`).
    written_ns
        When the youngest of them had been written (`find_last_change`).
    """

    name: str
    files: CaseFiles
    prior_image: NDArray[np.float32]
    wt_truth: NDArray[np.bool_] | None
    labels: NDArray[np.uint8] | None
    geometry: Geometry
    sha256: Mapping[str, str] = field(default_factory=dict)
    written_ns: int = 0

    @property
    def n_cavity_voxels(self) -> int:
        """How many labelled voxels are no tumour but resection cavity; 0 without labels."""
        if self.labels is None or self.wt_truth is None:
            return 0
        return int(np.count_nonzero((self.labels > 0) & ~self.wt_truth))


def whole_tumour(labels: NDArray[Any], *, has_cavity: bool = False) -> NDArray[np.bool_]:
    """Whole tumour: every label above 0, but for the resection cavity.

    1 is necrotic and non-enhancing core, 2 oedema, and the enhancing part is 4 until 2021 and 3
    from 2023; the Decathlon counts 1 oedema, 2 non-enhancing, 3 enhancing. (Wolleb et al. 2021
    merge all of them as well.)

    Parameters
    ----------
    labels : integers of any shape
    has_cavity
        See `has_cavity_label`.
    """
    labels = np.asarray(labels)
    tumour = labels > 0
    return tumour & (labels != RESECTION_CAVITY) if has_cavity else tumour


def has_cavity_label(files: CaseFiles) -> bool:
    """Whether label 4 of a case is the resection cavity, which is no part of the whole tumour.

    So it is after treatment, in BraTS 2024 and later (de Verdier et al. 2024, arXiv 2405.18368:
    whole tumour is ET + SNFH + NETC, labels 3, 2 and 1). In 2023, with the same names of files,
    there was no label 4; in BraTS-PEDs it is oedema (Kazerooni et al. 2024, arXiv 2404.15009).
    """
    return files.family == "brats2023" and _PAEDIATRIC.search(files.name) is None


def load_case(paths: str | Path | Sequence[str | Path] | CaseFiles) -> Case:
    """Load a case from a folder, any one of its files, several files, or discovered files.

    Raises
    ------
    CaseError
        See `discover_case` and `napari_diffseg.core.nifti.read_nifti`; and if modalities or labels
        are not on one grid (corners more than 0.1 mm apart), a modality is constant, or the labels
        are not integers from 0 to 4.
    """
    files = paths if isinstance(paths, CaseFiles) else discover_case(paths)
    if files.problem:
        raise CaseError(files.problem)
    written_ns = find_last_change(files)
    prior_image: NDArray[np.float32] | None = None
    reference: Volume | None = None
    for modality, volume in _iter_modalities(files):
        if prior_image is None or reference is None:
            reference = volume
            prior_image = np.empty((len(MODALITIES), *volume.data.shape), np.float32)
        _check_same_grid(volume, reference)
        _check_contrast(volume, modality)
        prior_image[MODALITIES.index(modality)] = volume.data
    assert prior_image is not None
    assert reference is not None
    labels = _load_labels(files, reference)
    return Case(
        name=files.name,
        files=files,
        prior_image=prior_image,
        wt_truth=None
        if labels is None
        else whole_tumour(labels, has_cavity=has_cavity_label(files)),
        labels=labels,
        geometry=reference.geometry,
        sha256=hash_images(files),
        written_ns=written_ns,
    )


def _iter_modalities(files: CaseFiles) -> Iterator[tuple[str, Volume]]:
    """Yield the modalities one by one, so that only one is in memory twice; t1 comes first."""
    if files.family == "decathlon":
        path = files.modalities[MODALITIES[0]]
        volumes = load_4d(path)
        if len(volumes) != len(DECATHLON_ORDER):
            raise CaseError(
                f"{path} holds {len(volumes)} volumes; a BraTS file of the Decathlon holds 4 "
                "(FLAIR, T1w, T1gd, T2w)."
            )
        yield from zip(DECATHLON_ORDER, volumes, strict=True)
        return
    for modality in MODALITIES:
        yield modality, _load_one(files, modality, files.modalities[modality])


def _load_one(files: CaseFiles, role: str, path: Path) -> Volume:
    if files.slices:
        return load_stack([members[role] for members in files.slices.values()], [*files.slices])
    return load_volume(path)


def _load_labels(files: CaseFiles, reference: Volume) -> NDArray[np.uint8] | None:
    if files.label is None:
        return None
    volume = _load_one(files, LABEL, files.label)
    _check_same_grid(volume, reference)
    values = np.unique(volume.data)
    rounded = np.rint(values)
    bad = values[
        (np.abs(values - rounded) > _INTEGER_TOLERANCE) | (rounded < 0) | (rounded > _MAX_LABEL)
    ]
    if bad.size:
        shown = ", ".join(f"{value:g}" for value in bad[:5])
        raise CaseError(
            f"{volume.path} has label values that BraTS does not know ({shown}); 0, 1, 2, 3 and 4 "
            "are allowed. Correct the file, or move it away to load the case without labels."
        )
    return np.rint(volume.data).astype(np.uint8)


def _check_same_grid(volume: Volume, reference: Volume) -> None:
    """Compare canonical grids: files of different voxel order fit if their voxels coincide."""
    if volume.data.shape != reference.data.shape:
        raise CaseError(
            f"{volume.path} has {_text(volume)} voxels, {reference.path} has {_text(reference)}. "
            "Resample them to one grid."
        )
    z, y, x = reference.data.shape
    corners = np.array([[i, j, k, 1] for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
    difference = volume.geometry.lpi_affine - reference.geometry.lpi_affine
    apart_mm = float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())
    if apart_mm > GRID_TOLERANCE_MM:
        raise CaseError(
            f"{volume.path} and {reference.path} do not lie on one grid: their affines put a "
            f"corner {apart_mm:.3g} mm apart (tolerance {GRID_TOLERANCE_MM} mm). "
            "Register or resample them, or correct the affine of the wrong one."
        )


def _text(volume: Volume) -> str:
    return "x".join(str(n) for n in volume.geometry.source_shape)


def _check_contrast(volume: Volume, modality: str) -> None:
    lowest = float(volume.data.min())
    if lowest == float(volume.data.max()):
        raise CaseError(
            f"{volume.path} is constant: every voxel of {modality} is {lowest:g}. "
            "Replace it by the real image."
        )
