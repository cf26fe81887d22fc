"""A result that was saved comes back bit by bit, or it is said why not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core import reopen
from napari_diffseg.core.brats import Case, CaseFiles, discover_cases, load_case
from napari_diffseg.core.case_files import hash_images
from napari_diffseg.core.describe import describe_case, describe_result
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import save_result
from napari_diffseg.core.record import ModelRecord, ResultRecord, RunRecord
from napari_diffseg.core.reopen import (
    find_changed_mask,
    find_later_change,
    is_result_path,
    load_result,
    load_saved_mask,
    read_record,
)
from tests.core.case_files import NAMES_2017, make_images, write_case, write_slices

RUN = RunRecord(
    model=ModelRecord("tiny", "tiny.safetensors", "0" * 64, {"steps": 3}),
    sampler="ddpm",
    n_steps=4,
    eta=None,
    mirror=True,
    vary_contrast=True,
    seed=7,
    seeding="each on its own",
    first_member=0,
    device="cpu",
    elapsed_s=1.5,
    messages=(),
)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return load_case(write_case(tmp_path / "Case_1", "Case_1", NAMES_2017))


@pytest.fixture
def ensemble(case: Case) -> Ensemble:
    """Give three members of random levels; the last lacks the last slice."""
    rng = np.random.default_rng(0)
    ensemble = Ensemble(3, case.geometry.shape)
    for member in range(3):
        for z in range(case.geometry.shape[0] - (member == 2)):
            ensemble.add(member, z, rng.integers(0, 256, case.geometry.shape[1:], np.uint8))
    return ensemble


@pytest.fixture
def record(case: Case, ensemble: Ensemble) -> ResultRecord:
    return describe_result(case, ensemble, RUN, threshold=0.4, k=2)


@pytest.fixture
def saved(tmp_path: Path, case: Case, ensemble: Ensemble, record: ResultRecord) -> Path:
    return save_result(tmp_path / "out", case, ensemble, record, samples=True)["diffseg"]


def edit(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def test_a_result_that_was_named_by_several_folders_finds_its_scan(
    tmp_path: Path, ensemble: Ensemble
) -> None:
    names = {role: name[1:] for role, name in NAMES_2017.items()}
    for subject in ("sub-01", "sub-02"):
        write_case(tmp_path / "in" / subject / "anat", "", names)
    case = load_case(discover_cases(tmp_path / "in")[1])
    saved = save_result(tmp_path / "out", case, ensemble, describe_result(case, ensemble, RUN))
    result = load_result(saved["diffseg"])
    assert result.case.name == "sub-02_anat"
    assert result.case.files == case.files


def test_a_result_of_some_slice_files_opens_with_these(tmp_path: Path) -> None:
    """Also when there are other slices, and those of another patient, in the same folder."""
    write_slices(tmp_path / "in", [79, 80, 81, 82])
    write_slices(tmp_path / "in", [80, 81], case="brats_train_002")
    some = sorted((tmp_path / "in").glob("brats_train_001_*_08[01]_w.nii.gz"))
    case = load_case(some)
    ensemble = Ensemble(1, case.geometry.shape)
    for z in range(2):
        ensemble.add(0, z, np.full(case.geometry.shape[1:], 255, np.uint8))
    saved = save_result(tmp_path / "out", case, ensemble, describe_result(case, ensemble, RUN))
    result = load_result(saved["diffseg"])
    assert result.case.files == case.files
    assert result.case.geometry.slice_numbers == case.geometry.slice_numbers


def test_a_result_of_slice_files_from_before_opens_with_all_of_its_folder(tmp_path: Path) -> None:
    write_slices(tmp_path / "in", [80, 81, 82])
    case = load_case(tmp_path / "in")
    ensemble = Ensemble(1, case.geometry.shape)
    for z in range(3):
        ensemble.add(0, z, np.full(case.geometry.shape[1:], 255, np.uint8))
    saved = save_result(tmp_path / "out", case, ensemble, describe_result(case, ensemble, RUN))
    values = json.loads(saved["diffseg"].read_text(encoding="utf-8"))
    del values["case"]["slice_numbers"]
    edit(saved["diffseg"], case=values["case"])
    assert load_result(saved["diffseg"]).case.files == case.files


def test_members_come_back_bit_by_bit(
    saved: Path, ensemble: Ensemble, record: ResultRecord
) -> None:
    result = load_result(saved)
    assert result.ensemble is not None
    np.testing.assert_array_equal(result.ensemble.members_uint8(), ensemble.members_uint8())
    np.testing.assert_array_equal(result.ensemble.sampled, ensemble.sampled)
    assert result.record == record
    assert result.judged.all()
    assert describe_result(result.case, result.ensemble, RUN, threshold=0.4, k=2) == record


def test_without_the_samples_the_maps_are_there(saved: Path, ensemble: Ensemble) -> None:
    (saved.parent / "Case_1_samples.nii.gz").unlink()
    result = load_result(saved)
    assert result.ensemble is None
    np.testing.assert_array_equal(result.maps["mean"], ensemble.mean_map(2))
    np.testing.assert_array_equal(result.maps["mask"], ensemble.wt_mask(0.4, 2))
    np.testing.assert_array_equal(result.maps["disagreement"], ensemble.disagreement_map(2))


def test_a_result_without_the_map_of_disagreement_opens(saved: Path) -> None:
    names = json.loads(saved.read_text(encoding="utf-8"))["files"]
    for name in ("samples", "disagreement"):
        (saved.parent / names.pop(name)).unlink()
    edit(saved, files=names)
    assert set(load_result(saved).maps) == {"mask", "mean", "variance"}


def test_images_that_were_moved_are_found_beside_the_record_or_in_the_folder_given(
    saved: Path, case: Case, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "Case_1"
    shutil.move(tmp_path / "Case_1", moved)
    with pytest.raises(DiffsegError, match="neither where they were"):
        load_result(saved)
    assert load_result(saved, folder=tmp_path / "elsewhere").case.files.modalities["t1"].exists()
    known = load_case(moved)
    assert load_result(saved, known=[known]).case is known  # by what is in it
    other = load_case(
        write_case(tmp_path / "other" / "Case_1", "Case_1", NAMES_2017, images=make_images(seed=1))
    )
    with pytest.raises(DiffsegError, match="Put them there"):  # names are no proof
        load_result(saved, known=[other])
    for path in moved.iterdir():
        shutil.move(path, saved.parent / path.name)
    assert load_result(saved).case.name == "Case_1"


def test_images_of_a_record_from_windows_are_found_beside_it(saved: Path, case: Case) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    for name, path in case.files.modalities.items():
        values["case"]["files"][name] = f"C:\\data\\{path.name}"
    saved.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(DiffsegError, match=r"neither where they were \(C:\\data\)"):
        load_result(saved)
    for path in case.files.modalities.values():
        path.rename(saved.parent / path.name)
    label = case.files.label
    if label is not None:
        values["case"]["label"] = f"C:\\data\\{label.name}"
        label.rename(saved.parent / label.name)
    saved.write_text(json.dumps(values), encoding="utf-8")
    opened = load_result(saved)
    assert opened.case.name == case.name
    np.testing.assert_array_equal(opened.case.prior_image, case.prior_image)
    assert (opened.case.wt_truth is None) == (label is None)


def test_a_case_that_is_loaded_is_not_loaded_again(saved: Path, case: Case) -> None:
    assert load_result(saved, known=[case]).case is case


def test_another_scan_of_the_same_name_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "Case_1")
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    write_case(tmp_path / "Case_1", "Case_1", NAMES_2017, affine=affine)
    with pytest.raises(DiffsegError, match="do not lie on the grid"):
        load_result(saved)


def test_images_that_were_changed_in_their_place_are_refused(
    saved: Path, case: Case, tmp_path: Path
) -> None:
    write_case(tmp_path / "Case_1", "Case_1", NAMES_2017, images=make_images(seed=1))
    with pytest.raises(
        DiffsegError, match=r"not those that .* was made of: they have been changed"
    ):
        load_result(saved)
    assert load_result(saved, known=[case]).case is case  # as it was read before


def test_a_case_that_is_open_as_it_was_before_is_told_to_be_closed(
    saved: Path, case: Case, ensemble: Ensemble, tmp_path: Path
) -> None:
    write_case(tmp_path / "Case_1", "Case_1", NAMES_2017, images=make_images(seed=1))
    new = load_case(case.files)
    save_result(saved.parent, new, ensemble, describe_result(new, ensemble, RUN))
    with pytest.raises(DiffsegError, match="is open as it was before its images were changed"):
        load_result(saved, known=[case])
    assert load_result(saved).case.sha256 == new.sha256


def test_a_copy_of_the_images_that_is_open_does_not_lend_its_labels(
    saved: Path, case: Case, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "Case_1", tmp_path / "of another rater" / "Case_1")
    copy = load_case(tmp_path / "of another rater" / "Case_1")
    assert load_result(saved, known=[copy]).case.files == case.files


@pytest.mark.parametrize("how", ["parts", "moved", "more", "damaged"])
def test_a_mask_that_another_program_has_changed_is_told(saved: Path, how: str) -> None:
    path = saved.parent / "Case_1_mask.nii.gz"
    assert find_changed_mask(saved) is None
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    if how == "parts":  # of the tumour, as other labels
        voxels[: len(voxels) // 2] *= 2
    elif how == "moved":
        voxels = np.roll(voxels, 1, axis=0)
    elif how == "more":
        voxels.flat[np.flatnonzero(voxels == 0)[0]] = 1
    if how == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    else:
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    changed = find_changed_mask(saved)
    assert changed is not None
    assert changed.path == path
    voxel_ml = read_record(saved)[0].case.voxel_volume_ml
    if how == "damaged":
        assert changed.volume_ml is None
    else:
        assert changed.volume_ml == pytest.approx(np.count_nonzero(voxels) * voxel_ml)
    assert find_later_change(saved) == changed
    os.utime(path, ns=(0, 0))
    assert find_later_change(saved) is None  # it has not been touched since
    with pytest.raises(DiffsegError):
        load_saved_mask(load_result(saved))


def test_the_record_tells_of_the_images_that_were_read(case: Case, tmp_path: Path) -> None:
    write_case(
        tmp_path / "Case_1", "Case_1", NAMES_2017, images=make_images(seed=1)
    )  # while it was being segmented
    assert describe_case(case).sha256 == case.sha256 != hash_images(case.files)


def test_samples_of_another_run_are_refused(
    saved: Path, case: Case, ensemble: Ensemble, record: ResultRecord, tmp_path: Path
) -> None:
    other = Ensemble.from_arrays(255 - ensemble.members_uint8(), ensemble.sampled)
    files = save_result(tmp_path / "other", case, other, record, samples=True)
    shutil.copy(files["samples"], saved.parent)
    with pytest.raises(DiffsegError, match="not those that it tells of"):
        load_result(saved)
    fewer = Ensemble.from_arrays(ensemble.members_uint8(2), ensemble.sampled[:2])
    shorter = replace(record, members=record.members[:2])
    shutil.copy(
        save_result(tmp_path / "other", case, fewer, shorter, samples=True)["samples"], saved.parent
    )
    with pytest.raises(DiffsegError, match="does not hold the 3 samples"):
        load_result(saved)


@pytest.mark.parametrize("samples", [True, False])
def test_a_result_that_is_replaced_while_it_is_read_is_read_again(
    saved: Path,
    case: Case,
    ensemble: Ensemble,
    monkeypatch: pytest.MonkeyPatch,
    samples: bool,
) -> None:
    """The queue of the dock saves a case anew after each of its members."""
    more = Ensemble.from_arrays(np.concatenate([ensemble.members_uint8()] * 2))

    def load_slowly(files: CaseFiles) -> Case:
        save_result(saved.parent, case, more, describe_result(case, more, RUN), samples=samples)
        return load_case(files)

    if not samples:
        (saved.parent / "Case_1_samples.nii.gz").unlink()
    monkeypatch.setattr(reopen, "load_case", load_slowly)
    result = load_result(saved)
    assert result.record.maps.n_members == 6
    found = result.ensemble
    assert (found.n_members if found is not None else len(result.maps)) == (6 if samples else 4)


def test_the_mask_can_be_had_as_it_was_saved(
    saved: Path, case: Case, ensemble: Ensemble, record: ResultRecord, tmp_path: Path
) -> None:
    result = load_result(saved)
    np.testing.assert_array_equal(load_saved_mask(result), ensemble.wt_mask(0.4, 2))
    other = Ensemble.from_arrays(255 - ensemble.members_uint8(), ensemble.sampled)
    shutil.copy(save_result(tmp_path / "other", case, other, record)["mask"], saved.parent)
    with pytest.raises(DiffsegError, match="not the one that it tells of"):
        load_saved_mask(result)


def test_a_damaged_sample_file_is_named(saved: Path) -> None:
    path = saved.parent / "Case_1_samples.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DiffsegError, match=r"samples.nii.gz"):
        load_result(saved)


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_the_samples_is_no_traceback(saved: Path, seed: int) -> None:
    path = saved.parent / "Case_1_samples.nii.gz"
    content = bytearray(path.read_bytes())
    content[int(np.random.default_rng(seed).integers(len(content)))] ^= 0xFF
    path.write_bytes(content)
    with contextlib.suppress(DiffsegError):  # a flip in the header of gzip may do no harm
        load_result(saved)


def test_maps_that_do_not_fit_the_record_are_refused(
    saved: Path, case: Case, ensemble: Ensemble, record: ResultRecord, tmp_path: Path
) -> None:
    (saved.parent / "Case_1_samples.nii.gz").unlink()
    other = Ensemble.from_arrays(255 - ensemble.members_uint8(), ensemble.sampled)
    shutil.copy(save_result(tmp_path / "other", case, other, record)["mask"], saved.parent)
    with pytest.raises(DiffsegError, match=r"The maps beside .* their values differ"):
        load_result(saved)


def test_a_later_member_may_have_more_slices(
    case: Case, ensemble: Ensemble, tmp_path: Path
) -> None:
    sampled = ensemble.sampled.copy()
    sampled[:2, 0] = False
    sampled[2] = True
    part = Ensemble.from_arrays(ensemble.members_uint8(), sampled)
    record = describe_result(case, part, RUN, k=2)
    assert len(record.volume.members_ml) == 2
    saved = save_result(tmp_path / "part", case, part, record, samples=True)["diffseg"]
    result = load_result(saved)
    assert result.ensemble is not None
    np.testing.assert_array_equal(result.ensemble.sampled, sampled)


def test_results_of_the_first_version_open(
    saved: Path, case: Case, ensemble: Ensemble, tmp_path: Path
) -> None:
    whole = Ensemble.from_arrays(ensemble.members_uint8(2))
    record = describe_result(case, whole, RUN)
    saved = save_result(tmp_path / "first", case, whole, record, samples=True)["diffseg"]
    values = json.loads(saved.read_text(encoding="utf-8"))
    for name in ("members", "work_list", "lesions", "verdict", "edited"):
        values.pop(name, None)
    for part, names in {
        "run": ("mirror", "vary_contrast", "stopping"),
        "maps": ("consensus", "closest_member", "judged_slices"),
        "volume": ("members_threshold", "likely_low_ml", "likely_high_ml"),
    }.items():
        for name in names:
            values[part].pop(name, None)
    saved.write_text(json.dumps({**values, "schema_version": 1}), encoding="utf-8")
    result = load_result(saved)
    assert result.ensemble is not None
    assert result.ensemble.sampled.all()
    assert result.judged.all()
    assert not result.record.run.mirror
    assert not result.record.run.vary_contrast
    assert result.record.volume.likely_low_ml is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "later version"),
        ({"schema_version": "1"}, "not the record of a result"),
        ({"confidence": "high"}, "is damaged: confidence must be float"),
        ({"surprise": 1}, "is damaged: Unknown setting surprise"),
        ({"files": {"samples": "../../secret.nii.gz"}}, "not in its own folder"),
        ({"files": ["a"]}, "not in its own folder"),
        ({"members": [{"slices": [[0, 999]]}] * 2}, "999"),
        ({"members": [{"slices": [[0, 1]]}]}, "more samples than it has"),
    ],
)
def test_no_field_is_trusted(saved: Path, changes: dict[str, object], message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(DiffsegError, match=message):
        load_result(saved)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_file_that_is_no_record_is_named(saved: Path, text: str) -> None:
    saved.write_text(text, encoding="utf-8")
    with pytest.raises(DiffsegError, match=r"Case_1_diffseg\.json is not"):
        load_result(saved)


def test_records_are_known_by_their_name() -> None:
    assert is_result_path("x/Case_1_diffseg.json")
    assert not is_result_path("x/Case_1.json")
    assert not is_result_path(["x/Case_1_diffseg.json"])


@pytest.mark.parametrize(
    ("looked_at", "expected"),
    [
        ((80, 81), True),  # the mask goes on at 82 and at 9
        ((80, 81, 82), True),
        ((9, 80, 81, 82), False),
    ],
)
def test_a_part_of_a_tumour_in_a_stack_of_slice_files(
    tmp_path: Path, looked_at: tuple[int, ...], expected: bool
) -> None:
    write_slices(tmp_path / "c", [9, 80, 81, 82])
    case = load_case(tmp_path / "c")
    ensemble = Ensemble(1, case.geometry.shape)
    judged = np.zeros(case.geometry.shape[0], bool)
    for number in looked_at:
        z = case.geometry.from_source_slice(number)
        judged[z] = True
        ensemble.add(0, z, np.full(case.geometry.shape[1:], 255, np.uint8))
    record = describe_result(case, ensemble, RUN, judged=judged)
    assert record.case.slice_numbers == ((9, 9), (80, 82))
    assert record.is_part is expected
