"""From tissue fractions to four MR images: contrast, vessels, bias field, noise.

The intensities are in the scale of BraTS images whose 1st-99th percentile of the brain is mapped to
[0, 1]; they were set to the medians of real cases (see src/napari_diffseg/sample/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anatomy import Anatomy
from .fields import Array, distance_to_segment, smooth_field, smooth_step
from .tumour import Tumour


@dataclass(frozen=True)
class Contrast:
    """One MR sequence: the brightness of each tissue, and how the image is degraded."""

    wm: float
    gm: float
    csf: float
    oedema: float
    enhancing: float
    necrosis: float
    residual: float
    """Weight of the template's own texture."""
    texture: float
    vessel: tuple[float, float]
    """Brightness of a vessel and its opacity."""
    dura: float
    spread: tuple[float, float, float]
    """Relative variation within oedema, enhancing tumour and necrosis."""
    halo: float
    """Brightening of the white matter around the ventricles, as in most older patients."""
    blur_mm: tuple[float, float, float]
    bias: float
    noise: float


CONTRASTS = {
    "t1": Contrast(
        wm=0.80, gm=0.54, csf=0.10, oedema=0.53, enhancing=0.57, necrosis=0.36,
        residual=0.62, texture=0.03, vessel=(0.62, 0.5), dura=0.22, spread=(0.08, 0.05, 0.12),
        halo=0.0, blur_mm=(0.3, 0.3, 0.3), bias=0.10, noise=0.018,
    ),
    "t1ce": Contrast(
        wm=0.41, gm=0.31, csf=0.08, oedema=0.30, enhancing=0.80, necrosis=0.18,
        residual=0.25, texture=0.03, vessel=(1.25, 1.0), dura=0.15, spread=(0.08, 0.16, 0.30),
        halo=0.0, blur_mm=(0.3, 0.3, 0.35), bias=0.10, noise=0.014,
    ),
    "t2": Contrast(
        wm=0.30, gm=0.39, csf=1.00, oedema=0.52, enhancing=0.50, necrosis=0.72,
        residual=-0.28, texture=0.03, vessel=(0.0, 0.55), dura=0.04, spread=(0.12, 0.10, 0.16),
        halo=0.06, blur_mm=(0.3, 0.3, 0.5), bias=0.09, noise=0.015,
    ),
    "flair": Contrast(
        wm=0.32, gm=0.45, csf=0.09, oedema=0.68, enhancing=0.65, necrosis=0.69,
        residual=0.0, texture=-0.04, vessel=(0.0, 0.2), dura=0.12, spread=(0.18, 0.13, 0.15),
        halo=0.25, blur_mm=(0.35, 0.35, 0.65), bias=0.11, noise=0.016,
    ),
}  # fmt: skip


def iter_modalities(
    anatomy: Anatomy, tumour: Tumour, rng: np.random.Generator
) -> Iterator[tuple[str, Array]]:
    """Yield (name, image) of the four modalities; images are 0 outside of the brain."""
    vessels = _vessels(anatomy, rng) * (1 - tumour.core)
    patches = smooth_field(rng, 12) + smooth_field(rng, 5) + 0.2
    dura = 0.9 * smooth_step((1.7 - anatomy.depth_mm) / 0.3) * smooth_step(patches / 0.3)
    halo = np.exp(-((np.maximum(anatomy.ventricle_mm - 0.5, 0) / 1.6) ** 2)) * anatomy.wm
    halo *= (anatomy.csf < 0.5) * smooth_step((smooth_field(rng, 16) + 0.3) / 0.4)
    texture = 0.6 * smooth_field(rng, 3.5) + 0.6 * smooth_field(rng, 8)
    lesion_texture = (
        0.7 * smooth_field(rng, 9) + 0.4 * smooth_field(rng, 5),
        smooth_field(rng, 5),
        smooth_field(rng, 6),
    )
    for name, c in CONTRASTS.items():
        image = c.wm * anatomy.wm + c.gm * anatomy.gm + c.csf * anatomy.csf
        image = (image + c.residual * anatomy.residual) * (1 + c.texture * texture) + c.halo * halo
        oedema, enhancing, necrosis = (
            mean * (1 + spread * field)
            for mean, spread, field in zip(
                (c.oedema, c.enhancing, c.necrosis), c.spread, lesion_texture, strict=True
            )
        )
        image += tumour.oedema * (oedema - image)
        core = enhancing + tumour.necrosis * (necrosis - enhancing)
        image += tumour.core * (core - image)
        image += dura * (c.dura - image)
        brightness, opacity = c.vessel
        image += vessels * opacity * (brightness - image)
        yield name, _acquire(image, c, rng) * anatomy.brain


def _acquire(image: Array, contrast: Contrast, rng: np.random.Generator) -> Array:
    """Point spread, receive field and Rician noise of magnitude images."""
    image = ndimage.gaussian_filter(image, contrast.blur_mm)
    bias = contrast.bias * smooth_field(rng, 75) + 0.03 * smooth_field(rng, 35)
    image *= np.exp(bias)
    real, imaginary = (_receiver_noise(rng, image.shape) for _ in range(2))
    return np.hypot(image + contrast.noise * real, contrast.noise * imaginary)


def _receiver_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Unit variance, correlated over about a voxel as after resampling to 1 mm."""
    white = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(white, (0.5, 0.5, 0.4))
    return noise / noise.std()


def _vessels(anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """Opacity of what takes up contrast agent without a tumour: vessels, plexus, dura, falx."""
    depth_mm, csf = anatomy.depth_mm, anatomy.csf

    def random_tubes(scale_mm: float, width: float) -> Array:
        """Where two random fields both vanish: winding curves."""
        a, b = smooth_field(rng, scale_mm), smooth_field(rng, scale_mm)
        return np.exp(-(a * a + b * b) / (2 * width**2))

    cortical = random_tubes(13, 0.10) * np.exp(-depth_mm / 22)
    cortical *= np.clip(1.6 * csf + np.exp(-depth_mm / 2), 0, 1)
    sulcal = 0.65 * random_tubes(9, 0.09) * np.clip(2 * csf, 0, 1)
    medullary = 0.25 * random_tubes(18, 0.05)

    x, y, z = anatomy.mni
    top = (z > 5) | (y < -70)
    sagittal_sinus = smooth_step((3.4 - np.abs(x)) / 0.6) * smooth_step((5 - depth_mm) / 0.7) * top
    falx = 0.45 * np.exp(-((x / 0.8) ** 2)) * np.clip(1.5 * csf, 0, 1) * (z > 12)

    mirrored = np.stack([np.abs(x), y, z])

    def tube(start: object, end: object, radius_mm: Array | float, edge_mm: float = 0.5) -> Array:
        return smooth_step((radius_mm - distance_to_segment(mirrored, start, end)) / edge_mm)

    arteries = np.clip(0.2 + 1.5 * csf, 0, 1)
    arteries *= np.max(
        [
            tube((0, -40, 7), (0, -80, -2), 1.9),  # straight sinus
            0.9 * tube((7, -1, -20), (30, 3, -18), 1.3),  # middle cerebral arteries
            0.9 * tube((0, -24, -36), (0, -20, -14), 1.5),  # basilar artery
            0.9 * tube((5, 8, -16), (1, 40, -2), 0.9),  # anterior cerebral arteries
        ],
        axis=0,
    )
    radius_mm = 3.0 + smooth_field(rng, 4)
    plexus = 0.8 * np.clip(1.4 * csf, 0, 1)
    plexus *= np.maximum(
        tube((12, -24, 18), (23, -40, 7), radius_mm, 0.6),
        tube((23, -40, 7), (29, -26, -8), radius_mm, 0.6),
    )
    dura = 0.9 * smooth_step((1.6 - depth_mm) / 0.4)
    dura *= smooth_step((smooth_field(rng, 16) - 0.9) / 0.25)
    parts = [cortical, sulcal, medullary, sagittal_sinus, falx, arteries, plexus, dura]
    return np.clip(np.max(parts, axis=0), 0, 1)
