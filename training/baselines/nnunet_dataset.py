"""Cases as nnU-Net's raw dataset, each once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import CaseFiles, load_case
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.geometry import Geometry, to_source_grid
from training.baselines.nnunet_folders import DATASET
from training.cache_index import source_paths
from training.files import write_text
from training.pools import LOST_PROCESS, open_pool

CHANNELS: Final = ("T1", "T1CE", "T2", "FLAIR")
_DESCRIPTION_NAME: Final = "dataset.json"
_ENDING: Final = ".nii.gz"


@dataclass(frozen=True)
class _Conversion:
    """One case, for training or for prediction only."""

    files: CaseFiles
    for_training: bool
    dataset: Path

    @property
    def images(self) -> list[Path]:
        folder = self.dataset / ("imagesTr" if self.for_training else "imagesTs")
        names = [f"{self.files.name}_{number:04d}" for number in range(len(CHANNELS))]
        return [folder / f"{name}{_ENDING}" for name in names]

    @property
    def label(self) -> Path | None:
        name = f"{self.files.name}{_ENDING}"
        return self.dataset / "labelsTr" / name if self.for_training else None

    @property
    def targets(self) -> list[Path]:
        return [*self.images, *([self.label] if self.label is not None else [])]

    def is_done(self) -> bool:
        """Whether every file is there, and none of the case's own files is younger."""
        try:
            oldest = min(path.stat().st_mtime_ns for path in self.targets)
            return oldest >= max(path.stat().st_mtime_ns for path in source_paths(self.files))
        except OSError:
            return False

    def run(self) -> None:
        case = load_case(self.files)
        if self.label is not None:
            if case.wt_truth is None:
                raise CaseError(f"{case.name} has no expert labels, so it cannot be trained on.")
            _write(case.wt_truth.astype(np.uint8), case.geometry, self.label)
        for volume, path in zip(case.prior_image, self.images, strict=True):
            _write(volume, case.geometry, path)


def write_dataset(
    training: Sequence[CaseFiles],
    test: Sequence[CaseFiles],
    folder: Path,
    workers: int = 1,
    on_case: Callable[[], object] = lambda: None,
) -> Path:
    """Write cases as nnU-Net's raw dataset, as far as that is still to be done; return its folder.

    Images are on the grids of the cases' own files, labels are whole tumour (1) or not (0).

    Parameters
    ----------
    training, test
        Cases for nnU-Net's own folds, and those that it only predicts.
    folder
        nnU-Net's ``nnUNet_raw``.
    workers
        Processes; 1: everything in this one.
    on_case
        Called after each case.

    Raises
    ------
    DiffsegError
        A case cannot be read, one for training has no labels, or there are cases of another split.
    """
    dataset = folder / DATASET
    everything = [_Conversion(files, True, dataset) for files in training]
    everything += [_Conversion(files, False, dataset) for files in test]
    _refuse_others(dataset, everything)
    todo = [conversion for conversion in everything if not conversion.is_done()]
    if todo:  # the description is what says that the dataset is complete
        (dataset / _DESCRIPTION_NAME).unlink(missing_ok=True)
    for _ in range(len(everything) - len(todo)):
        on_case()
    _run_all(todo, workers, on_case)
    description = {
        "channel_names": {str(i): name for i, name in enumerate(CHANNELS)},
        "labels": {"background": 0, "whole_tumour": 1},
        "numTraining": len(training),
        "file_ending": _ENDING,
    }
    write_text(dataset / _DESCRIPTION_NAME, json.dumps(description, indent=1) + "\n")
    return dataset


def _refuse_others(dataset: Path, conversions: Sequence[_Conversion]) -> None:
    """Make sure that nnU-Net, which takes all files that it finds, finds no others."""
    wanted = {path for conversion in conversions for path in conversion.targets}
    others = {*dataset.glob(f"*T[rs]/[!.]*{_ENDING}")} - wanted
    if others:
        raise CaseError(
            f"{dataset} has {len(others)} files that are not of this split, the first is "
            f"{min(others).relative_to(dataset)}. Choose another --work."
        )


def _run_all(todo: Sequence[_Conversion], workers: int, on_case: Callable[[], object]) -> None:
    if workers == 1 or len(todo) < 2:
        for conversion in todo:
            conversion.run()
            on_case()
        return
    with open_pool(workers) as pool:
        for future in as_completed([pool.submit(conversion.run) for conversion in todo]):
            try:
                future.result()
            except BrokenProcessPool as error:
                raise CaseError(f"A case was not converted: {LOST_PROCESS}") from error
            on_case()


def _write(array: NDArray[Any], geometry: Geometry, path: Path) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    # nibabel chooses the format by the name's end, so the temporary file keeps it.
    temporary = path.with_name(f".part_{path.name}")
    nib.save(nib.Nifti1Image(to_source_grid(array, geometry), geometry.source_affine), temporary)
    os.replace(temporary, path)
