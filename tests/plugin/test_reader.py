"""Opening cases as napari does: folder, file, several files, and what is none of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import npe2
import numpy as np
import pytest
from napari.components import ViewerModel

from napari_diffseg._layers import find_cases, find_layers
from napari_diffseg._reader import get_reader, read_case
from napari_diffseg.core.errors import CaseError
from tests.core.case_files import write_decathlon, write_nifti, write_slices
from tests.plugin.conftest import Desk, write_synthetic

ROLES = ["image", "image", "image", "image", "truth"]


def read(path: Any) -> list[Any]:
    """Read as napari does: ask for a reader, then call it."""
    reader = get_reader(path)
    assert reader is not None
    return reader(path)


def roles(layers: list[Any]) -> list[str]:
    return [parameters["metadata"]["diffseg"]["role"] for _, parameters, _ in layers]


def test_folder_file_and_files_give_the_same_case(case_folder: Path) -> None:
    files = sorted(str(path) for path in case_folder.iterdir())
    for path in (case_folder, str(case_folder), files[0], files, files[:2]):
        layers = read(path)
        assert roles(layers) == ROLES
        assert [parameters["name"] for _, parameters, _ in layers] == [
            "T1 · Case_001",
            "T1ce · Case_001",
            "T2 · Case_001",
            "FLAIR · Case_001",
            "Ground truth · Case_001",
        ]


def test_decathlon_and_slices_are_read(tmp_path: Path) -> None:
    assert roles(read(write_decathlon(tmp_path / "msd"))) == ROLES
    write_slices(tmp_path / "slices", [80, 81])
    layers = read(tmp_path / "slices")
    assert roles(layers) == ROLES
    assert layers[0][0].shape[0] == 2


def test_only_flair_and_the_truth_are_visible_at_first(case_folder: Path) -> None:
    visible = [parameters.get("visible", True) for _, parameters, _ in read(case_folder)]
    assert visible == [False, False, False, True, True]


@pytest.mark.parametrize("name", ["scan.nii.gz", "anatomy.nii", "photo.png"])
def test_other_files_are_left_to_others(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    assert get_reader(str(path)) is None
    assert get_reader(str(tmp_path)) is None


def test_a_missing_modality_is_an_error_that_names_it(case_folder: Path) -> None:
    (case_folder / "Case_001_t1ce.nii.gz").unlink()
    with pytest.raises(CaseError, match="t1ce is missing"):
        read(case_folder)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_napari_offers_the_reader_for(
    plugins: npe2.PluginManager, tmp_path: Path, suffix: str
) -> None:
    path = write_nifti(tmp_path / f"Case_t1{suffix}", np.zeros((2, 2, 2), np.uint8))
    readers = plugins.iter_compatible_readers([str(path)])
    assert "napari-diffseg" in {reader.plugin_name for reader in readers}


def test_napari_offers_the_reader_for_folders(
    plugins: npe2.PluginManager, case_folder: Path
) -> None:
    readers = plugins.iter_compatible_readers([str(case_folder)])
    assert "napari-diffseg" in {reader.plugin_name for reader in readers}


def test_files_that_are_dropped_together_open_their_case_once(
    desk: Desk, case_folder: Path
) -> None:
    files = sorted(str(path) for path in case_folder.iterdir())
    desk.viewer.open(files, plugin="napari-diffseg")  # one by one, as for a drop
    assert desk.roles == ROLES
    desk.viewer.layers.remove(desk.viewer.layers[0])
    desk.viewer.open(files[0], plugin="napari-diffseg")  # no longer complete: read again
    assert len(find_cases(desk.viewer.layers)) == 2


def test_two_cases_are_two_cases(case_folder: Path, tmp_path: Path) -> None:
    viewer = ViewerModel()
    other = write_synthetic(tmp_path, "Case_002", seed=1)
    for folder in (case_folder, other):
        for data, parameters, kind in read_case(folder):
            getattr(viewer, f"add_{kind}")(data, **parameters)
    first, second = find_cases(viewer.layers)
    assert (first.name, second.name) == ("Case_001", "Case_002")
    assert len(find_layers(viewer.layers, case=second)) == 5
    assert [layer.name for layer in find_layers(viewer.layers, "truth", first)] == [
        "Ground truth · Case_001"
    ]
