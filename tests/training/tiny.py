"""A few tiny cases, and what it takes to train on them within a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import load_file

from training.config import TrainingConfig, find_config, load_config
from training.state import STATE_NAME
from training.train import main

TRAINING = ("BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003")
VALIDATION = ("BraTS20_Training_004",)
SHAPE = (40, 36, 12)  # x, y, z of the files
AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
OVERRIDES = (
    "preprocessing.window=[48, 48]",
    "preprocessing.context_slices=[-2, 2]",  # the cases have 12 slices
    "run.log_every=7",
    "run.checkpoint_every=7",
    "run.validate_every=20",
    "run.validation_slices=4",
)
DEBUG_OVERRIDES = (*OVERRIDES, "model.prior_encoder.in_channels=12")


def tiny_config(*overrides: str) -> TrainingConfig:
    """Return ``debug.toml`` for slices of 48x48."""
    return load_config(find_config("debug"), [*DEBUG_OVERRIDES, *overrides])


def write_tiny_case(folder: Path, name: str, seed: int, *, labels: bool = True) -> Path:
    """Write an ellipsoidal brain with a tumour that T2 and FLAIR show bright."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2 < 1
    cx, cy = rng.uniform(-0.35, 0.35, 2)
    tumour = brain & (((x - cx) / 0.3) ** 2 + ((y - cy) / 0.3) ** 2 + (z / 0.5) ** 2 < 1)
    folder = folder / name
    folder.mkdir(parents=True)
    for modality, contrast in {"t1": -20, "t1ce": 10, "t2": 90, "flair": 110}.items():
        image = rng.normal(100, 10, SHAPE) + contrast * tumour
        write(folder / f"{name}_{modality}.nii.gz", np.where(brain, image, 0).astype(np.float32))
    if labels:
        write(folder / f"{name}_seg.nii.gz", (2 * tumour).astype(np.uint8))
    return folder


def write(path: Path, array: np.ndarray) -> None:
    """Write a NIfTI on the grid of BraTS."""
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@dataclass(frozen=True)
class TinyData:
    """Where the tiny cases, their cache and their split are."""

    cases: Path
    cache: Path
    split: Path

    def arguments(self, run: Path, *extra: str) -> list[str]:
        """Return the command line of a run of ``debug.toml``."""
        places = ["--data", self.cache, "--split", self.split, "--run", run]
        settings = [part for override in DEBUG_OVERRIDES for part in ("--set", override)]
        return ["debug", *map(str, places), *settings, "--threads", "1", *extra]

    def train(self, run: Path, *extra: str) -> int:
        """Train in this process; return the exit code."""
        return main(self.arguments(run, *extra))


def load_state_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Return everything in a run's state, the process's own random state aside."""
    tensors = load_file(run / STATE_NAME)
    return {name: value for name, value in tensors.items() if not name.startswith("rng.")}


def assert_same_state(one: Path, other: Path) -> None:
    """Weights, averages and moments of two runs are equal bit by bit."""
    first, second = load_state_tensors(one), load_state_tensors(other)
    assert first.keys() == second.keys()
    assert {name.split(".")[0] for name in first} == {"network", "ema", "optimiser"}
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
