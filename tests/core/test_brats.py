"""Cases of every family open from a folder, a file or several; what is wrong with one is said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core.brats import (
    MODALITIES,
    Case,
    CaseFiles,
    discover_case,
    discover_cases,
    is_brats_path,
    load_case,
)
from napari_diffseg.core.case_discovery import folder_names
from napari_diffseg.core.describe import describe_case
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.inputs import expand_inputs
from napari_diffseg.core.preprocessing import PreprocessingConfig, prepare_case
from napari_diffseg.core.scan_notes import find_scan_notes
from napari_diffseg.core.volume import save_on_source_grid, to_source_grid
from tests.core.case_files import (
    BRATS_AFFINE,
    NAMES_2017,
    NAMES_2023,
    NAMES_BIDS,
    SHAPE,
    make_images,
    write_case,
    write_decathlon,
    write_nifti,
    write_slices,
)


def assert_holds(case: Case, images: dict[str, np.ndarray]) -> None:
    """Check every voxel of a case against the arrays that were written, in file order."""
    for channel, modality in enumerate(MODALITIES):
        on_grid = to_source_grid(case.prior_image[channel], case.geometry)
        np.testing.assert_array_equal(on_grid, images[modality].reshape(on_grid.shape))
    assert case.labels is not None
    assert case.wt_truth is not None
    on_grid = to_source_grid(case.labels, case.geometry)
    np.testing.assert_array_equal(on_grid, images["seg"].reshape(on_grid.shape))
    tumour = (1, 2, 3) if case.files.family == "brats2023" else (1, 2, 3, 4)
    np.testing.assert_array_equal(case.wt_truth, np.isin(case.labels, tumour))
    assert case.prior_image.dtype == np.float32


# --- families -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("names", "family"), [(NAMES_2017, "brats2017"), (NAMES_2023, "brats2023")]
)
@pytest.mark.parametrize("letters", [str, str.upper, str.lower])
def test_a_folder_of_either_family_loads(
    tmp_path: Path,
    names: dict[str, str],
    family: str,
    suffix: str,
    letters: Callable[[str], str],
) -> None:
    write_case(
        tmp_path / "c",
        letters("BraTS-GLI-7"),
        {role: letters(name) for role, name in names.items()},
        letters(suffix),
    )

    case = load_case(tmp_path / "c")

    assert (case.name, case.files.family) == (letters("BraTS-GLI-7"), family)
    assert_holds(case, make_images())


@pytest.mark.parametrize("role", [*MODALITIES, "seg"])
@pytest.mark.parametrize("names", [NAMES_2017, NAMES_2023])
def test_any_one_file_brings_its_siblings(tmp_path: Path, names: dict[str, str], role: str) -> None:
    write_case(tmp_path, "BraTS_1", names)
    write_case(tmp_path, "BraTS_10", names, images=make_images(seed=1))

    case = load_case(tmp_path / f"BraTS_1{names[role]}.nii.gz")

    assert case.name == "BraTS_1"
    assert_holds(case, make_images())


def test_several_files_make_one_case_and_strings_are_paths_too(tmp_path: Path) -> None:
    write_case(tmp_path)

    files = discover_case([str(path) for path in sorted(tmp_path.iterdir())])

    assert list(files.modalities) == list(MODALITIES)
    assert_holds(load_case(str(tmp_path)), make_images())


def test_files_named_by_modality_only_take_the_name_of_their_folder(tmp_path: Path) -> None:
    write_case(tmp_path / "slice0001", "", {r: n.strip("_") for r, n in NAMES_2017.items()})

    assert load_case(tmp_path / "slice0001" / "flair.nii.gz").name == "slice0001"


def test_relative_paths_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "p7", "", {r: n.strip("_") for r, n in NAMES_2017.items()})
    write_decathlon(tmp_path / "task")

    monkeypatch.chdir(tmp_path / "p7")
    assert discover_case(Path()).name == "p7"
    assert discover_case("t1.nii.gz").name == "p7"
    monkeypatch.chdir(tmp_path / "task" / "imagesTr")
    assert discover_case("BRATS_001.nii.gz").label is not None


def test_a_missing_label_is_no_error(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "BraTS20_Training_001_seg.nii.gz").unlink()

    case = load_case(tmp_path)

    assert case.wt_truth is None
    assert case.labels is None
    assert case.files.label is None


@pytest.mark.parametrize("opened", ["imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "."])
def test_a_decathlon_file_is_taken_apart(tmp_path: Path, opened: str) -> None:
    write_decathlon(tmp_path)

    case = load_case(tmp_path / opened)

    assert (case.name, case.files.family) == ("BRATS_001", "decathlon")
    assert_holds(case, make_images())  # written as FLAIR T1w T1gd T2w
    written = save_on_source_grid(tmp_path / "o.nii.gz", case.wt_truth, case.geometry)
    assert nib.load(written).shape == SHAPE


def test_decathlon_test_images_have_no_labels(tmp_path: Path) -> None:
    write_decathlon(tmp_path / "train", 485)
    (tmp_path / "imagesTs").mkdir()
    shutil.move(tmp_path / "train/imagesTr/BRATS_485.nii.gz", tmp_path / "imagesTs")

    case = load_case(tmp_path / "imagesTs" / "BRATS_485.nii.gz")

    assert case.wt_truth is None


def test_a_decathlon_label_without_its_image_says_so(tmp_path: Path) -> None:
    write_decathlon(tmp_path).unlink()

    with pytest.raises(CaseError, match=r"is a label and its image is missing.*imagesTr"):
        load_case(tmp_path / "labelsTr" / "BRATS_001.nii.gz")


def test_the_slices_of_one_case_are_stacked_by_number(tmp_path: Path) -> None:
    images = write_slices(tmp_path / "c", [100, 9, 80])

    case = load_case(tmp_path / "c")

    assert (case.name, case.files.family) == ("brats_train_001", "slices")
    assert case.prior_image.shape == (4, 3, 5, 6)
    assert_holds(
        case,
        {r: np.stack([images[n][r] for n in (9, 80, 100)], axis=-1) for r in (*MODALITIES, "seg")},
    )
    assert sorted(case.geometry.to_source_slice(z) for z in range(3)) == [9, 80, 100]
    z = case.geometry.from_source_slice(80)
    np.testing.assert_array_equal(case.prior_image[0, z, ::-1, ::-1].T, images[80]["t1"])
    written = save_on_source_grid(tmp_path / "o.nii.gz", case.wt_truth, case.geometry)
    assert nib.load(written).shape == (6, 5, 3)


def test_neighbours_in_a_stack_with_gaps_are_those_of_the_patient(tmp_path: Path) -> None:
    write_slices(tmp_path / "c", [9, 11, 80, 100])
    case = load_case(tmp_path / "c")
    config = PreprocessingConfig(window=(16, 16), context_slices=(-2, 2), min_brain_fraction=0.0)
    prepared = prepare_case(case, config)
    by_number = {case.geometry.to_source_slice(z): row for row, z in enumerate(prepared.z_indices)}
    assert sorted(by_number) == [9, 11, 80, 100]
    alone = prepared.prior_images([by_number[80]])[0]
    np.testing.assert_array_equal(alone[:4], alone[4:8])  # nothing is 2 mm away from it
    np.testing.assert_array_equal(alone[:4], alone[8:])
    pair = prepared.prior_images([by_number[9]])[0].reshape(3, 4, 16, 16)
    slices = prepared.slices
    ascends = case.geometry.to_source_slice(0) == 9
    np.testing.assert_array_equal(pair[2 if ascends else 1], slices[by_number[11]])
    np.testing.assert_array_equal(pair[1 if ascends else 2], slices[by_number[9]])
    assert any("only 4 are there" in note for note in find_scan_notes(case))


def test_one_file_of_a_slice_stands_for_that_slice(tmp_path: Path) -> None:
    images = write_slices(tmp_path, [79, 80, 81])

    case = load_case(tmp_path / "brats_train_001_t2_080_w.nii.gz")

    assert case.name == "brats_train_001_080"
    assert case.geometry.to_source_slice(0) == 80
    assert_holds(case, images[80])
    written = save_on_source_grid(tmp_path / "o.nii.gz", case.wt_truth, case.geometry)
    assert nib.load(written).shape == (6, 5)


def test_a_folder_with_one_slice_is_a_case_without_labels_too(tmp_path: Path) -> None:
    write_slices(tmp_path / "0", [80], seg=False)

    case = load_case(tmp_path / "0")

    assert case.prior_image.shape == (4, 1, 5, 6)
    assert case.wt_truth is None


def test_slices_that_know_their_position_are_checked_against_their_number(tmp_path: Path) -> None:
    def write(number: int, height_mm: float) -> None:
        affine = np.diag([-1.0, -1.0, 2.0, 1.0])
        affine[2, 3] = height_mm
        for role, image in make_images((6, 5, 1), seed=number).items():
            write_nifti(tmp_path / f"a_{role}_{number:03d}.nii", image, affine)

    for number in (10, 11, 13):
        write(number, 2.0 * number)
    geometry = load_case(tmp_path).geometry
    assert geometry.source_affine[2, 3] == 20
    write(13, 2.0 * 12)
    with pytest.raises(CaseError, match=r"a_t1_013\.nii does not lie where.*tolerance 0\.1 mm"):
        load_case(tmp_path)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
def test_one_slice_cases_of_the_ordinary_families_load(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    write_case(tmp_path, names=NAMES_2023, images=make_images(shape))

    case = load_case(tmp_path)

    assert case.prior_image.shape == (4, 1, 5, 6)
    assert_holds(case, make_images(shape))


def test_modalities_in_other_voxel_order_are_brought_together(tmp_path: Path) -> None:
    images = make_images()
    write_case(tmp_path, images=images)
    flipped = BRATS_AFFINE @ np.array(
        [[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float
    )
    turned = images["t2"][::-1].transpose(1, 0, 2)
    write_nifti(tmp_path / "BraTS20_Training_001_t2.nii.gz", turned, flipped)

    assert_holds(load_case(tmp_path), images)


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names", "tumour"),
    [
        ("BraTS20_Training_001", NAMES_2017, (1, 2, 3, 4)),  # 4 is the enhancing part
        ("BraTS-GLI-02405-100", NAMES_2023, (1, 2, 3)),  # 4 is the resection cavity
        ("BraTS-MET-00001-000", NAMES_2023, (1, 2, 3)),
        ("BraTS-PED-00001-000", NAMES_2023, (1, 2, 3, 4)),  # 4 is oedema
        ("case_speds", NAMES_2023, (1, 2, 3)),
        ("UCSF-PDGM-0004", {**NAMES_2017, "t1ce": "_T1c"}, (1, 2, 3, 4)),  # t1c is no name of 2023
        ("case", {**NAMES_2017, "t2": "_t2w"}, (1, 2, 3, 4)),
    ],
)
def test_whole_tumour_is_every_label_but_the_resection_cavity(
    tmp_path: Path, name: str, names: dict[str, str], tumour: tuple[int, ...]
) -> None:
    images = make_images()
    images["seg"].flat[:5] = range(5)
    case = load_case(write_case(tmp_path / name, name, names, images=images))

    assert case.wt_truth is not None
    on_grid = to_source_grid(case.wt_truth, case.geometry)
    np.testing.assert_array_equal(on_grid, np.isin(images["seg"], tumour))
    notes = [note for note in describe_case(case).notes if "resection cavity" in note]
    if 4 in tumour:
        assert notes == []
    else:
        left_out_ml = (images["seg"] == 4).sum() / 1000
        assert notes == [
            f"Label 4 ({left_out_ml:.1f} mL) is taken for the resection cavity, as in BraTS from "
            "2024 on, and is no part of the whole tumour."
        ]
        without = {**images, "seg": np.where(images["seg"] == 4, 0, images["seg"])}
        case = load_case(write_case(tmp_path / name, name, names, images=without))
        assert not any("resection cavity" in note for note in describe_case(case).notes)


@pytest.mark.parametrize(("value", "shown"), [(5, "5"), (-1, "-1"), (1.5, "1.5"), (255, "255")])
def test_unknown_labels_are_refused(tmp_path: Path, value: float, shown: str) -> None:
    images = make_images()
    images["seg"] = images["seg"].astype(np.float32)
    images["seg"][1, 2, 3] = value
    write_case(tmp_path, images=images)

    with pytest.raises(CaseError, match=rf"_seg\.nii\.gz has label values .*\({shown}\)"):
        load_case(tmp_path)


def test_labels_stored_with_a_scale_factor_are_integers_again(tmp_path: Path) -> None:
    images = make_images()
    write_case(tmp_path, images=images)
    stored = (images["seg"] * 51).astype(np.uint8)
    write_nifti(tmp_path / "BraTS20_Training_001_seg.nii.gz", stored, scl_slope=1 / 51)

    assert_holds(load_case(tmp_path), images)


# --- what is wrong with a case ------------------------------------------------------------------


def test_a_missing_modality_is_named_with_what_is_there(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "BraTS20_Training_001_t1ce.nii.gz").rename(tmp_path / "scan_T1_contrast.nii.gz")

    for opened in (tmp_path, tmp_path / "BraTS20_Training_001_t2.nii.gz"):
        with pytest.raises(CaseError, match=r"t1ce is missing.*001_flair\.nii\.gz.*T1_contrast"):
            load_case(opened)


def test_a_misnamed_modality_does_not_look_like_a_second_case(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "BraTS20_Training_001_t1.nii.gz").rename(tmp_path / "BraTS20_001_t1.nii.gz")

    with pytest.raises(CaseError, match=r"Training_001: t1 is missing.*Found: BraTS20_001_t1"):
        load_case(tmp_path)


def test_two_candidates_are_both_named_and_choosing_one_helps(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    other = write_nifti(tmp_path / "a_t1.nii", make_images(seed=5)["t1"])

    with pytest.raises(CaseError, match=r"2 files for t1: .*a_t1\.nii and .*a_t1\.nii\.gz"):
        load_case(tmp_path)
    with pytest.raises(CaseError, match="2 files for t1"):
        load_case(tmp_path / "a_t2.nii.gz")
    assert_holds(load_case(other), {**make_images(), "t1": make_images(seed=5)["t1"]})


def test_names_of_both_families_for_one_modality_are_two_candidates(tmp_path: Path) -> None:
    write_case(tmp_path, "a", NAMES_2017)
    write_nifti(tmp_path / "a-t1c.nii.gz", make_images()["t1ce"])

    with pytest.raises(CaseError, match="2 files for t1ce"):
        load_case(tmp_path)


def test_a_folder_with_several_cases_names_some(tmp_path: Path) -> None:
    for number in range(1, 12):
        write_case(tmp_path / "flat", f"case_{number}")
        write_case(tmp_path / "nested" / f"case_{number}", f"case_{number}")

    for folder in ("flat", "nested"):
        with pytest.raises(CaseError, match=r"holds 11 cases \(case_1, case_2, .* and 5 more\)"):
            load_case(tmp_path / folder)


def test_a_folder_around_one_case_is_that_case(tmp_path: Path) -> None:
    write_case(tmp_path / "unzipped" / "case_1", "case_1")

    assert discover_case(tmp_path / "unzipped").name == "case_1"


def test_files_of_two_cases_or_two_folders_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "a", "a")
    write_case(tmp_path / "b", "b")

    with pytest.raises(CaseError, match=r"belong to 2 cases \(a, b\)"):
        load_case([tmp_path / "a" / "a_t1.nii.gz", tmp_path / "b" / "b_t2.nii.gz"])
    with pytest.raises(CaseError, match="one case at a time"):
        load_case([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(CaseError, match="No file"):
        load_case([])


def test_nothing_found_tells_what_would_be_a_case(tmp_path: Path) -> None:
    write_nifti(tmp_path / "brain.nii.gz", make_images()["t1"])

    for opened in (tmp_path, tmp_path / "brain.nii.gz"):
        with pytest.raises(CaseError, match=r"brain\.nii\.gz.*<case>_t1"):
            load_case(opened)
    with pytest.raises(CaseError, match="nowhere does not exist"):
        load_case(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match=r"empty holds no BraTS case\. No \.nii"):
        load_case(tmp_path / "empty")


def test_other_shapes_are_reported_with_both_files(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    write_nifti(tmp_path / "a_t2.nii.gz", make_images((6, 5, 3))["t2"])

    with pytest.raises(CaseError, match=r"a_t2.* has 6x5x3 voxels, .*a_t1\.nii\.gz has 6x5x4"):
        load_case(tmp_path)


@pytest.mark.parametrize("role", ["flair", "seg"])
def test_other_affines_are_reported_with_distance_and_tolerance(tmp_path: Path, role: str) -> None:
    write_case(tmp_path, "a")
    affine = BRATS_AFFINE.copy()
    affine[0, 3] += 0.09
    path = write_nifti(tmp_path / f"a_{role}.nii.gz", make_images()[role], affine)
    load_case(tmp_path)  # within the tolerance

    affine[0, 3] += 2.41
    write_nifti(path, make_images()[role], affine)
    with pytest.raises(CaseError, match=rf"a_{role}.*a_t1.* 2\.5 mm apart \(tolerance 0\.1 mm\)"):
        load_case(tmp_path)


def test_a_constant_modality_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path, "a", images={**make_images(), "flair": np.zeros(SHAPE, np.int16)})

    with pytest.raises(CaseError, match=r"a_flair\.nii\.gz is constant: every voxel of flair is 0"):
        load_case(tmp_path)


def test_an_empty_slice_within_a_stack_is_no_constant_modality(tmp_path: Path) -> None:
    write_slices(tmp_path, [80, 81])
    for role in MODALITIES:
        empty = np.zeros(SHAPE[:2], np.int16)
        write_nifti(tmp_path / f"brats_train_001_{role}_081_w.nii.gz", empty, np.eye(4))

    assert load_case(tmp_path).prior_image.shape[1] == 2


def test_a_slice_without_one_modality_is_named(tmp_path: Path) -> None:
    write_slices(tmp_path, [80, 81])
    (tmp_path / "brats_train_001_t2_081_w.nii.gz").unlink()

    with pytest.raises(CaseError, match="slice 81: t2 is missing"):
        load_case(tmp_path)


def test_labels_for_some_slices_only_are_refused(tmp_path: Path) -> None:
    write_slices(tmp_path, [80, 81])
    (tmp_path / "brats_train_001_seg_081_w.nii.gz").unlink()

    with pytest.raises(CaseError, match="slices 81 have no seg file"):
        load_case(tmp_path)


@pytest.mark.parametrize("shape", [(6, 5, 4, 2), (6, 5, 4)])
def test_wrong_dimensionality_is_explained(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = make_images(shape)["t1"]
    if len(shape) == 4:
        write_case(tmp_path, "a")
        write_nifti(tmp_path / "a_t1.nii.gz", image)
        message = r"a_t1\.nii\.gz has shape 6x5x4x2; one 3-D volume"
    else:
        write_nifti(tmp_path / "imagesTr" / "BRATS_001.nii.gz", image)
        message = r"BRATS_001\.nii\.gz has shape 6x5x4; a 4-D file"
    with pytest.raises(CaseError, match=message):
        load_case(tmp_path)


def test_a_decathlon_file_of_another_task_is_explained(tmp_path: Path) -> None:
    write_nifti(tmp_path / "imagesTr" / "prostate_00.nii.gz", make_images((6, 5, 4, 2))["t1"])

    with pytest.raises(CaseError, match=r"prostate_00.* holds 2 volumes; .* holds 4"):
        load_case(tmp_path / "imagesTr" / "prostate_00.nii.gz")


def test_a_volume_with_the_name_of_a_slice_is_explained(tmp_path: Path) -> None:
    for role, image in make_images().items():
        write_nifti(tmp_path / f"a_{role}_080.nii", image)

    with pytest.raises(CaseError, match=r"a_t1_080\.nii has 4 slices"):
        load_case(tmp_path)


# --- BIDS, and labels of other names ----------------------------------------------------------


@pytest.mark.parametrize("stem", ["sub-01", "sub-01_ses-2"])
@pytest.mark.parametrize("opened", ["", *NAMES_BIDS.values()])
def test_names_of_bids_are_known(tmp_path: Path, stem: str, opened: str) -> None:
    images = make_images()
    folder = write_case(tmp_path / "anat", stem, NAMES_BIDS, images=images)
    files = discover_case(folder / f"{stem}{opened}.nii.gz" if opened else folder)
    assert (files.name, files.family) == (stem, "bids")
    for role in MODALITIES:
        assert files.modalities[role] == folder / f"{stem}{NAMES_BIDS[role]}.nii.gz"
    assert files.label == folder / f"{stem}_seg.nii.gz"


def test_bids_names_without_a_subject_are_those_of_their_folder(tmp_path: Path) -> None:
    names = {role: name[1:] for role, name in NAMES_BIDS.items()}
    files = discover_case(write_case(tmp_path / "patient 7", "", names))
    assert files.name == "patient 7"
    assert files.modalities["t1ce"].name == "ce-gadolinium_T1w.nii.gz"
    assert files.modalities["t1"].name == "acq-mprage_T1w.nii.gz"


def test_two_acquisitions_of_bids_are_two_candidates(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "sub-01", NAMES_BIDS)
    shutil.copy(folder / "sub-01_T2w.nii.gz", folder / "sub-01_acq-tse_T2w.nii.gz")
    with pytest.raises(CaseError, match="2 files for t2"):
        discover_case(folder)
    chosen = discover_case(folder / "sub-01_acq-tse_T2w.nii.gz")
    assert chosen.modalities["t2"] == folder / "sub-01_acq-tse_T2w.nii.gz"


def test_segm_is_a_label(tmp_path: Path) -> None:
    names = {**NAMES_2017, "t1ce": "_T1GD", "seg": "_segm"}
    folder = write_case(tmp_path, "UPENN-GBM-00001_11", names)
    assert discover_case(folder).label == folder / "UPENN-GBM-00001_11_segm.nii.gz"


@pytest.mark.parametrize("opened", [".", "BraTS20_Training_355_t1.nii", "W39_1998.09.19_Segm.nii"])
def test_the_oddly_named_label_of_brats_2020_belongs_to_its_case(
    tmp_path: Path, opened: str
) -> None:
    folder = write_case(tmp_path / "355", "BraTS20_Training_355", suffix=".nii")
    odd = folder / "W39_1998.09.19_Segm.nii"
    (folder / "BraTS20_Training_355_seg.nii").rename(odd)
    files = discover_case(folder / opened)
    assert (files.name, files.label) == ("BraTS20_Training_355", odd)
    assert load_case(files).wt_truth is not None
    assert [case.label for case in discover_cases(tmp_path)] == [odd]


def test_a_lone_label_is_left_alone_where_it_is_not_clear_whose_it_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_case(tmp_path / "two", name)
        (tmp_path / "two" / f"{name}_seg.nii.gz").unlink()
    (tmp_path / "two" / "odd_segm.nii.gz").touch()
    labelled = write_case(tmp_path / "labelled", "a")
    (labelled / "odd_segm.nii.gz").touch()
    several = write_case(tmp_path / "several", "a")
    (several / "a_seg.nii.gz").unlink()
    for name in ("odd_segm.nii.gz", "even_segm.nii.gz"):
        (several / name).touch()
    predicted = write_case(tmp_path / "predicted", "a")
    (predicted / "a_seg.nii.gz").rename(predicted / "prediction_seg.nii.gz")

    assert [case.label for case in discover_cases(tmp_path / "two")] == [None, None]
    assert discover_case(labelled).label == labelled / "a_seg.nii.gz"
    assert discover_case(several).label is None
    assert discover_case(predicted).label is None


# --- many cases ---------------------------------------------------------------------------------


def test_all_cases_below_a_folder_are_found_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9):
        write_case(tmp_path / "HGG" / f"case_{number}", f"case_{number}")
    write_case(tmp_path / "LGG" / "case_1", "case_1")
    (tmp_path / "survival_info.csv").write_text("stray")
    (tmp_path / "notes").mkdir()
    (tmp_path / "LGG" / "case_1" / "case_1_t1_brain_mask.nii.gz").write_text("stray")
    (tmp_path / "LGG" / "case_1" / "case_1_bet_t1.nii.gz").write_text("stray")
    (tmp_path / "LGG" / "case_1" / "prediction_seg.nii.gz").write_text("stray")
    (tmp_path / "LGG" / "case_1" / "._case_1_t1.nii.gz").write_text("twin from macOS")

    cases = discover_cases(tmp_path)

    assert [case.name for case in cases] == ["case_9", "case_10", "case_1"]
    assert [case.problem for case in cases] == [None] * 3
    assert all(load_case(case).prior_image.shape == (4, 4, 5, 6) for case in cases)


@pytest.mark.parametrize("below", [".", "imagesTr"])
def test_decathlon_cases_are_found(tmp_path: Path, below: str) -> None:
    for number in (2, 1):
        write_decathlon(tmp_path, number)
    (tmp_path / "imagesTr" / "._BRATS_001.nii.gz").write_text("twin from macOS")
    (tmp_path / "imagesTr" / "BRATS_001_0000.nii.gz").write_text("one channel, for nnU-Net")

    cases = discover_cases(tmp_path / below)

    assert [case.name for case in cases] == ["BRATS_001", "BRATS_002"]
    assert [case.label for case in cases] == [
        tmp_path / "labelsTr" / "BRATS_001.nii.gz",
        tmp_path / "labelsTr" / "BRATS_002.nii.gz",
    ]


def test_cases_in_one_flat_folder_and_slices_are_found(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_case(tmp_path / "flat", name)
    for number in (0, 1):
        write_slices(tmp_path / "slices" / f"{number}", [80 + number])

    assert [case.name for case in discover_cases(tmp_path / "flat")] == ["a", "b"]
    assert [case.name for case in discover_cases(tmp_path / "slices")] == [
        "brats_train_001_080",
        "brats_train_001_081",
    ]
    assert discover_cases(tmp_path / "flat" / "..")[0].name == "a"


def test_folders_of_one_name_are_told_apart_by_those_around_them(tmp_path: Path) -> None:
    names = {role: name[1:] for role, name in NAMES_2017.items()}
    for folder in ("sub-01/ses-1/anat", "sub-01/ses-2/anat", "sub-02/ses-1/anat", "sub-03/scan"):
        write_case(tmp_path / folder, "", names)

    assert [case.name for case in discover_cases(tmp_path)] == [
        "sub-01_ses-1_anat",
        "sub-01_ses-2_anat",
        "sub-02_ses-1_anat",
        "scan",
    ]
    assert [case.name for case in discover_cases(tmp_path / "sub-01")] == [
        "ses-1_anat",
        "ses-2_anat",
    ]
    # Alone it has no need of a longer name.
    assert discover_case(tmp_path / "sub-02").name == "anat"
    # Named one by one on a command line they are a cohort, too; the same one twice is one.
    given = [tmp_path / "sub-01" / "ses-1", tmp_path / "sub-01", tmp_path / "sub-02"]
    assert [case.name for case in expand_inputs(given) if isinstance(case, CaseFiles)] == [
        "sub-01_ses-1_anat",
        "sub-01_ses-2_anat",
        "sub-02_ses-1_anat",
    ]


def test_a_folder_on_a_command_line_stands_for_all_that_is_in_it(tmp_path: Path) -> None:
    """What a folder of cases holds is segmented or named, also beside a case of its own."""
    write_case(tmp_path / "P01", "P01_base")
    for visit in (1, 2):
        write_case(tmp_path / "P01" / f"visit_{visit}", f"P01_{visit}")
    found = expand_inputs([tmp_path / "P01"])
    assert [case.name for case in found if isinstance(case, CaseFiles)] == [
        "P01_base",
        "P01_1",
        "P01_2",
    ]
    # Without the follow-ups, an incomplete set of files below is no case.
    for visit in (1, 2):
        (tmp_path / "P01" / f"visit_{visit}" / f"P01_{visit}_t1.nii.gz").unlink()
    (only,) = expand_inputs([tmp_path / "P01"])
    assert isinstance(only, CaseFiles)

    for name in ("a", "b"):
        write_case(tmp_path / "flat", name)
    (tmp_path / "flat" / "b_t1ce.nii.gz").unlink()
    fine, failed = expand_inputs([tmp_path / "flat"])
    assert isinstance(fine, CaseFiles)
    assert "b: t1ce is missing" in str(failed)


def test_a_folder_that_fails_to_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scan(folder: Path) -> object:
        if Path(folder).name in ("c", "lost+found"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scan)
    for name in ("a", "b", "c"):
        write_case(tmp_path / name, name)
    for name in ("lost+found", "$RECYCLE.BIN/S-1-5-18/c"):
        (tmp_path / name).mkdir(parents=True)
    *fine, failed = expand_inputs([tmp_path])
    assert [case.name for case in fine if isinstance(case, CaseFiles)] == ["a", "b"]
    assert str(failed) == f"{tmp_path / 'c'} cannot be read: Permission denied."
    assert discover_case(tmp_path / "a").name == "a"
    # By its whole path: another folder of that name may hold a case.
    names = [case.name for case in discover_cases(tmp_path)]
    assert names == ["a", "b", str(tmp_path / "c")]


def test_a_folder_with_the_name_of_an_image_is_no_broken_link(tmp_path: Path) -> None:
    (tmp_path / "x_t1.nii" / "inner").mkdir(parents=True)
    with pytest.raises(CaseError) as error:
        discover_case(tmp_path)
    assert "Links to files" not in str(error.value)


def test_files_of_many_cases_are_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand cases in one folder, each of which looked through all, took minutes."""
    for number in range(4):
        write_decathlon(tmp_path, number)
        write_case(tmp_path / "flat", f"case_{number}")
    given = sorted((tmp_path / "flat").glob("*_t1.nii.gz"))
    scanned: list[str] = []
    real = os.scandir

    def scan(folder: Path) -> object:
        scanned.append(Path(folder).name)
        return real(folder)

    monkeypatch.setattr(os, "scandir", scan)
    assert len(expand_inputs(given)) == 4
    assert len(discover_cases(tmp_path / "imagesTr")) == 4
    assert scanned.count("flat") == 1
    assert scanned.count("labelsTr") == 1


def test_a_case_in_the_folder_above_is_called_as_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {role: name[1:] for role, name in NAMES_2017.items()}
    write_case(tmp_path / "P7", "", names)
    (tmp_path / "P7" / "out").mkdir()
    monkeypatch.chdir(tmp_path / "P7" / "out")
    files = discover_case("..")
    assert files.name == "P7"
    assert folder_names(files)[0] == "P7"


def test_links_to_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "sub-01_FLAIR.nii.gz").symlink_to(tmp_path / "annex")
    with pytest.raises(
        CaseError, match=r"Links to files that are not there: sub-01_FLAIR\.nii\.gz"
    ):
        discover_case(tmp_path)


def test_an_incomplete_case_of_many_is_listed_with_its_problem(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_case(tmp_path / name, name)
    (tmp_path / "a" / "a_t2.nii.gz").unlink()

    broken, fine = discover_cases(tmp_path)

    assert fine.problem is None
    assert "t2 is missing" in str(broken.problem)
    with pytest.raises(CaseError, match="a: t2 is missing"):
        load_case(broken)


def test_no_cases_are_an_empty_list_and_no_folder_an_error(tmp_path: Path) -> None:
    assert discover_cases(tmp_path) == []
    with pytest.raises(CaseError, match="nowhere cannot be read"):
        discover_cases(tmp_path / "nowhere")


def test_discovery_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "a", "a")
    write_decathlon(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    assert len(discover_cases(tmp_path)) == 2
    assert is_brats_path(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BraTS20_Training_001_t1.nii.gz", True),
        ("BraTS-GLI-00000-000-T2F.NII.GZ", True),
        ("BraTS-GLI-00000-000-seg.nii", True),
        ("brats_train_001_t1ce_080_w.nii.gz", True),
        ("imagesTr/BRATS_001.nii.gz", True),
        ("imagesTs/patient.nii.gz", True),
        ("BRATS_001.nii.gz", True),
        ("t1.nii.gz", True),
        ("brain.nii.gz", False),
        ("case_mask.nii.gz", False),
        ("case_t1.png", False),
        ("._case_t1.nii.gz", False),
        ("alert1.nii.gz", False),
        ("imagesTr/case_0000.nii.gz", False),
    ],
)
def test_names_tell_whether_a_file_is_ours(name: str, expected: bool) -> None:
    assert is_brats_path(name) is expected
    assert is_brats_path([name]) is expected


def test_folders_are_recognised_and_nonsense_does_no_harm(tmp_path: Path) -> None:
    write_case(tmp_path / "many" / "a", "a")
    (tmp_path / "other").mkdir()

    assert is_brats_path(tmp_path / "many" / "a")
    assert is_brats_path(str(tmp_path / "many"))
    assert not is_brats_path(tmp_path / "other")
    assert not is_brats_path(tmp_path / "nowhere")
    for nonsense in ([], None, 7, "", "\0", [None], ["a_t1.nii", "b.png"]):
        assert not is_brats_path(nonsense)  # type: ignore[arg-type]


# --- real data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "labels"),
    [
        ("BraTS2021_00006", "brats2017", [0, 1, 2, 4]),
        ("BraTS-GLI-00000-000", "brats2023", [0, 1, 2, 3]),
    ],
)
def test_published_cases_load(brats_data: Path, name: str, family: str, labels: list[int]) -> None:
    case = load_case(brats_data / "original" / name)

    assert (case.name, case.files.family) == (name, family)
    assert case.prior_image.shape == (4, 155, 240, 240)
    assert case.geometry.translate_mm == (-154.0, -239.0, 0.0)
    assert case.geometry.spacing_mm == (1.0, 1.0, 1.0)
    assert case.wt_truth is not None
    assert np.unique(case.labels).tolist() == labels
    seg = nib.load(case.files.label).get_fdata()
    assert case.wt_truth.sum() == (seg > 0).sum() > 10_000
    np.testing.assert_array_equal(to_source_grid(case.wt_truth, case.geometry), seg > 0)
