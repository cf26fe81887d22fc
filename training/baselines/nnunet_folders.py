"""Where nnU-Net keeps a network's folds, where they predict to, and what of it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DATASET: Final = "Dataset500_WholeTumour"
PLANS: Final = "nnUNetPlans"
FINAL_NAME: Final = "checkpoint_final.pth"
"""In the folder of a fold that was trained to its end."""


@dataclass(frozen=True)
class NnunetFolders:
    """The folders of one network, which is of one trainer and configuration."""

    work: Path
    """For nnU-Net's raw, preprocessed and results."""
    trainer: str
    configuration: str
    predictions: Path

    @property
    def network(self) -> str:
        """The name by which nnU-Net keeps it."""
        return f"{self.trainer}__{PLANS}__{self.configuration}"

    @property
    def images(self) -> Path:
        """Of the cases that are to be predicted."""
        return self.work / "raw" / DATASET / "imagesTs"

    def names(self) -> list[str]:
        """Return the names of the cases that are to be predicted."""
        ending = "_0000.nii.gz"
        return sorted(p.name.removesuffix(ending) for p in self.images.glob(f"[!.]*{ending}"))

    def trained(self, fold: str) -> Path:
        """Return the folder of a trained fold."""
        return self.work / "results" / DATASET / self.network / f"fold_{fold}"

    def is_trained(self, fold: str) -> bool:
        """Whether a fold was trained to its end."""
        return (self.trained(fold) / FINAL_NAME).exists()

    def predicted(self, fold: str) -> Path:
        """Return the folder of a fold's predictions."""
        return self.predictions / f"fold_{fold}"

    def is_predicted(self, fold: str) -> bool:
        """Whether a trained fold has predicted every case."""
        names = self.names()
        return bool(names) and all(self._is_complete(fold, name) for name in names)

    def remove_incomplete(self, fold: str) -> None:
        """Remove what nnU-Net would take for predictions, since it only asks if they exist."""
        for name in self.names():
            if not self._is_complete(fold, name):
                for path in self._files(fold, name):
                    path.unlink(missing_ok=True)

    def _is_complete(self, fold: str, name: str) -> bool:
        """Whether a case was predicted to the end, as it is now, and not by an earlier training."""
        causes = [self.trained(fold) / FINAL_NAME, *self.images.glob(f"{name}_[0-9]*.nii.gz")]
        since = max(path.stat().st_mtime_ns for path in causes)
        files = self._files(fold, name)
        return all(path.exists() and path.stat().st_mtime_ns >= since for path in files)

    def _files(self, fold: str, name: str) -> list[Path]:
        # In the order in which nnU-Net writes them, so with the second the first is complete.
        return [self.predicted(fold) / f"{name}{ending}" for ending in (".npz", ".nii.gz")]
