"""One labelled case to the arrays that a network is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import Case
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.preprocessing import PreprocessingConfig, prepare_case


@dataclass(frozen=True, eq=False)
class TrainingSlices:
    """The slices of one case that hold brain.

    Attributes
    ----------
    images : (n, 4, Y, X) uint8
        Normalised intensities; 255 stands for 1.
    masks : (n, Y, X) uint8
        Whole tumour, in {0, 1}.
    slices : (n,) int64
        The source file's own slice numbers; rows are in the canonical order, ascending in z.
    context : tuple of int
        Steps in z to the neighbours that the network is given too.
    messages : tuple of str
        What a user should know, for example that the brain is larger than the window.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    slices: NDArray[np.int64]
    context: tuple[int, ...] = ()
    messages: tuple[str, ...] = ()


def prepare_training_slices(case: Case, config: PreprocessingConfig) -> TrainingSlices:
    """Prepare a case with the preprocessing that inference uses.

    All slices get exactly ``config.window``, since a batch needs one size. Inference takes a
    larger window where the brain needs it; here that is cut in the middle, with a message.

    Raises
    ------
    CaseError
        If the case has no labels or no brain.
    """
    if case.wt_truth is None:
        raise CaseError(f"{case.name}: there is no label file, so it cannot be trained on.")
    prepared = prepare_case(case, config)
    window = prepared.window
    truth = case.wt_truth[prepared.z_indices].astype(np.float32)
    images = np.round(fit_window(prepared.slices, config.window) * 255.0).astype(np.uint8)
    masks = (fit_window(window.cut(truth), config.window) > 0.5).astype(np.uint8)
    numbers = [case.geometry.to_source_slice(int(z)) for z in prepared.z_indices]
    messages = []
    if window.shape != config.window:
        messages.append(
            f"the brain needs a window of {_text(window.shape)}; it is cut to the configuration's "
            f"{_text(config.window)}"
        )
    scale = float(np.prod(window.grid_shape) / np.prod(window.source_shape))
    n_expected = scale * int(case.wt_truth.sum())
    if not masks.any():
        messages.append("no slice has tumour")
    elif masks.sum() < 0.99 * n_expected:
        share = 1.0 - masks.sum() / n_expected
        messages.append(f"{share:.0%} of the tumour is outside of the window or the used slices")
    return TrainingSlices(
        images, masks, np.array(numbers, np.int64), prepared.context, tuple(messages)
    )


def fit_window(stack: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the middle of slices (..., Y, X), cut or padded with 0 to ``shape``."""
    out = np.zeros((*stack.shape[:-2], *shape), stack.dtype)
    (to_y, from_y), (to_x, from_x) = (
        _overlap(size, wanted) for size, wanted in zip(stack.shape[-2:], shape, strict=True)
    )
    out[..., to_y, to_x] = stack[..., from_y, from_x]
    return out


def _overlap(size: int, wanted: int) -> tuple[slice, slice]:
    length = min(size, wanted)
    to, origin = (wanted - length) // 2, (size - length) // 2
    return slice(to, to + length), slice(origin, origin + length)


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)
