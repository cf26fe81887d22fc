"""One ensemble of one case and the maps that are shown of it: plain data, without Qt or napari."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core.consensus import Decision, cut_out_votes, members_threshold
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.overlaps import Overlaps, find_closest
from napari_diffseg.core.uncertainty import compute_likely_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.consensus import ConsensusKind, Staple, Votes
    from napari_diffseg.core.events import SampleDone
    from napari_diffseg.core.levels import MapKind
    from napari_diffseg.core.params import SamplerName
    from napari_diffseg.core.record import RunRecord
    from napari_diffseg.core.uncertainty import LikelyVolume


@dataclass(frozen=True)
class Recipe:
    """What decides a member: samples of one recipe belong to one ensemble.

    None stands for what the model recommends, until the model is loaded.
    """

    model_path: Path | None
    n_steps: int | None
    sampler: SamplerName | None
    seed: int
    device: str
    model_sha256: str | None = None


@dataclass(frozen=True)
class View:
    """How an ensemble is looked at; changing it never samples."""

    k: int = 1
    """The first k members."""
    threshold: float = 0.5
    of: MapKind = "probabilities"
    consensus: ConsensusKind = "mean"
    """How the mask follows from the members."""


class Run:
    """An ensemble, its maps, and which slices were asked for.

    Attributes
    ----------
    mean : (Z, Y, X) float32 in [0, 1]
    variance, disagreement : (Z, Y, X) float32 in [0, 0.25]
    mask : (Z, Y, X) uint8, 0 or 1
        Written in place: layers show these very arrays.
    asked : (Z,) bool
        Slices that were asked for.
    planned : (Z,) bool
        Those of them that show brain, hence are sampled.
    overlaps : Overlaps
        How the members compare with each other.
    record : RunRecord or None
        How the members were drawn, for exported results; None before the first sample.
    is_reopened : bool
        Its members come from a file or from a dock that was closed, and the model has not been
        compared yet with theirs.
    is_unsaved : bool
        Such a dock has drawn some of them: they may be in no file.
    """

    def __init__(self, case: Case, recipe: Recipe, n_members: int) -> None:
        shape = case.geometry.shape
        self.id = uuid.uuid4().hex[:12]
        self.case = case
        self.recipe = recipe
        self.ensemble = Ensemble(n_members, shape)
        self.mean = np.zeros(shape, np.float32)
        self.variance = np.zeros(shape, np.float32)
        self.disagreement = np.zeros(shape, np.float32)
        self.mask = np.zeros(shape, np.uint8)
        self.asked = np.zeros(shape[0], bool)
        self.planned = np.zeros(shape[0], bool)
        self.view = View(n_members)
        self.overlaps = Overlaps(n_members, shape[0])
        self._closest: int | None = None
        self._n_added = 0
        self._staples: dict[int, tuple[int, Staple]] = {}  # of k members, after so many samples
        self.record: RunRecord | None = None
        self.is_reopened = False
        self.is_unsaved = False

    @property
    def has_own_samples(self) -> bool:
        """Whether it did not come from a file as it is: some of its samples may be in none."""
        return self.is_unsaved or not self.is_reopened

    def ask(self, z_range: tuple[int, int] | None, z_indices: Iterable[int]) -> None:
        """Note which slices a run will cover, and which of them it will sample."""
        first, end = z_range or (0, len(self.asked))
        self.asked[first:end] = True
        self.planned[list(z_indices)] = True

    def make_room(self, n_members: int) -> None:
        """Make room for so many members; the samples may move in memory.

        Raises
        ------
        ParameterError
            If there is no memory for so many.
        """
        if n_members > self.ensemble.n_members:
            self.ensemble.grow(n_members)

    def add(self, sample: SampleDone) -> None:
        """Take in a sample and update the maps on its slice."""
        self.ensemble.add(sample.member, sample.z, sample.probability)
        self.overlaps.add(self.ensemble, sample.member, sample.z)
        self._n_added += 1
        if sample.member < self.view.k:
            self.render([sample.z])

    def set_view(self, view: View) -> None:
        """Look differently; `render()` is for the caller, who knows what is urgent."""
        self.view = view

    def render(self, z_indices: Iterable[int] | None = None) -> None:
        """Write the maps on these slices, by default on all that have a sample."""
        if z_indices is None:
            z_indices = np.flatnonzero(self.is_sampled)
        k, of = self.view.k, self.view.of
        decision = self._decide()
        mask = self.mask.view(bool)
        for z in map(int, z_indices):
            self.ensemble.update_slice(
                z,
                mean=self.mean,
                variance=self.variance,
                disagreement=self.disagreement,
                k=k,
                of=of,
            )
            decision.write_slice(self.ensemble, z, mask)
        if decision.closest != self._closest:  # another member is the mask everywhere
            self._closest = decision.closest
            for z in map(int, np.flatnonzero(self.is_sampled)):
                decision.write_slice(self.ensemble, z, mask)

    def cut_out_votes(self) -> Votes | None:
        """Copy what STAPLE is to be computed of; None if it is not wanted, or is there already.

        Pass what comes of it to `set_staple`, with the `n_added` of this moment.
        """
        n_added, _ = self._staples.get(self.view.k, (-1, None))
        if self.view.consensus != "staple" or n_added == self._n_added:
            return None
        return cut_out_votes(self.ensemble, self.view.k, self.overlaps)

    def set_staple(self, staple: Staple, k: int, n_added: int) -> None:
        """Take in STAPLE's estimate of the first k members after so many samples."""
        self._staples[k] = n_added, staple

    @property
    def n_added(self) -> int:
        """Number of samples that have been added."""
        return self._n_added

    def _decide(self) -> Decision:
        """Return the rule that makes the mask. STAPLE's last estimate holds until the next one."""
        view, closest = self.view, None
        if view.consensus == "closest":
            closest = find_closest(self.ensemble, view.k, self.overlaps)
        _, staple = self._staples.get(view.k, (0, None))
        return Decision(view.consensus, view.threshold, view.k, view.of, closest, staple)

    @property
    def n_started(self) -> int:
        """Number of members up to the last one that has a sample."""
        have = np.flatnonzero(self.ensemble.sampled.any(axis=1))
        return int(have[-1]) + 1 if have.size else 0

    @property
    def is_sampled(self) -> NDArray[np.bool_]:
        """(Z,) bool: slices on which any member has a sample."""
        return np.asarray(self.ensemble.sampled.any(axis=0))

    @property
    def evaluated(self) -> NDArray[np.bool_]:
        """(Z,) bool: slices on which the mask can be judged.

        Those with a sample; and, once these are all, those that were asked for but show no brain:
        the mask is rightly empty there.
        """
        sampled = self.is_sampled
        return self.asked | sampled if (sampled | ~self.planned).all() else sampled

    def member_voxels(self) -> NDArray[np.int64]:
        """Return the voxels of the members in view on every slice, (k, Z), cut as the mask is."""
        view = self.view
        cut = members_threshold(view.consensus, view.of, view.threshold)
        return self.ensemble.mask_voxels(view.k, cut)

    def member_volumes_ml(self) -> NDArray[np.float64]:
        """Return the volumes of those members in view that have every sampled slice."""
        complete = self.ensemble.complete_members(self.view.k)
        voxels = self.member_voxels()[complete].sum(axis=1)
        return np.asarray(voxels * self.case.geometry.voxel_volume_ml, np.float64)

    def likely_volume(self) -> LikelyVolume | None:
        """Return the likely volume by the members in view; None with fewer than two complete."""
        voxel_ml = self.case.geometry.voxel_volume_ml
        return compute_likely_volume(self.ensemble, voxel_ml, self.view.k)

    def expected_ml(self) -> float:
        """Return the probability-weighted volume: the sum of the mean map."""
        # Slice by slice in single precision: two times quicker, and exact to a microlitre.
        total = sum(float(self.mean[z].sum()) for z in np.flatnonzero(self.is_sampled))
        return total * self.case.geometry.voxel_volume_ml

    def volume_ml(self) -> float:
        """Return the volume of the mask."""
        return float(np.count_nonzero(self.mask)) * self.case.geometry.voxel_volume_ml
