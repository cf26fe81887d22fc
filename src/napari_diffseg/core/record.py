"""The frozen record of a result: how it was made, what it says, and how good it is if known.

`describe` makes it; command line and viewer write it beside the maps that they save (`export`).
What is not known or not defined is None, in JSON null; NaN does not occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_diffseg.core.levels import MapKind
from napari_diffseg.core.uncertainty import IntervalKind

RECORD_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelRecord:
    """The model that was used."""

    name: str
    file: str
    sha256: str
    """Of the file."""
    provenance: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """How the members were drawn."""

    model: ModelRecord
    sampler: str
    n_steps: int
    eta: float | None
    """Of DDIM; None for the other samplers, which have none."""
    mirror: bool
    """Whether every second member saw the slices mirrored left to right."""
    seed: int
    seeding: str
    first_member: int
    device: str
    elapsed_s: float | None
    messages: tuple[str, ...]
    """What went differently from what was asked: less memory, another device."""


@dataclass(frozen=True)
class CaseRecord:
    """The images that were segmented."""

    name: str
    family: str
    files: dict[str, str]
    label: str | None
    shape_xyz: tuple[int, int, int]
    """Of the source file."""
    spacing_zyx_mm: tuple[float, float, float]
    """Along the body's axes: head to foot, front to back, side to side."""
    voxel_volume_ml: float
    source_affine: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...]
    """What about the images may harm the result."""


@dataclass(frozen=True)
class MapsRecord:
    """Which maps were made of the members."""

    n_members: int
    of: MapKind
    threshold: float
    first_slice: int
    """In the source file's own numbers, as every slice number here."""
    last_slice: int
    n_sampled_slices: int
    """Slices in this range that show brain; the others have probability 0."""
    whole_volume: bool


@dataclass(frozen=True)
class VolumeRecord:
    """The tumour's volume in mL, in the slices that were asked for."""

    mask_ml: float
    """Of the mask that is saved."""
    expected_ml: float
    """Sum of the mean map."""
    members_ml: tuple[float, ...]
    """Of each complete member's own mask."""
    median_ml: float | None
    low_ml: float | None
    high_ml: float | None
    interval: IntervalKind | None
    """What ``low_ml`` and ``high_ml`` are."""


@dataclass(frozen=True)
class SliceRecord:
    """One sampled slice."""

    slice: int
    mask_mm2: float
    disagreement: float | None
    """1 - mean pairwise Dice of the members; None with fewer than two."""
    dice: float | None
    """Against the expert labels; None without labels."""


@dataclass(frozen=True)
class ScoresRecord:
    """The saved mask against the expert labels (whole tumour), in the slices asked for."""

    dice: float
    jaccard: float
    hd95_mm: float | None
    predicted_ml: float
    truth_ml: float
    volume_error_ml: float
    empty_prediction: bool
    empty_truth: bool
    members_dice: tuple[float, ...]
    """Of each complete member's own mask."""


@dataclass(frozen=True)
class ResultRecord:
    """All of it; `export.write_record` makes it JSON."""

    schema_version: int
    software: dict[str, str]
    case: CaseRecord
    run: RunRecord
    maps: MapsRecord
    volume: VolumeRecord
    confidence: float | None
    """Mean pairwise Dice of the members, 0 to 1; None with fewer than two."""
    scores: ScoresRecord | None
    """None without labels."""
    slices: tuple[SliceRecord, ...]
    """The sampled ones, by number."""
