"""The slice cache, the split by patient, and which slices make up the batch of each step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_diffseg.core.errors import CaseError
from training.augmentation import augment
from training.config import AugmentationConfig, DataConfig


@dataclass(frozen=True)
class Split:
    """Case names by use; no patient is in both parts."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def load_split(path: Path) -> Split:
    """Read a split file: ``training`` and ``validation`` lists, and ``patient_key`` by case.

    Raises
    ------
    CaseError
        If the file cannot be read, a part is missing, or a patient is in both parts.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        training, validation = tuple(values["training"]), tuple(values["validation"])
        keys: dict[str, str] = values.get("patient_key", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError(
            f"{path} is not a split file ({error!r}). It needs the lists 'training' and "
            "'validation', and 'patient_key' where a patient has several cases."
        ) from error
    shared = {keys.get(c, c) for c in training} & {keys.get(c, c) for c in validation}
    if shared:
        raise CaseError(f"{path}: {sorted(shared)} are in both training and validation.")
    return Split(training, validation)


def hash_cases(names: Sequence[str]) -> str:
    """Return the SHA-256 of a set of case names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


class SliceCache:
    """Prepared slices of many cases, memory-mapped.

    Attributes
    ----------
    case_of, row_of : (n,) int64
        Case number and row in that case's files, for each slice that is used.
    has_tumour : (n,) bool
    """

    def __init__(self, folder: Path, names: Sequence[str], config: DataConfig) -> None:
        self.names = tuple(names)
        self._images: list[NDArray[np.uint8]] = []
        self._masks: list[NDArray[np.uint8]] = []
        case_of, row_of, has_tumour = [], [], []
        for number, name in enumerate(self.names):
            images, masks, source_slices = _open_cached(folder, name)
            brain = np.mean(images.max(axis=1) > 0, axis=(1, 2))
            wanted: NDArray[np.bool_] = np.asarray(brain > config.min_brain_fraction)
            if config.source_slices is not None:
                first, end = config.source_slices
                wanted &= (source_slices >= first) & (source_slices < end)
            rows = np.flatnonzero(wanted)
            self._images.append(images)
            self._masks.append(masks)
            case_of.append(np.full(len(rows), number))
            row_of.append(rows)
            has_tumour.append(np.asarray(masks.any(axis=(1, 2)))[rows])
        self.case_of = np.concatenate(case_of)
        self.row_of = np.concatenate(row_of)
        self.has_tumour = np.concatenate(has_tumour)
        if not len(self.case_of):
            raise CaseError(f"{folder}: none of the cases has a slice that could be trained on.")

    def __len__(self) -> int:
        return len(self.case_of)

    def load(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return images (B, 4, Y, X) in [0, 1] and masks (B, 1, Y, X) in {0, 1}, float32."""
        pairs = [(self.case_of[i], self.row_of[i]) for i in indices]
        images = np.stack([self._images[c][r] for c, r in pairs])
        masks = np.stack([self._masks[c][r] for c, r in pairs])
        return (
            torch.from_numpy(images).float().div_(255.0),
            torch.from_numpy(masks).float().unsqueeze(1),
        )


def _open_cached(
    folder: Path, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    try:
        images = np.load(folder / f"{name}.images.npy", mmap_mode="r", allow_pickle=False)
        masks = np.load(folder / f"{name}.masks.npy", mmap_mode="r", allow_pickle=False)
        source_slices = np.load(folder / f"{name}.slices.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CaseError(
            f"{folder}: the cache of {name} cannot be read ({error}). "
            "Run `python -m training.prepare` again; it adds what is missing."
        ) from error
    if not len(images) == len(masks) == len(source_slices):
        raise CaseError(f"{folder}: the cache of {name} is incomplete. Delete its files.")
    return images, masks, source_slices


class BatchPlan:
    """Which slices each step sees: a pure function of (seed, step), so a resume needs no state.

    Slices with and without tumour are two pools; each is walked through in a new random order
    per epoch of its own, so that every slice is seen equally often within its pool.
    """

    def __init__(
        self, has_tumour: NDArray[np.bool_], batch_size: int, config: DataConfig, seed: int
    ) -> None:
        self._seed = seed
        everything = np.arange(len(has_tumour))
        tumour, rest = np.flatnonzero(has_tumour), np.flatnonzero(~has_tumour)
        if config.tumour_fraction is None or not len(tumour) or not len(rest):
            self._pools = [(everything, batch_size)]
        else:
            n_tumour = round(batch_size * config.tumour_fraction)
            self._pools = [(tumour, n_tumour), (rest, batch_size - n_tumour)]

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the slice numbers (B,) of step ``step`` (from 0)."""
        chosen = [
            pool[self._walk(number, len(pool), step * count, count)]
            for number, (pool, count) in enumerate(self._pools)
        ]
        return np.concatenate(chosen)

    def _walk(self, pool: int, size: int, start: int, count: int) -> NDArray[np.int64]:
        positions = np.arange(start, start + count)
        out = np.empty(count, np.int64)
        for epoch in np.unique(positions // size):
            order = np.random.default_rng([self._seed, pool, int(epoch)]).permutation(size)
            here = positions // size == epoch
            out[here] = order[positions[here] % size]
        return out


def load_batch(
    cache: SliceCache,
    plan: BatchPlan,
    step: int,
    augmentation: AugmentationConfig | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the images and masks of one step, augmented."""
    images, masks = cache.load(plan.indices(step))
    if augmentation is not None:
        images, masks = augment(images, masks, augmentation, generator)
    return images, masks
