"""The sample case is what it claims to be: a small, BraTS-like case with a visible glioblastoma."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from napari_diffseg._layers import make_case_layers
from napari_diffseg._sample_data import load_phantom, open_phantom, phantom_folder
from napari_diffseg.core.brats import MODALITIES, load_case
from napari_diffseg.core.volume import to_source_grid

AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
MIDLINE = 118  # voxels below it are the patient's right
GREY_STEP = 3


def load(folder: Path, name: str) -> nib.Nifti1Image:
    return nib.load(folder / f"{folder.name}_{name}.nii.gz")


@pytest.fixture(scope="module")
def images() -> dict[str, NDArray[np.uint8]]:
    return {name: np.asarray(load(phantom_folder(), name).dataobj) for name in (*MODALITIES, "seg")}


@pytest.fixture(scope="module")
def brain(images: dict[str, NDArray[np.uint8]]) -> NDArray[np.bool_]:
    return images["t1"] > 0


@pytest.fixture(scope="module")
def normalised(
    images: dict[str, NDArray[np.uint8]], brain: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Map the 1st to 99th percentile of the brain to 0 to 1, as the model sees the case."""
    scaled = {}
    for name in MODALITIES:
        low, high = np.percentile(images[name][brain], (1, 99))
        scaled[name] = (images[name] - low) / (high - low)
    return scaled


@pytest.mark.parametrize("name", [*MODALITIES, "seg"])
def test_files_are_on_the_brats_grid(name: str) -> None:
    image = load(phantom_folder(), name)
    assert image.shape == (240, 240, 155)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.issubdtype(image.get_data_dtype(), np.integer)


def test_modalities_are_aligned_and_skull_stripped(
    images: dict[str, NDArray[np.uint8]], brain: NDArray[np.bool_]
) -> None:
    for name in MODALITIES:
        np.testing.assert_array_equal(images[name] > 0, brain, err_msg=name)
    assert 1.1e6 < np.count_nonzero(brain) < 1.8e6  # 1.15 to 1.75 litres in BraTS
    assert ndimage.label(brain)[1] == 1
    for name in MODALITIES[1:]:  # four contrasts, not four copies
        assert np.corrcoef(images["t1"][brain], images[name][brain])[0, 1] < 0.9


def test_brain_lies_in_the_window_of_the_model(brain: NDArray[np.bool_]) -> None:
    inside = np.argwhere(brain)
    assert np.all(inside.min(0)[:2] >= (40, 32))
    assert np.all(inside.max(0)[:2] < (200, 224))


def test_brain_lies_where_real_brains_lie(brats_data: Path, brain: NDArray[np.bool_]) -> None:
    case = load_case(brats_data / "original" / "BraTS2021_00006")
    real = to_source_grid(case.prior_image.any(0), case.geometry)
    both = np.count_nonzero(real & brain)
    assert 2 * both / (np.count_nonzero(real) + np.count_nonzero(brain)) > 0.85


def test_truth_is_one_glioblastoma_in_the_right_hemisphere(
    images: dict[str, NDArray[np.uint8]], brain: NDArray[np.bool_]
) -> None:
    labels = images["seg"]
    assert set(np.unique(labels)) == {0, NECROSIS, OEDEMA, ENHANCING}
    whole = labels > 0
    assert np.all(brain[whole])
    assert ndimage.label(whole)[1] == 1
    assert 60 <= np.count_nonzero(whole) / 1000 <= 100  # mL
    for label in (NECROSIS, OEDEMA, ENHANCING):
        assert np.count_nonzero(labels == label) > 5000
    assert np.mean(np.argwhere(whole)[:, 0] < MIDLINE) > 0.95
    # The rim encloses the necrosis: what touches a necrotic voxel is hardly ever oedema.
    shell = ndimage.binary_dilation(labels == NECROSIS) & (labels != NECROSIS)
    assert np.mean(labels[shell] == ENHANCING) > 0.95


def test_healthy_tissues_have_the_contrast_of_each_modality(
    images: dict[str, NDArray[np.uint8]],
    brain: NDArray[np.bool_],
    normalised: dict[str, NDArray[np.float64]],
) -> None:
    inner = ndimage.binary_erosion(brain, iterations=4)
    inner &= ~ndimage.binary_dilation(images["seg"] > 0, iterations=6)
    t1 = normalised["t1"]
    tissues = {
        "white": inner & (t1 > 0.75) & (t1 < 1),
        "grey": inner & (t1 > 0.45) & (t1 < 0.6),
        "csf": inner & (t1 < 0.15),
    }
    mean = {
        tissue: {name: normalised[name][where].mean() for name in MODALITIES}
        for tissue, where in tissues.items()
    }
    assert mean["csf"]["t2"] > mean["grey"]["t2"] + 0.3
    assert mean["grey"]["t2"] > mean["white"]["t2"] + 0.03
    assert mean["grey"]["flair"] > mean["white"]["flair"] + 0.03
    assert mean["csf"]["flair"] < mean["white"]["flair"] - 0.1
    assert mean["csf"]["t1ce"] < mean["grey"]["t1ce"] < mean["white"]["t1ce"]


def test_tumour_has_the_contrast_of_each_modality(
    images: dict[str, NDArray[np.uint8]], normalised: dict[str, NDArray[np.float64]]
) -> None:
    labels = images["seg"]
    mean = {
        label: {name: normalised[name][labels == label].mean() for name in MODALITIES}
        for label in (NECROSIS, OEDEMA, ENHANCING)
    }
    # The same place on the other side is what the tissue would be without the tumour.
    other_side = (labels == OEDEMA)[::-1]
    other_side = np.roll(other_side, 2 * MIDLINE - 239, axis=0) & (labels == 0)
    healthy = {name: np.median(normalised[name][other_side]) for name in MODALITIES}
    assert mean[OEDEMA]["flair"] > healthy["flair"] + 0.25
    assert mean[OEDEMA]["t2"] > healthy["t2"] + 0.1
    assert mean[OEDEMA]["t1"] < healthy["t1"]
    assert mean[ENHANCING]["t1ce"] > mean[NECROSIS]["t1ce"] + 0.3
    assert mean[ENHANCING]["t1ce"] > mean[OEDEMA]["t1ce"] + 0.2
    assert mean[NECROSIS]["t1"] < mean[OEDEMA]["t1"]
    assert mean[NECROSIS]["t2"] > mean[OEDEMA]["t2"]


def test_it_is_an_image_and_not_a_drawing(
    images: dict[str, NDArray[np.uint8]], normalised: dict[str, NDArray[np.float64]]
) -> None:
    """There is noise in it, and no threshold of FLAIR alone finds the tumour."""
    deep = ndimage.binary_erosion(images["seg"] == NECROSIS, iterations=2)
    for name in MODALITIES:
        assert len(np.unique(images[name])) > 60
        rough = normalised[name] - ndimage.uniform_filter(normalised[name], 3)
        assert 0.005 < rough[deep].std() < 0.1
    truth = images["seg"] > 0
    dice = [
        2 * np.count_nonzero(bright & truth) / (np.count_nonzero(bright) + truth.sum())
        for bright in (normalised["flair"] > level for level in np.arange(0.4, 1, 0.05))
    ]
    assert 0.6 < max(dice) < 0.98


def test_it_loads_as_a_case_and_opens_as_its_folder_does() -> None:
    case = load_phantom()
    assert case.name == phantom_folder().name
    assert case.prior_image.shape == (4, 155, 240, 240)
    assert case.wt_truth is not None
    assert 60_000 <= np.count_nonzero(case.wt_truth) <= 100_000
    opened, expected = open_phantom(), make_case_layers(load_case(phantom_folder()))
    assert len(opened) == len(MODALITIES) + 1
    for (data, options, kind), (wanted, wanted_options, wanted_kind) in zip(
        opened, expected, strict=True
    ):
        assert (kind, options["name"]) == (wanted_kind, wanted_options["name"])
        np.testing.assert_array_equal(data, wanted)


def test_it_is_small_and_carries_its_licence() -> None:
    folder = phantom_folder().parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    assert len([path for path in files if path.name.endswith(".nii.gz")]) == len(MODALITIES) + 1
    notice = " ".join((folder / "LICENSE-MNI152.txt").read_text(encoding="utf-8").split())
    assert "Louis Collins, McConnell Brain Imaging Centre" in notice
    assert "provided that the above copyright notice appear in all copies" in notice
    assert "LICENSE-MNI152.txt" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None,
    reason="nilearn, whose wheel has the template, is not installed: pip install nilearn",
)
def test_the_script_makes_this_very_case(repository: Path, tmp_path: Path) -> None:
    """Takes about half a minute, which is why nilearn is not among the tools of `make setup`."""
    script = repository / "scripts" / "make_phantom.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True)
    made = tmp_path / phantom_folder().name
    for name in (*MODALITIES, "seg"):
        shipped = np.asarray(load(phantom_folder(), name).dataobj).astype(int)
        difference = np.abs(np.asarray(load(made, name).dataobj).astype(int) - shipped)
        # Another version of a library may round the last digit to another side.
        allowed = 0 if name == "seg" else GREY_STEP
        assert np.mean(difference[shipped > 0] <= allowed) > 0.999
