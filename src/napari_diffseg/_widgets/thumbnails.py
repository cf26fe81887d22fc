"""Small pictures of the members' masks on one slice: plain arrays, without Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg._widgets.contours import find_outline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_diffseg.core.overlaps import Box

LEAST_SIDE = 32
STEP = 8  # windows move and grow in steps: the picture is steady from slice to slice
MARGIN = 4
DIM = 0.65  # the image is background
FILL = 0.2


@dataclass(frozen=True)
class Window:
    """The square that is cut out of a slice."""

    y: int
    x: int
    side: int

    @property
    def box(self) -> Box:
        """Rows and columns."""
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)


def find_window(box: Box | None, shape: tuple[int, int]) -> Window:
    """Return a square around a box, inside of a (Y, X) slice; without a box, in its middle."""
    if box is None:
        side = min(shape)
        return Window((shape[0] - side) // 2, (shape[1] - side) // 2, side)
    longest = max(edge.stop - edge.start for edge in box) + 2 * MARGIN
    side = min(max(-(-longest // (2 * STEP)) * 2 * STEP, LEAST_SIDE), *shape)
    corner = []
    for edge, n_pixels in zip(box, shape, strict=True):
        start = (edge.start + edge.stop - side) // 2
        if longest <= side:  # a step must not cut anything off
            low, high = edge.stop + MARGIN - side, edge.start - MARGIN
            start = min(max(round(start / STEP) * STEP, low), high)
        corner.append(min(max(start, 0), n_pixels - side))
    return Window(corner[0], corner[1], side)


def draw_thumbnails(
    image: NDArray[np.float32],
    limits: tuple[float, float],
    masks: NDArray[np.bool_],
    size: int,
    colour: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Draw masks over an image, filled thinly and with their outline.

    Parameters
    ----------
    image : (side, side) float
        What lies below, dimmed.
    limits
        The intensities that are black and white.
    masks : (S, side, side) bool
    size
        Of the pictures, in pixels.
    colour
        Red, green and blue, 0 to 255.

    Returns
    -------
    (S, size, size, 3) uint8
    """
    at = (np.arange(size) * image.shape[0]) // size
    low, high = limits
    grey = np.clip((image[np.ix_(at, at)] - low) / max(high - low, 1e-6), 0, 1) * (255 * DIM)
    back = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    ink = np.array(colour, float)
    tinted = (back * (1 - FILL) + ink * FILL).astype(np.uint8)
    enlarged = masks[:, at[:, np.newaxis], at]
    pictures = np.where(enlarged[..., np.newaxis], tinted, back.astype(np.uint8))
    pictures[find_outline(enlarged)] = np.array(colour, np.uint8)
    return np.ascontiguousarray(pictures)
