"""The frozen record of a result: how it was made, what it says, and how good it is if known.

`describe` makes it; command line and viewer write it beside the maps that they save (`export`).
What is not known or not defined is None, in JSON null; NaN does not occur.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_diffseg.core.consensus import ConsensusKind
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.levels import MapKind
from napari_diffseg.core.params import SamplerName
from napari_diffseg.core.uncertainty import IntervalKind
from napari_diffseg.core.verdict import Verdict, goes_on_beyond

RECORD_SCHEMA_VERSION = 3
"""2 added what is needed to open a result again: `members` and `maps.judged_slices`; 3 what was in
the images and in the mask: `case.sha256` and `maps.mask_sha256`."""

SliceRanges = tuple[tuple[int, int], ...]
"""Stretches of slices, first and last, both included."""


@dataclass(frozen=True)
class ModelRecord:
    """The model that was used."""

    name: str
    file: str
    sha256: str
    """Of the file."""
    provenance: dict[str, Any]
    description: str = ""
    """From the model's own card: what it segments, what it was trained on, its limits."""
    encoders: tuple[str, ...] = ()
    """Networks whose answers members begin from, in turn; records of before have none."""


@dataclass(frozen=True)
class StoppingRecord:
    """That drawing was to stop by itself, and whether it did (`convergence.is_stable`)."""

    tolerance: float
    """Largest change of the mask by a further member, as 1 - Dice, that counted as none."""
    max_samples: int
    """So many were drawn at most."""
    stable_with: int | None
    """Members with which the mask was stable, so that no more were drawn; None: it never was."""
    dice: float | None
    """Smallest Dice between the mask with one of the last of them and without it."""
    threshold: float = 0.5
    """Of the mask that was watched; records of before watched no other."""
    of: MapKind = "probabilities"


@dataclass(frozen=True)
class RunRecord:
    """How the members were drawn."""

    model: ModelRecord
    sampler: SamplerName
    n_steps: int
    eta: float | None
    """Of DDIM; None for the other samplers, which have none."""
    seed: int
    seeding: str
    first_member: int
    device: str
    elapsed_s: float | None
    messages: tuple[str, ...]
    """What went differently from what was asked: less memory, another device."""
    mirror: bool = False
    """Whether every second member saw the slices mirrored left to right."""
    vary_contrast: bool = False
    """Whether every member but the first saw the slices through a contrast of its own."""
    stopping: StoppingRecord | None = None
    """None: all members that were asked for were drawn, whether needed or not."""


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
    slice_numbers: SliceRanges = ()
    """Of a stack of slice files, the numbers that their names have; empty: counted from 0."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of each modality's file, or of all its slice files together; empty if they could not be read
    any more when they had been loaded, and in records of before."""
    written_ns: int = 0
    """When the youngest of these files had been written, in ns as of `os.stat`; 0 in records of
    before. As long as it has not changed, nobody reads the files to see whether they have."""

    @property
    def n_slices(self) -> int:
        """Axial slices of the scan."""
        affine = np.asarray(self.source_affine, np.float64)
        return Geometry.from_affine(self.shape_xyz, affine).shape[0]

    def find_positions(self, numbers: Iterable[int]) -> set[int]:
        """Return where slices of these numbers are in the scan, from 0 to `n_slices` - 1."""
        ranges = self.slice_numbers or ((0, self.n_slices - 1),)
        there = (k for first, last in ranges for k in range(first, last + 1))
        position = {number: index for index, number in enumerate(there)}
        return {position[number] for number in numbers if number in position}


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
    consensus: ConsensusKind = "mean"
    """How the mask follows from the members; ``threshold`` is that of mean and STAPLE."""
    closest_member: int | None = None
    """The member that is the mask if the consensus is the closest one; counted from 0."""
    judged_slices: SliceRanges = ()
    """What volume and scores are about: a run that was stopped has sampled some slices only."""
    mask_sha256: str = ""
    """Of the mask's voxels (`volume.hash_mask`), which tells whether another program has changed
    it; records of before have none."""


@dataclass(frozen=True)
class MemberRecord:
    """One member that was drawn, whether or not the maps are made of it."""

    slices: SliceRanges
    """Those that it has a sample of."""


@dataclass(frozen=True)
class VolumeRecord:
    """The tumour's volume in mL, in the slices that were asked for."""

    mask_ml: float
    """Of the mask that is saved."""
    expected_ml: float
    """Sum of the mean map."""
    members_ml: tuple[float, ...]
    """Of each complete member, cut at ``members_threshold``."""
    median_ml: float | None
    low_ml: float | None
    high_ml: float | None
    interval: IntervalKind | None
    """What ``low_ml`` and ``high_ml`` are; None like these with fewer than two members."""
    members_threshold: float = 0.5
    """That of the mask where it is the mean probability that is cut, otherwise 0.5
    (`consensus.members_threshold`); records of before have none."""
    likely_low_ml: float | None = None
    likely_high_ml: float | None = None
    """Where the mean probability is above 0.9, and above 0.1: it has held the true volume more
    often than ``low_ml`` and ``high_ml`` (`uncertainty.compute_likely_volume`). None with fewer
    than two members; records of before have none."""


@dataclass(frozen=True)
class SliceRecord:
    """One sampled slice."""

    slice: int
    mask_mm2: float
    disagreement: float | None
    """1 - mean pairwise Dice of the members; None with fewer than two."""
    dice: float | None
    """Against the expert labels; None without labels."""
    mask_ml: float | None = None
    """Area of the mask times the distance of the slices."""
    low_ml: float | None = None
    high_ml: float | None = None
    """The same of the members, cut at ``volume.members_threshold``: their interval, of the kind of
    ``volume.interval``; None with fewer than two."""
    truth_ml: float | None = None


@dataclass(frozen=True)
class WorkRecord:
    """A slice that is worth a look."""

    slice: int
    disagreement_mm: float
    """How far apart the members' outlines are (`work_list.compute_contour_disagreement_mm`)."""


@dataclass(frozen=True)
class LesionRecord:
    """One connected component of the mask (`lesions.Lesion`)."""

    number: int
    volume_ml: float
    mean_probability: float
    disagreement: float | None
    centroid_ras_mm: tuple[float, float, float]
    largest_slice: int
    n_slices: int


@dataclass(frozen=True)
class LesionsRecord:
    """The connected components of the mask."""

    lesions: tuple[LesionRecord, ...]
    """The largest, by volume."""
    n_more: int
    """How many smaller ones there are beside those."""
    more_ml: float


@dataclass(frozen=True)
class EditRecord:
    """A mask that somebody has painted on, saved beside the model's own."""

    n_added: int
    """Voxels that the mask that was copied does not have."""
    n_removed: int
    volume_ml: float
    dice_with_model: float
    """With the model's mask that is saved beside it."""
    run: str
    """The run whose mask was copied."""


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
    members: tuple[MemberRecord, ...] = ()
    """All that were drawn, `maps.n_members` or more: those in the file of samples."""
    work_list: tuple[WorkRecord, ...] = ()
    """Where to look first: the slices on which the members' outlines are farthest apart."""
    lesions: LesionsRecord | None = None
    edited: EditRecord | None = None
    """None when nobody has painted on the mask."""
    verdict: Verdict | None = None
    """How far the result can be relied on, in words."""

    @property
    def is_part(self) -> bool:
        """Whether the mask goes on beyond the slices that the volume is about."""
        if self.maps.whole_volume:
            return False
        judged = {k for first, last in self.maps.judged_slices for k in range(first, last + 1)}
        with_mask = [entry.slice for entry in self.slices if entry.mask_mm2 > 0]
        where = self.case.find_positions
        return goes_on_beyond(where(with_mask), where(judged), self.case.n_slices)
