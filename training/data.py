"""The slice cache, the split by patient, and which slices make up the batch of each step."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.preprocessing import find_context
from training.augmentation import augment, paste_tumours
from training.config import AugmentationConfig, DataConfig
from training.shares import BatchRandom
from training.slice_content import measure_content, read_content

# The last number is the visit in BraTS 2017 to 2019 (Brats18_CBICA_AAB_1) and from 2023 on
# (BraTS-GLI-00000-001); in the years between the only number is the patient's. A slice has its own
# number behind all that (BraTS20_Training_001_080).
_KNOWN_NAME = re.compile(
    r"(?P<patient>Brats1[789]_[^_]+_[^_]+|BraTS-[A-Za-z]+-\d+)[_-]\d+(?:_\d+)?"
    r"|(?P<only>BraTS(?:20)?_[A-Za-z]+_\d+|BraTS2021_\d+)(?:_\d+)?"
    # Of BIDS, of two public collections with later scans, and of whoever counts visits.
    r"|(?P<subject>sub-[^_]+)(?:_.*)?"
    r"|(?P<scanned>UPENN-GBM-\d+)_\d+"
    r"|(?P<treated>UCSF-PDGM-\d+)(?:_FU\w*)?"
    r"|(?P<visited>.*?\d)[_-](?:ses|session|visit|week|month|day|timepoint)[_-]?\d+(?:[_-].*)?",
    re.IGNORECASE,
)


def find_patient(case: str) -> str:
    """Return the part of a case's name that stands for the patient; all of an unknown name."""
    match = _KNOWN_NAME.fullmatch(case)
    return next(filter(None, match.groups())) if match else case


@dataclass(frozen=True)
class Split:
    """Case names by use; no patient is in both parts."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    patients: Mapping[str, str] = field(default_factory=dict)
    """Patient of every case."""


def load_split(path: Path) -> Split:
    """Read a split file: ``training`` and ``validation`` lists, and ``patient_key`` by case.

    Where ``patient_key`` does not tell, the name of the case does (:func:`find_patient`).

    Raises
    ------
    CaseError
        If the file cannot be read, a part is missing, or a patient is in both parts.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        training, validation = tuple(values["training"]), tuple(values["validation"])
        keys: dict[str, str] = dict(values.get("patient_key", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError(
            f"{path} is not a split file ({error!r}). It needs the lists 'training' and "
            "'validation', and 'patient_key' where a patient has several cases."
        ) from error
    patients = {case: keys.get(case, find_patient(case)) for case in (*training, *validation)}
    shared = {patients[c] for c in training} & {patients[c] for c in validation}
    if shared:
        raise CaseError(f"{path}: {sorted(shared)} are in both training and validation.")
    return Split(training, validation, patients)


def hash_cases(names: Sequence[str]) -> str:
    """Return the SHA-256 of a set of case names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def name_training_patients(split: Split) -> frozenset[str]:
    """Return all names of the patients that are trained on: BraTS renames from year to year."""
    return frozenset(
        name for case in split.training for name in (split.patients[case], find_patient(case))
    )


def hash_split(split: Split) -> str:
    """Return the SHA-256 of who is trained on, who is evaluated, and who is one patient."""
    parts = [sorted(split.training), sorted(split.validation), sorted(split.patients.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class SliceCache:
    """Prepared slices of many cases on the disk; see :mod:`training.prepare`.

    Parameters
    ----------
    folder, names
        The cache, and the cases that are used.
    config
        Which of their slices are used.
    context
        Steps in z to the neighbours of a slice, by case; the same number for all. Neighbours are
        looked for among all slices of the cache, used or not.

    Attributes
    ----------
    names : tuple of str
        The cases.
    window : (Y, X) of every slice.
    case_of, row_of : (n,) int64
        Case number and row in that case's files, for each slice that is used.
    source_slice : (n,) int64
        The source file's own slice number.
    has_tumour : (n,) bool

    Raises
    ------
    CaseError
        If a case is missing or damaged, windows differ, or no slice is left to be used.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        config: DataConfig,
        context: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.names = tuple(names)
        self._folder = folder
        self._context = context or {}
        # Hundreds of cases are more files than a process may have open.
        size = None if config.in_memory else _MAX_OPEN_CASES
        read = partial(_open_cached, mmap_mode=None if config.in_memory else "r")
        self._open = lru_cache(maxsize=size)(read)
        case_of, row_of, source_slice, has_tumour = [], [], [], []
        windows = set()
        for number, name in enumerate(self.names):
            images, masks, source_slices = self._open(folder, name)
            windows.add((images.shape[2], images.shape[3]))
            content = read_content(folder, name, len(images))
            if content is None:
                content = measure_content(images, masks)
            wanted: NDArray[np.bool_] = np.asarray(content[:, 0] > config.min_brain_fraction)
            if config.source_slices is not None:
                first, end = config.source_slices
                wanted &= (source_slices >= first) & (source_slices < end)
            rows = np.flatnonzero(wanted)
            case_of.append(np.full(len(rows), number))
            row_of.append(rows)
            source_slice.append(source_slices[rows])
            has_tumour.append((content[:, 1] > 0)[rows])
        if not sum(len(rows) for rows in row_of):
            raise CaseError(f"{folder}: none of the {len(names)} cases has a slice to be used.")
        if len(windows) > 1:
            raise CaseError(f"{folder}: cases have windows of different sizes {sorted(windows)}.")
        self.window: tuple[int, int] = windows.pop()
        self.case_of = np.concatenate(case_of)
        self.row_of = np.concatenate(row_of)
        self.source_slice = np.concatenate(source_slice)
        self.has_tumour = np.concatenate(has_tumour)

    def __len__(self) -> int:
        return len(self.case_of)

    def load(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return images and masks, float32.

        Images are (B, 4 S, Y, X) in [0, 1]: the modalities of the slice, then of its neighbours;
        masks are (B, 1, Y, X) in {0, 1}.
        """
        images, masks = [], []
        for index in indices:
            name, row = self.names[self.case_of[index]], self.row_of[index]
            case_images, case_masks, source_slices = self._open(self._folder, name)
            context = self._context.get(name, ())
            rows = find_context(_canonical(source_slices), np.array([row]), context)[0]
            images.append(case_images[rows].reshape(-1, *self.window))
            masks.append(np.array(case_masks[row]))  # a view would keep the file open
        return (
            torch.from_numpy(np.stack(images)).float().div_(255.0),
            torch.from_numpy(np.stack(masks)).float().unsqueeze(1),
        )


def _canonical(source_slices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers that ascend with z, as the rows do; in BraTS files they descend."""
    descending = source_slices[0] > source_slices[-1]
    return -source_slices if descending else source_slices


_MAX_OPEN_CASES = 40
"""Each has two files open; macOS allows a process 256, and validation has a cache of its own."""


def _open_cached(
    folder: Path, name: str, mmap_mode: Literal["r"] | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    try:
        images = np.load(folder / f"{name}.images.npy", mmap_mode=mmap_mode, allow_pickle=False)
        masks = np.load(folder / f"{name}.masks.npy", mmap_mode=mmap_mode, allow_pickle=False)
        source_slices = np.load(folder / f"{name}.slices.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CaseError(
            f"{folder}: the cache of {name} cannot be read ({error}). "
            "Run `python -m training.prepare` again; it adds what is missing."
        ) from error
    n, window = len(source_slices), images.shape[2:]
    if images.shape != (n, 4, *window) or masks.shape != (n, *window):
        raise CaseError(
            f"{folder}: the cache of {name} is damaged: images {images.shape}, masks "
            f"{masks.shape}, slices {source_slices.shape}. Delete these files and run "
            "`python -m training.prepare` again."
        )
    return images, masks, source_slices


class BatchPlan:
    """Which slices each step sees: a pure function of (seed, step), so a resume needs no state.

    Slices with and without tumour are two pools; each is walked through in a new random order
    per epoch of its own, so that every slice is seen equally often within its pool. A batch has
    slices of both, evenly mixed: the parts in which it may go through the network are alike.
    """

    def __init__(
        self, has_tumour: NDArray[np.bool_], batch_size: int, config: DataConfig, seed: int
    ) -> None:
        self._seed = seed
        everything = np.arange(len(has_tumour))
        tumour, rest = np.flatnonzero(has_tumour), np.flatnonzero(~has_tumour)
        if not config.tumour_fraction or not len(tumour) or not len(rest):
            self._pools = [(everything, batch_size)]
        else:
            n_tumour = round(batch_size * config.tumour_fraction)
            if config.tumour_fraction < 1:  # a small batch, too, has slices of both
                n_tumour = min(max(n_tumour, 1), batch_size - 1)
            self._pools = [(tumour, n_tumour), (rest, batch_size - n_tumour)]
        places = [(np.arange(count) + 0.5) / count for _, count in self._pools]
        self._order = np.argsort(np.concatenate(places), kind="stable")

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the slice numbers (B,) of step ``step`` (from 0)."""
        return self._draw(step)[self._order]

    def donors(self, step: int) -> NDArray[np.int64]:
        """Return, for each of a step's slices, another one of them that can give its tumour.

        It is half a batch further on in the order by pools: slices without tumour are given one.
        """
        chosen = self._draw(step)
        return np.roll(chosen, -(len(chosen) // 2))[self._order]

    def _draw(self, step: int) -> NDArray[np.int64]:
        chosen = [
            pool[self._walk(number, len(pool), step * count, count)]
            for number, (pool, count) in enumerate(self._pools)
        ]
        return np.concatenate(chosen)

    def _walk(self, pool: int, size: int, start: int, count: int) -> NDArray[np.int64]:
        positions = np.arange(start, start + count)
        out = np.empty(count, np.int64)
        for epoch in np.unique(positions // size):
            order = _permute(self._seed, pool, int(epoch), size)
            here = positions // size == epoch
            out[here] = order[positions[here] % size]
        return out


@lru_cache(maxsize=8)  # every step asks, and BraTS has 175,000 slices
def _permute(seed: int, pool: int, epoch: int, size: int) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, pool, epoch]).permutation(size)
    order.flags.writeable = False
    return order


def load_batch(
    cache: SliceCache,
    plan: BatchPlan,
    step: int,
    augmentation: AugmentationConfig | None,
    random: BatchRandom,
) -> tuple[Tensor, Tensor]:
    """Return the share's images and masks of one step, augmented."""
    images, masks = cache.load(random.share.of(plan.indices(step), random.groups))
    if augmentation is not None:
        if augmentation.paste_tumour > 0:
            donors = random.share.of(plan.donors(step), random.groups)
            probability = augmentation.paste_tumour
            images, masks = paste_tumours(images, masks, *cache.load(donors), probability, random)
        images, masks = augment(images, masks, augmentation, random)
    return images, masks
