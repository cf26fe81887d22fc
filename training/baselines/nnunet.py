"""nnU-Net v2 beside the others: its softmax as members.

The package ``nnunetv2`` itself is optional; :mod:`training.nnunet` runs its commands. Every fold
that predicted is one member. Their mean probability is the ensemble (nnU-Net's own averages logits,
which differs a little where folds disagree).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import Case
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.geometry import Geometry, to_canonical, to_source_grid
from napari_diffseg.core.levels import encode_probability
from napari_diffseg.core.preprocessing import PreparedCase, PreprocessingConfig
from training.baselines.nnunet_record import read_effort, read_folds

ZRange = tuple[int, int]


def read_probability(path: Path, geometry: Geometry) -> NDArray[np.float32]:
    """Return whole tumour's probability (Z, Y, X) of a ``.npz`` of ``--save_probabilities``.

    Raises
    ------
    CaseError
        The file is missing, damaged, or not of this case.
    """
    try:
        # NumPy leaves a damaged file open that it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            softmax = arrays["probabilities"]
    except FileNotFoundError as error:
        raise CaseError(
            f"{path} is missing. Predict all cases with `python -m training.nnunet predict`; it "
            "goes on when it was interrupted."
        ) from error
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise CaseError(
            f"{path} is not a prediction of nnU-Net, or was cut off ({error!r}). Delete it and "
            "predict again, with --save_probabilities."
        ) from error
    # (classes, z, y, x) of the file, as SimpleITK has it: the file's own axes in reverse.
    expected = to_source_grid(np.empty(geometry.shape, bool), geometry).shape[::-1]
    if softmax.shape != (2, *expected):
        raise CaseError(f"{path}: {softmax.shape} is not (2, {', '.join(map(str, expected))}).")
    return np.asarray(to_canonical(softmax[1].T.astype(np.float32), geometry), np.float32)


@dataclass(frozen=True)
class NnunetSegmenter:
    """Predictions in a folder: ``fold_0/CASE.npz`` ..., or ``CASE.npz`` for a single one."""

    folder: Path

    @property
    def system(self) -> str:
        """``nnunet``."""
        return "nnunet"

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """Used for the brain alone: nnU-Net has its own."""
        return PreprocessingConfig()

    @cached_property
    def folds(self) -> tuple[Path, ...]:
        """The folders with predictions: those on record, or else all that are there.

        Raises
        ------
        CaseError
            There is no prediction, or none of a fold that is on record.
        """
        if (recorded := read_folds(self.folder)) is not None:
            found = tuple(self.folder / f"fold_{name}" for name in recorded)
            if missing := [fold.name for fold in found if not any(fold.glob("*.npz"))]:
                raise CaseError(
                    f"{self.folder} is to hold predictions of {', '.join(missing)}, but does not "
                    "yet. Run the command `python -m training.nnunet predict` again."
                )
            return found
        found = tuple(sorted(p for p in self.folder.glob("fold_*") if any(p.glob("*.npz"))))
        if not found and any(self.folder.glob("*.npz")):
            found = (self.folder,)
        if not found:
            raise CaseError(
                f"{self.folder} holds no prediction of nnU-Net: neither fold_0/CASE.npz nor "
                "CASE.npz. Run `python -m training.nnunet predict`."
            )
        return found

    @property
    def key(self) -> dict[str, Any]:
        """All predictions by size and time: reading hundreds of megabytes would take too long."""
        lines = [
            f"{path.relative_to(self.folder)} {path.stat().st_size} {path.stat().st_mtime_ns}"
            for fold in self.folds
            for path in sorted(fold.glob("*.npz"))
        ]
        return {"predictions": hashlib.sha256("\n".join(lines).encode()).hexdigest()}

    @property
    def settings(self) -> dict[str, Any]:
        """Folds, and the effort if it is on record."""
        values: dict[str, Any] = {
            "model": "nnU-Net v2",
            "model_sha256": "",
            "samples": len(self.folds),
            "sampler": "folds",
            "steps": 1,
            "seed": "",
        }
        return values | read_effort(self.folder)

    @property
    def trained_on(self) -> frozenset[str]:
        """Not on record here."""
        return frozenset()

    def segment(
        self,
        case: Case,
        prepared: PreparedCase,
        z_range: ZRange | None,
        on_event: Callable[..., None] | None = None,  # noqa: ARG002 - nothing is computed here
    ) -> Ensemble:
        """Read the members; as with all systems, there is no tumour outside of the brain."""
        ensemble = Ensemble(len(self.folds), case.geometry.shape)
        for member, fold in enumerate(self.folds):
            probability = read_probability(fold / f"{case.name}.npz", case.geometry)
            levels = encode_probability(probability)
            levels[~prepared.brain] = 0
            for z in range(*(z_range or (0, len(levels)))):
                ensemble.add(member, z, levels[z])
        return ensemble
