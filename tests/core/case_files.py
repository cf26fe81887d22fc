"""Writes tiny BraTS cases in every family, for tests."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

BRATS_AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
SHAPE = (6, 5, 4)
NAMES_2017 = {"t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "flair": "_flair", "seg": "_seg"}
NAMES_BIDS = {
    "t1": "_acq-mprage_T1w",
    "t1ce": "_ce-gadolinium_T1w",
    "t2": "_T2w",
    "flair": "_FLAIR",
    "seg": "_seg",
}
NAMES_2023 = {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f", "seg": "-seg"}


def make_images(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> dict[str, np.ndarray]:
    """Make four different random int16 modalities and labels with 0, 1, 2 and 4."""
    rng = np.random.default_rng(seed)
    images = {
        name: rng.integers(1, 1000, shape).astype(np.int16)
        for name in ("t1", "t1ce", "t2", "flair")
    }
    labels = rng.choice([0, 1, 2, 4], shape).astype(np.uint8)
    labels.flat[:4] = [0, 1, 2, 4]
    return {**images, "seg": labels}


def write_nifti(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray = BRATS_AFFINE,
    *,
    sform: int = 1,
    qform: int = 1,
    **fields: Any,
) -> Path:
    """Write a NIfTI, then overwrite raw header fields, also with values that no writer allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    content = bytearray(image.to_bytes())
    if fields:
        patch_header(content, **fields)
    is_gzip = path.name.lower().endswith(".gz")
    path.write_bytes(gzip.compress(content, 1) if is_gzip else bytes(content))
    return path


def patch_header(content: bytearray, **fields: Any) -> None:
    """Set fields of an uncompressed little-endian NIfTI-1 file; `pixdim_3=0` sets one element."""
    header = np.frombuffer(content, nib.nifti1.header_dtype.newbyteorder("<"), 1)
    for name, value in fields.items():
        field, _, index = name.rpartition("_")
        if field in ("pixdim", "dim"):
            header[0][field][int(index)] = value
        else:
            header[0][name] = value


def write_case(
    folder: Path,
    case: str = "BraTS20_Training_001",
    names: dict[str, str] = NAMES_2017,
    suffix: str = ".nii.gz",
    images: dict[str, np.ndarray] | None = None,
    **options: Any,
) -> Path:
    """Write one file per modality, and the labels, into `folder`; return it."""
    for role, image in (images or make_images()).items():
        write_nifti(folder / f"{case}{names[role]}{suffix}", image, **options)
    return folder


def write_decathlon(root: Path, number: int = 1, seed: int = 0) -> Path:
    """Write one Decathlon case below `root`; return the image."""
    images = make_images(seed=seed)
    name = f"BRATS_{number:03d}.nii.gz"
    stack = np.stack([images[m] for m in ("flair", "t1", "t1ce", "t2")], axis=-1)
    write_nifti(root / "labelsTr" / name, images["seg"])
    return write_nifti(root / "imagesTr" / name, stack)


def write_slices(
    folder: Path, numbers: list[int], case: str = "brats_train_001", *, seg: bool = True
) -> dict[int, dict[str, np.ndarray]]:
    """Write 2-D slices in the paper's layout into one folder; return their pixels."""
    written = {}
    for number in numbers:
        images = make_images(SHAPE[:2], seed=number)
        for role, image in images.items():
            if seg or role != "seg":
                write_nifti(folder / f"{case}_{role}_{number:03d}_w.nii.gz", image, np.eye(4))
        written[number] = images
    return written
