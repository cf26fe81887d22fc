"""Make the sample case: a BraTS-like brain with a glioblastoma, from the MNI152 template.

    python -m venv /tmp/phantom && /tmp/phantom/bin/pip install nilearn scikit-image
    /tmp/phantom/bin/python scripts/make_phantom.py [--seed 4] [--out FOLDER]

Writes `Phantom_00001/Phantom_00001_{t1,t1ce,t2,flair,seg}.nii.gz` below FOLDER, which is the
package's own `sample` folder unless told otherwise. The seed is all there is to choose: the same
seed gives the same case. nilearn is needed only here, for the template that its wheel carries.
"""

from __future__ import annotations

import argparse
import gzip
import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from phantom.anatomy import Push, load_template, make_anatomy
from phantom.contrast import iter_modalities
from phantom.fields import AFFINE, SHAPE, WINDOW
from phantom.tumour import TumourShape, make_tumour

SEED = 4
NAME = "Phantom_00001"
OUT = Path(__file__).resolve().parents[1] / "src" / "napari_diffseg" / "sample"
LEVELS, STEP = 80, 3
"""Grey levels (for the size of the files), and the distance between two of them."""

log = logging.getLogger("make_phantom")


def make_case(template_folder: Path, seed: int = SEED) -> dict[str, NDArray[np.uint8]]:
    """The case as {t1, t1ce, t2, flair, seg}, each uint8 (240, 240, 155) on the BraTS grid."""
    shape = TumourShape()
    for_anatomy, for_tumour, for_images = np.random.default_rng(seed).spawn(3)
    template = load_template(template_folder)
    anatomy = make_anatomy(template, Push(shape.centre), for_anatomy)
    tumour = make_tumour(anatomy, shape, for_tumour)
    case = {}
    for modality, image in iter_modalities(anatomy, tumour, for_images):
        brightest = np.percentile(image[anatomy.brain], 99.9)
        # At least one level within the brain: 0 means "no brain" to whoever reads the file.
        level = np.clip(np.round(image / brightest * LEVELS), 1, LEVELS) * anatomy.brain
        case[modality] = _on_full_grid(level * STEP)
    case["seg"] = _on_full_grid(tumour.labels)
    for label in (1, 2, 4):
        log.info("label %d: %.1f mL", label, np.count_nonzero(case["seg"] == label) / 1000)
    return case


def _on_full_grid(window: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Put an array of the computed window back on the BraTS grid, zero around it."""
    full = np.zeros(SHAPE, dtype=np.uint8)
    full[WINDOW] = window
    return full


def save_case(case: dict[str, NDArray[np.uint8]], folder: Path) -> None:
    """Write the case below `folder` in the layout and with the names of BraTS 2021."""
    import nibabel as nib

    target = folder / NAME
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, array in case.items():
        image = nib.Nifti1Image(array, AFFINE)
        image.header.set_xyzt_units("mm")
        # Without a time in it, the same case is the same file.
        packed = gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)
        (target / f"{NAME}_{name}.nii.gz").write_bytes(packed)
        total += len(packed)
    log.info("%s: %.2f MB", target, total / 1e6)


def template_folder() -> Path:
    """The data folder of the installed nilearn (found without importing it, which is slow)."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("nilearn is needed for its MNI152 template: pip install nilearn")
    return Path(spec.origin).parent / "datasets" / "data"


def main() -> None:
    """Parse the command line and write the case."""
    parser = argparse.ArgumentParser(description="Make the BraTS-like sample case.")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="default: the package's sample folder"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    save_case(make_case(template_folder(), arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
