"""One mask of many: the rules by which the members of an ensemble decide together.

- `mean`: where the mean map is above the threshold (`Ensemble.wt_mask`); the default;
- `majority`: where more than half of the members' masks say so;
- `staple`: where STAPLE's probability is above the threshold: members that agree better with what
  is estimated to be true count for more (Warfield, Zou and Wells, "Simultaneous truth and
  performance level estimation (STAPLE)", IEEE Transactions on Medical Imaging 23(7), 2004);
- `closest`: the mask of one member, the one whose mean Dice with all others is highest. Unlike the
  others it is a sample: a mask that the model has drawn as a whole.

A member's own mask is where its probability is above 0.5. `closest` and `staple` compare members,
which must have the same slices: see `overlaps.find_comparable`. On a slice that those lack, the
majority of the members that do have it decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.levels import MASK_LEVEL, MapKind
from napari_diffseg.core.overlaps import Overlaps, find_box, find_closest, find_comparable

ConsensusKind = Literal["mean", "majority", "staple", "closest"]

USES_THRESHOLD: tuple[ConsensusKind, ...] = ("mean", "staple")
"""For the others a threshold means nothing."""

STAPLE_ADVICE = "STAPLE needs SimpleITK: pip install 'napari-diffseg[staple]'"


@dataclass(frozen=True, eq=False)
class Votes:
    """The masks that STAPLE compares, cut out and copied: they may go to another thread.

    Attributes
    ----------
    members : tuple of int
    z_indices : (n,) int
        The slices that all of these members have, without those on which none sees tumour.
    corner : (int, int)
        Where the masks begin in y and x.
    masks : (S, n, h, w) bool
    """

    members: tuple[int, ...]
    z_indices: NDArray[np.int64]
    corner: tuple[int, int]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Staple:
    """STAPLE's estimate; attributes as in `Votes`.

    Attributes
    ----------
    probability : (n, h, w) float32 in [0, 1]
        Of being tumour; 0 outside of it.
    """

    members: tuple[int, ...]
    z_indices: NDArray[np.int64]
    corner: tuple[int, int]
    probability: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Decision:
    """A rule with what it takes to apply it slice by slice."""

    kind: ConsensusKind = "mean"
    threshold: float = 0.5
    """Of mean and STAPLE."""
    k: int | None = None
    """The first k members decide; None: all."""
    of: MapKind = "probabilities"
    """What the mean is made of."""
    closest: int | None = None
    """The member that `closest` stands for."""
    staple: Staple | None = None

    def write_slice(self, ensemble: Ensemble, z: int, mask: NDArray[np.bool_]) -> None:
        """Write slice z of the (Z, Y, X) mask. Without a sample it is empty."""
        closest, staple = self.closest, self.staple
        if self.kind == "mean":
            ensemble.update_slice(z, mask=mask, threshold=self.threshold, k=self.k, of=self.of)
        elif self.kind == "closest" and closest is not None and ensemble.sampled[closest, z]:
            np.greater_equal(ensemble.members_uint8()[closest, z], MASK_LEVEL, out=mask[z])
        elif self.kind == "staple" and staple is not None and z in staple.z_indices:
            probability = staple.probability[np.searchsorted(staple.z_indices, z)]
            (y, x), (height, width) = staple.corner, probability.shape
            mask[z] = False
            mask[z, y : y + height, x : x + width] = probability > self.threshold
        else:
            ensemble.update_slice(z, mask=mask, threshold=0.5, k=self.k, of="masks")


def find_watched(kind: ConsensusKind, threshold: float, of: MapKind) -> tuple[float, MapKind]:
    """Return threshold and kind of the mean whose mask tells whether this rule's mask is stable.

    For mean and majority it is their own mask. STAPLE's and the closest member's cannot be had
    sample by sample: the majority's stands for them.
    """
    return (threshold, of) if kind == "mean" else (0.5, "masks")


def has_staple() -> bool:
    """Whether SimpleITK is there, without importing it."""
    return find_spec("SimpleITK") is not None


def cut_out_votes(
    ensemble: Ensemble, k: int | None = None, overlaps: Overlaps | None = None
) -> Votes:
    """Copy what STAPLE compares: the comparable members' masks, in the box around all of them."""
    members = find_comparable(ensemble, k)
    is_common = ensemble.sampled[members].all(axis=0)
    has_tumour = ensemble.mask_voxels()[members].any(axis=0)
    z_indices = np.flatnonzero(is_common & has_tumour)
    overlaps = overlaps or Overlaps.of_ensemble(ensemble, k)
    y, x = overlaps.box(z_indices) or (slice(0, 0), slice(0, 0))
    levels = ensemble.members_uint8()[..., y, x][np.ix_(members, z_indices)]
    return Votes(tuple(members.tolist()), z_indices, (y.start, x.start), levels >= MASK_LEVEL)


def compute_staple(votes: Votes) -> Staple:
    """Estimate the hidden mask from the members' with SimpleITK's STAPLE: it takes seconds in 3-D.

    STAPLE's prior, the share of tumour, depends on how much background is looked at. Here that is
    always the smallest box around the masks of these members and one pixel more, on the slices that
    have any, whatever the size of the scan.

    Raises
    ------
    ParameterError
        Without SimpleITK.
    """
    union: NDArray[np.bool_] = np.any(votes.masks, axis=(0, 1))
    box = find_box(union)
    if box is None:
        empty = np.zeros((len(votes.z_indices), 0, 0), np.float32)
        return Staple(votes.members, votes.z_indices, votes.corner, empty)
    y, x = box
    masks = votes.masks[..., y, x]
    framed = np.pad(masks, ((0, 0), (0, 0), (1, 1), (1, 1)))
    probability = _run_staple(framed)[:, 1:-1, 1:-1]
    corner = votes.corner[0] + y.start, votes.corner[1] + x.start
    return Staple(votes.members, votes.z_indices, corner, probability)


def restore_staple(mask: NDArray[np.bool_]) -> Staple:
    """Return an estimate that gives a (Z, Y, X) mask of before again, whatever the threshold."""
    union: NDArray[np.bool_] = np.any(mask, axis=(0,))
    y, x = find_box(union) or (slice(0, 0), slice(0, 0))
    probability = mask[:, y, x].astype(np.float32)
    return Staple((), np.arange(len(mask)), (y.start, x.start), probability)


def members_threshold(kind: ConsensusKind, of: MapKind, threshold: float) -> float:
    """Return where members are cut when their volumes are set beside that of the mask.

    Where their mean probability is: cut elsewhere, all of them could be larger than the mask that
    they make, or smaller. Rules that work on the members' own masks cut them at 0.5.
    """
    return threshold if kind == "mean" and of == "probabilities" else 0.5


def decide(
    ensemble: Ensemble,
    kind: ConsensusKind = "mean",
    *,
    threshold: float = 0.5,
    k: int | None = None,
    of: MapKind = "probabilities",
) -> Decision:
    """Work out what a rule needs. For STAPLE that takes seconds.

    Raises
    ------
    ParameterError
        If STAPLE is wanted and SimpleITK is missing.
    """
    closest = find_closest(ensemble, k) if kind == "closest" else None
    staple = compute_staple(cut_out_votes(ensemble, k)) if kind == "staple" else None
    return Decision(kind, threshold, k, of, closest, staple)


def make_mask(ensemble: Ensemble, decision: Decision) -> NDArray[np.bool_]:
    """Make the (Z, Y, X) mask that was decided."""
    mask = np.zeros(ensemble.shape, bool)
    for z in range(ensemble.shape[0]):
        decision.write_slice(ensemble, z, mask)
    return mask


def _run_staple(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Run STAPLE on (S, ...) masks. It looks at each voxel by itself: the shape does not matter."""
    try:
        import SimpleITK as sitk  # noqa: N813 (its own documentation's name)
    except ImportError as error:
        raise ParameterError(f"{STAPLE_ADVICE}.") from error
    images = [sitk.GetImageFromArray(mask.reshape(1, -1).astype(np.uint8)) for mask in masks]
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1)
    probability = sitk.GetArrayFromImage(staple.Execute(images))
    return probability.reshape(masks.shape[1:]).astype(np.float32)
