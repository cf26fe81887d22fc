"""One picture of what a model draws: FLAIR, truth, members, mean and variance of a few slices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_FLAIR = 3
_TRUTH_COLOUR = (0.35, 1.0, 0.45)
_TUMOUR_COLOUR = (1.0, 0.55, 0.1)
_VARIANCE_COLOUR = (1.0, 0.25, 0.75)
_LARGEST_VARIANCE = 0.25  # of a probability
_LABEL_WIDTH = 72
_MAX_MEMBERS = 5


def draw_preview(
    images: FloatArray, truth: NDArray[np.bool_], members: FloatArray
) -> NDArray[np.uint8]:
    """Return an RGB picture with one column for each slice; the truth's outline is in every row.

    Parameters
    ----------
    images : (B, 4, Y, X) in [0, 1]
    truth : (B, Y, X)
    members : (S, B, Y, X)
        Probabilities.
    """
    flair = images[:, _FLAIR]
    outline = np.stack([_outline(mask) for mask in truth])
    rows = [("FLAIR", _blend(flair, np.zeros_like(flair), _TUMOUR_COLOUR))]
    rows.append(("truth", _blend(flair, truth.astype(np.float32), _TRUTH_COLOUR)))
    for number, member in enumerate(members[:_MAX_MEMBERS]):
        rows.append((f"sample {number + 1}", _blend(flair, member, _TUMOUR_COLOUR)))
    rows.append(("mean", _blend(flair, members.mean(axis=0), _TUMOUR_COLOUR)))
    variance = members.var(axis=0) / _LARGEST_VARIANCE
    rows.append(("variance", _blend(flair, variance, _VARIANCE_COLOUR)))
    for _, row in rows[2:]:
        row[outline] = _TRUTH_COLOUR
    picture = np.concatenate([np.concatenate(list(row), axis=1) for _, row in rows], axis=0)
    pixels = np.round(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
    return _add_labels(pixels, [label for label, _ in rows])


def save_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (Y, X, 3), complete or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    Image.fromarray(picture).save(temporary, format="png")
    os.replace(temporary, path)


def _blend(grey: FloatArray, amount: FloatArray, colour: Sequence[float]) -> FloatArray:
    """Return (B, Y, X, 3): grey, and the colour where ``amount`` (0 to 1) is high."""
    weight = 0.75 * np.clip(amount, 0.0, 1.0)[..., None]
    mixed = (1.0 - weight) * grey[..., None] + weight * np.asarray(colour, np.float32)
    return np.asarray(mixed, np.float32)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels just outside of a mask."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown & ~mask


def _add_labels(picture: NDArray[np.uint8], labels: Sequence[str]) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    height = picture.shape[0] // len(labels)
    strip = Image.new("RGB", (_LABEL_WIDTH, picture.shape[0]))
    draw = ImageDraw.Draw(strip)
    for row, label in enumerate(labels):
        draw.text((4, row * height + 4), label, fill=(255, 255, 255))
    return np.concatenate([np.asarray(strip, np.uint8), picture], axis=1)
