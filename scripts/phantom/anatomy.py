"""A head of one's own from the MNI152 template: deformed, pushed by the tumour, with sharp tissues.

The template is the average of 152 brains, so its tissue maps are soft where people differ. Read as
probabilities, they tell where an individual may differ: a smooth random field added to the log-odds
decides each doubtful fold one way or the other, and leaves what is certain as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from .fields import WINDOW, Array, Mask, column, smooth_field

BRATS_TO_TEMPLATE = np.array(
    [
        [-1.0871, -0.0187, 0.0143, 228.580],
        [0.0221, -1.0265, 0.2355, 230.665],
        [0.0092, 0.2585, 1.1141, -38.383],
    ],
    dtype=np.float32,
)
"""BraTS voxel to template voxel, from a registration to the mean of 36 BraTS cases: in the SRI24
space of BraTS, brains are 6 to 14 % smaller than MNI152, and pitched by 14 degrees."""

TEMPLATE_ORIGIN = (98, 134, 72)
"""The template voxel at MNI (0, 0, 0) mm."""

TEMPLATE_CSF, TEMPLATE_GM, TEMPLATE_WM = 67.0, 165.0, 223.0
"""What the template's T1 has in pure tissue (of 255)."""


@dataclass(frozen=True)
class Template:
    """The three images of the nilearn wheel, as float32: T1 0..255, tissue probabilities 0..1."""

    t1: Array
    gm: Array
    wm: Array


@dataclass(frozen=True)
class Anatomy:
    """One healthy brain on `WINDOW`: tissue fractions that sum to 1, and where they are."""

    voxel: Array
    """(3, x, y, z) coordinates on the BraTS grid."""
    mni: Array
    """(3, x, y, z) MNI mm in the template that each voxel came from."""
    brain: Mask
    depth_mm: Array
    """Distance to the outside of the brain."""
    wm: Array
    gm: Array
    csf: Array
    residual: Array
    """Template T1 minus what its tissue maps explain (thalamus, pallidum, tracts), about +-0.1."""
    ventricle_mm: Array
    """Distance to the ventricles, 0 inside."""


@dataclass(frozen=True)
class Push:
    """Mass effect: tissue within about `reach_mm` of `centre` moves outwards."""

    centre: tuple[float, float, float]
    reach_mm: float = 30.0
    strength: float = 0.42


def load_template(folder: Path) -> Template:
    """The MNI152 2009a symmetric template in nilearn's data `folder` (nilearn/datasets/data)."""
    import nibabel as nib

    def load(name: str) -> Array:
        image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        return np.asarray(image.dataobj, dtype=np.float32)

    return Template(t1=load("t1"), gm=load("gm") / 255, wm=load("wm") / 255)


def make_anatomy(template: Template, push: Push, rng: np.random.Generator) -> Anatomy:
    """Deform the template onto the BraTS grid and decide its doubtful tissues."""
    voxel = np.stack(
        np.meshgrid(*[np.arange(s.start, s.stop) for s in WINDOW], indexing="ij")
    ).astype(np.float32)
    moved = voxel + _deformation(rng)
    brain = _brain_mask(template, _to_template(moved), rng)
    depth_mm = ndimage.distance_transform_edt(brain).astype(np.float32)

    offset = voxel - column(push.centre)
    radius = np.sqrt((offset**2).sum(0))
    # The skull does not give way: no displacement at the surface.
    pushed = push.strength * np.exp(-((radius / push.reach_mm) ** 2)) * np.clip(depth_mm / 12, 0, 1)
    source = _to_template(moved - pushed * offset)
    mni = source - column(TEMPLATE_ORIGIN)

    # Blurring looks a little beyond the brain; there, and where the template ends, is CSF.
    near = ndimage.binary_dilation(brain, iterations=3)
    t1 = np.full(brain.shape, TEMPLATE_CSF, dtype=np.float32)
    t1[near] = _sample(np.where(template.t1 > 0, template.t1, TEMPLATE_CSF), source[:, near])
    gm, wm = np.zeros((2, *brain.shape), dtype=np.float32)
    gm[near] = np.clip(_sample(template.gm, source[:, near]), 0, 1)
    wm[near] = np.clip(_sample(template.wm, source[:, near]), 0, 1)
    csf = np.clip(1 - gm - wm, 0, 1)
    gm, wm, csf = (tissue / (gm + wm + csf) for tissue in (gm, wm, csf))
    expected = TEMPLATE_CSF * csf + TEMPLATE_GM * gm + TEMPLATE_WM * wm
    residual = np.clip((t1 - expected) / (TEMPLATE_WM - TEMPLATE_CSF), -0.12, 0.12)

    ventricle_mm = _ventricle_distance(csf, mni, depth_mm)
    effaced = np.exp(-((np.maximum(radius - 24, 0) / 9) ** 2))
    wm, gm, csf = _individual_tissues(wm, gm, csf, t1, ventricle_mm, effaced, rng)
    return Anatomy(voxel, mni, brain, depth_mm, wm, gm, csf, residual, ventricle_mm)


def _deformation(rng: np.random.Generator) -> Array:
    """Displacement (3, x, y, z) in mm: the shape of the head, of the lobes, of the gyri."""
    parts = [
        amplitude_mm * np.stack([smooth_field(rng, scale_mm) for _ in range(3)])
        for amplitude_mm, scale_mm in ((2.3, 60), (1.2, 28), (0.5, 12))
    ]
    return np.sum(parts, axis=0, dtype=np.float32)


def _to_template(voxel: Array) -> Array:
    linear = np.tensordot(BRATS_TO_TEMPLATE[:, :3], voxel, axes=1)
    return (linear + column(BRATS_TO_TEMPLATE[:, 3])).astype(np.float32)


def _sample(volume: Array, at: Array, order: int = 3) -> Array:
    return ndimage.map_coordinates(volume, at, order=order, mode="nearest", output=np.float32)


def _brain_mask(template: Template, at: Array, rng: np.random.Generator) -> Mask:
    """A skull stripper's brain: a little tight, and not everywhere at the same depth."""
    soft = ndimage.gaussian_filter((template.t1 > 0).astype(np.float32), 1.5)
    soft[0], soft[-1], soft[:, 0], soft[:, -1], soft[:, :, -1] = 0, 0, 0, 0, 0
    brain = _sample(soft, at, order=1) > 0.62 + 0.10 * smooth_field(rng, 9)
    return ndimage.binary_fill_holes(largest_component(brain))


def largest_component(mask: Mask) -> Mask:
    """The largest 6-connected part of a mask that is not empty."""
    labels, _ = ndimage.label(mask)
    return labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1


def _ventricle_distance(csf: Array, mni: Array, depth_mm: Array) -> Array:
    """Distance to the lateral and third ventricles: CSF deep inside, in a box around them."""
    left_right, front, up = np.abs(mni[0]), mni[1], mni[2]
    box = (left_right < 42) & (front > -62) & (front < 42) & (up > -18) & (up < 34)
    ventricles = (csf > 0.6) & box & (depth_mm > 18)
    return ndimage.distance_transform_edt(~ventricles).astype(np.float32)


def _individual_tissues(
    wm: Array,
    gm: Array,
    csf: Array,
    t1: Array,
    ventricle_mm: Array,
    effaced: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Sharpen the fractions, with random log-odds in the cortex; (wm, gm, csf) that sum to 1."""
    cortex = np.clip((ventricle_mm - 6) / 6, 0, 1)
    # The average T1 still shows sulci whose CSF the tissue maps have lost.
    sulci = np.clip((TEMPLATE_GM + 3 - t1) / (TEMPLATE_GM - TEMPLATE_CSF), 0, 1) * cortex
    sharpness = 1.9
    log_wm, log_gm, log_csf = (
        sharpness * np.log(fraction + 0.004) for fraction in (wm, gm, np.maximum(csf, sulci))
    )
    log_wm += cortex * (0.55 * smooth_field(rng, 7) - 0.25)
    width = 1.7 + 0.8 * smooth_field(rng, 5) + 0.35 * smooth_field(rng, 30) - 1.4 * effaced
    log_csf += cortex * width + np.exp(-((ventricle_mm / 3) ** 2))
    log_odds = np.stack([log_wm, log_gm, log_csf])
    odds = np.exp(log_odds - log_odds.max(0))
    # Partial volume: the fractions of a voxel, not of a point.
    soft = [ndimage.gaussian_filter(part, 0.45) for part in odds / odds.sum(0)]
    return soft[0], soft[1], soft[2]
