"""A glioblastoma: necrosis in an irregular enhancing rim, and oedema along the white matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .anatomy import Anatomy, largest_component
from .fields import Array, column, smooth_field, smooth_step

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
"""Labels of BraTS 2017 to 2021."""


@dataclass(frozen=True)
class TumourShape:
    """Where the tumour is and how large, in mm on the BraTS grid."""

    centre: tuple[float, float, float] = (80.0, 150.0, 82.0)
    """Low x is the patient's right: right temporo-parietal."""
    radius_mm: float = 17.5
    second_offset_mm: tuple[float, float, float] = (6.0, 16.0, -6.0)
    """A second lobe, behind the first."""
    second_radius_mm: float = 10.0
    rim_mm: float = 6.0
    oedema_mm: float = 10.5
    """How far the oedema gets in pure white matter."""


@dataclass(frozen=True)
class Tumour:
    """Soft fractions on `WINDOW`, and the labels an expert would draw."""

    core: Array
    """Necrosis and enhancing rim together."""
    necrosis: Array
    """Of the core."""
    oedema: Array
    labels: NDArray[np.uint8]


def make_tumour(anatomy: Anatomy, shape: TumourShape, rng: np.random.Generator) -> Tumour:
    """Grow the tumour in `anatomy`."""
    inside_mm = _depth_in_core(anatomy, shape, rng)
    core = smooth_step(inside_mm / 0.7)
    rim_mm = shape.rim_mm + 2.2 * smooth_field(rng, 14) + 1.6 * smooth_field(rng, 7)
    necrosis = smooth_step((inside_mm - np.clip(rim_mm, 1.5, 9.5)) / 0.8)
    # Thin strands of living tumour cross the necrosis near its wall.
    strands = np.exp(-((smooth_field(rng, 11) / 0.1) ** 2)) * smooth_step((13 - inside_mm) / 1.5)
    necrosis *= 1 - 0.6 * strands

    oedema = _oedema(anatomy, inside_mm, shape, rng) * (1 - core)
    return Tumour(core, necrosis, oedema, _labels(anatomy, core, necrosis, oedema))


def _depth_in_core(anatomy: Anatomy, shape: TumourShape, rng: np.random.Generator) -> Array:
    """Depth below the surface of the core in mm, negative outside."""
    offset = anatomy.voxel - column(shape.centre)
    main = np.sqrt(((offset / column((0.88, 1.12, 1.0))) ** 2).sum(0)) - shape.radius_mm
    second = np.sqrt(((offset - column(shape.second_offset_mm)) ** 2).sum(0))
    second -= shape.second_radius_mm
    blend_mm = 4.0
    outside = -blend_mm * np.logaddexp(-main / blend_mm, -second / blend_mm)
    for amplitude_mm, scale_mm in ((2.6, 16), (1.6, 8), (0.7, 4)):
        outside += amplitude_mm * smooth_field(rng, scale_mm)
    # It stops below the surface of the brain.
    result: Array = -np.maximum(outside, 2.0 - anatomy.depth_mm).astype(np.float32)
    return result


def _oedema(
    anatomy: Anatomy, inside_mm: Array, shape: TumourShape, rng: np.random.Generator
) -> Array:
    """Oedema by travel time from the core: quick in white matter, slow in cortex, not in CSF."""
    from skimage.graph import MCP_Geometric

    speed = 0.03 + 0.97 * anatomy.wm**1.5 + 0.06 * anatomy.gm
    speed *= np.exp(0.35 * smooth_field(rng, 9))
    speed[~anatomy.brain | (anatomy.ventricle_mm == 0)] = 0.01
    speed = np.maximum(speed, 0.01)
    # A box around the core is enough, and four times as fast.
    margin = int(3 * shape.oedema_mm)
    seeds = np.argwhere(np.abs(inside_mm) < 0.6)
    low = np.maximum(seeds.min(0) - margin, 0)
    box = tuple(slice(a, b + margin + 1) for a, b in zip(low, seeds.max(0), strict=True))
    travel = np.full(speed.shape, np.inf, dtype=np.float32)
    travel[box] = MCP_Geometric(1 / speed[box]).find_costs(seeds - low)[0]
    travel[inside_mm > 0] = 0

    reach = np.maximum(shape.oedema_mm + 6 * smooth_field(rng, 26), 6)
    reach += 2.5 * smooth_field(rng, 7)
    water = ndimage.gaussian_filter(smooth_step((reach - np.minimum(travel, 1e3)) / 2.2), 0.9)
    tissue = anatomy.wm + anatomy.gm
    # Cortex takes up much less of it, which makes the fingers between the gyri.
    uptake = (anatomy.wm + 0.3 * anatomy.gm) / (tissue + 1e-3)
    result: Array = (water * tissue * uptake * anatomy.brain).astype(np.float32)
    return result


def _labels(anatomy: Anatomy, core: Array, necrosis: Array, oedema: Array) -> NDArray[np.uint8]:
    """One connected whole tumour without holes, where about half a voxel is tumour."""
    affected = np.where(anatomy.brain, np.maximum(core, oedema), 0)
    whole = ndimage.gaussian_filter(affected, 0.8) > 0.45
    whole = ndimage.binary_closing(largest_component(whole))
    whole = ndimage.binary_fill_holes(whole) & anatomy.brain
    labels = np.zeros(whole.shape, dtype=np.uint8)
    labels[whole] = OEDEMA
    labels[whole & (core > 0.5)] = ENHANCING
    labels[whole & (core > 0.5) & (necrosis > 0.5)] = NECROSIS
    return labels
