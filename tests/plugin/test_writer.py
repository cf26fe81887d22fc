"""Layers of ours are saved by napari's own menu on the grid of their scan."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Image, Layer

from napari_diffseg._layers import make_case_layers, make_edited_layer, make_result_layers
from napari_diffseg._writer import write_layer
from napari_diffseg.core.brats import Case
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.volume import to_source_grid

pytestmark = pytest.mark.usefixtures("plugins")


def read(path: Path, case: Case) -> nib.Nifti1Image:
    image = nib.load(path)
    np.testing.assert_array_equal(image.affine, case.geometry.source_affine)
    return image


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_and_masks_lie_on_the_source_grid(case: Case, tmp_path: Path, suffix: str) -> None:
    for number, data in enumerate(make_case_layers(case)):
        layer = Layer.create(*data)
        path = tmp_path / f"layer{number}{suffix}"
        assert layer.save(str(path), plugin="napari-diffseg") == [str(path)]
        stored = np.asanyarray(read(path, case).dataobj)
        np.testing.assert_array_equal(stored, to_source_grid(layer.data, case.geometry))


def test_samples_are_probabilities_in_4d(case: Case, tmp_path: Path) -> None:
    shape = case.geometry.shape
    samples = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    blank = np.zeros(shape, np.float32)
    layers = make_result_layers(case, "r", samples, blank, blank, blank, blank.astype(np.uint8), {})
    Layer.create(*layers["samples"]).save(str(tmp_path / "s.nii.gz"), plugin="napari-diffseg")
    image = read(tmp_path / "s.nii.gz", case)
    expected = to_source_grid(samples, case.geometry) / 255
    np.testing.assert_allclose(image.get_fdata(), expected, atol=1e-6)


def test_every_label_of_an_edited_mask_is_tumour(case: Case, tmp_path: Path) -> None:
    layer = Layer.create(*make_edited_layer(case, "r", np.zeros(case.geometry.shape, np.uint8)))
    layer.data[5, 10:12, 10:12] = 7
    layer.save(str(tmp_path / "e.nii.gz"), plugin="napari-diffseg")
    image = read(tmp_path / "e.nii.gz", case)
    assert image.get_data_dtype() == np.uint8
    assert np.asanyarray(image.dataobj).sum() == 4


def test_a_layer_of_somebody_else_is_refused(tmp_path: Path) -> None:
    layer = Image(np.zeros((3, 4, 5)), name="Mine")
    data, meta, _ = layer.as_layer_data_tuple()
    with pytest.raises(DiffsegError, match="Mine was not made by napari-diffseg"):
        write_layer(str(tmp_path / "a.nii.gz"), data, meta)
    assert not (tmp_path / "a.nii.gz").exists()


def test_the_files_of_the_case_are_never_overwritten(case: Case) -> None:
    data, meta, _ = make_case_layers(case)[0]
    with pytest.raises(DiffsegError, match="is a file of the case itself"):
        write_layer(str(case.files.modalities["t1"]), data, meta)
