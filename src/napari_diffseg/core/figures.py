"""Slices as pictures, for the report: grey images with outlines, and the variance over them.

Canonical slices lie as radiologists expect: the patient's left is on the right.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from napari_diffseg.core.brats import Case

MASK_RGB, TRUTH_RGB = (86, 180, 233), (230, 159, 0)
"""Sky blue and orange of Okabe and Ito, as in the viewer."""

VIRIDIS = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)
"""Equal steps through the colour map."""

MAX_VARIANCE = 0.25
_MARGIN = 6  # voxels around the brain
_WIDTH = 340  # pixels
_BACKDROP = 3  # FLAIR, among the modalities
_VISIBLE_FROM = 0.025  # variance from which its colour is opaque


class SlicePainter:
    """Paints slices of one case, all cut to the same box around the brain.

    Parameters
    ----------
    case
        Its FLAIR image is the backdrop.
    """

    def __init__(self, case: Case) -> None:
        self._image = case.prior_image[_BACKDROP]
        self._spacing_mm = case.geometry.spacing_mm
        self._box = _find_box(self._image)
        inside = self._image[self._image != 0][::7]
        limits = np.percentile(inside, [0.5, 99.5]).tolist() if inside.size else [0.0, 1.0]
        self._low, self._high = float(limits[0]), float(limits[1])

    def paint_outlines(
        self, z: int, mask: NDArray[np.bool_], truth: NDArray[np.bool_] | None
    ) -> bytes:
        """Return a PNG of slice z with the outlines of (Z, Y, X) masks."""
        picture = self._paint_backdrop(z)
        if truth is not None:
            self._outline(picture, truth[z], TRUTH_RGB)
        self._outline(picture, mask[z], MASK_RGB)
        return _to_png(picture)

    def paint_variance(self, z: int, variance: NDArray[np.float32]) -> bytes:
        """Return a PNG of slice z under the (Z, Y, X) variance map, 0 transparent."""
        from PIL import Image

        picture = self._paint_backdrop(z)
        values = variance[z][self._box]
        at = np.linspace(0, MAX_VARIANCE, len(VIRIDIS))
        channels = [np.interp(values, at, channel) for channel in zip(*VIRIDIS, strict=True)]
        colours = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
        opacity = np.clip(values / _VISIBLE_FROM, 0, 1) * 255
        veil = Image.fromarray(opacity.astype(np.uint8))
        size = picture.size
        nearest = Image.Resampling.NEAREST
        picture.paste(colours.resize(size, nearest), mask=veil.resize(size, nearest))
        return _to_png(picture)

    def _paint_backdrop(self, z: int) -> Image:
        from PIL import Image

        values = self._image[z][self._box]
        grey = np.clip((values - self._low) / max(self._high - self._low, 1e-6), 0, 1) * 255
        height, width = values.shape
        _, y_mm, x_mm = self._spacing_mm
        size = _WIDTH, max(round(_WIDTH * (height * y_mm) / (width * x_mm)), 1)
        picture = Image.fromarray(grey.astype(np.uint8))
        return picture.resize(size, Image.Resampling.BICUBIC).convert("RGB")

    def _outline(
        self, picture: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]
    ) -> None:
        from PIL import ImageDraw
        from skimage.measure import find_contours

        inside = np.pad(mask[self._box], 1)  # closed at the edge of the picture, too
        rows, columns = inside.shape[0] - 2, inside.shape[1] - 2
        scale = np.array([picture.width / columns, picture.height / rows])
        draw = ImageDraw.Draw(picture)
        for contour in find_contours(inside.astype(np.float32), 0.5):  # type: ignore[no-untyped-call]
            points = (contour[:, ::-1] - 0.5) * scale  # voxel centres are half a voxel inside
            draw.line([tuple(point) for point in points.tolist()], colour, width=2, joint="curve")


def _find_box(image: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return rows and columns of the brain, or all where there is none."""
    inside = (image != 0).any(axis=0)
    box = []
    for axis in (1, 0):
        used = np.flatnonzero(inside.any(axis=axis))
        first, last = (used[0], used[-1]) if used.size else (0, inside.shape[1 - axis])
        box.append(slice(max(int(first) - _MARGIN, 0), int(last) + 1 + _MARGIN))
    return box[0], box[1]


def _to_png(picture: Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
