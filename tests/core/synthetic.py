"""A small case in memory: an ellipsoidal brain with a bright tumour, some slices without brain."""

from __future__ import annotations

import numpy as np

from napari_diffseg.core.brats import Case, CaseFiles
from napari_diffseg.core.geometry import Geometry


def synthetic_case(shape_zyx: tuple[int, int, int] = (12, 40, 36), seed: int = 0) -> Case:
    """Return a case on a 1 mm grid in BraTS voxel order; the outermost two slices are empty."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape_zyx), indexing="ij")
    brain = (z / 0.8) ** 2 + (y / 0.8) ** 2 + (x / 0.8) ** 2 < 1
    tumour = (z / 0.5) ** 2 + ((y - 0.2) / 0.3) ** 2 + ((x - 0.3) / 0.3) ** 2 < 1
    prior = rng.uniform(80, 120, (4, *shape_zyx)).astype(np.float32)
    prior[:, tumour] += 100
    prior[:, ~brain] = 0
    labels = (2 * (tumour & brain)).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    return Case(
        name="Synthetic_00001",
        files=CaseFiles(name="Synthetic_00001", family="brats2017", modalities={}, label=None),
        prior_image=prior,
        wt_truth=labels > 0,
        labels=labels,
        geometry=Geometry.from_affine(tuple(reversed(shape_zyx)), affine),
    )
