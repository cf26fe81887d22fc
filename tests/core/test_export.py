"""A result as files: on the source's grid, complete or not at all, and a record without NaN."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core import export, moves
from napari_diffseg.core.brats import Case, CaseFiles
from napari_diffseg.core.consensus import ConsensusKind, decide, make_mask
from napari_diffseg.core.describe import describe_case, describe_result
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import record_to_json, save_result
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.record import ModelRecord, ResultRecord, RunRecord

SHAPE = (3, 4, 5)  # canonical (Z, Y, X)
VOXEL_ML = 2 * 3 * 4 / 1000
# Source axes are (y, -z, x): a permuted, reversed and anisotropic grid.
AFFINE = np.array([[0, 0, -2.0, 7], [3, 0, 0, -8], [0, -4.0, 0, 9], [0, 0, 0, 1]])

RUN = RunRecord(
    model=ModelRecord("tiny", "tiny.safetensors", "0" * 64, {"steps": 3}),
    sampler="ddpm",
    n_steps=3,
    eta=None,
    mirror=False,
    seed=7,
    seeding="",
    first_member=0,
    device="cpu",
    elapsed_s=1.5,
    messages=(),
)


def make_case(truth: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Case:
    geometry = Geometry.from_affine((4, 3, 5), affine)
    assert geometry.shape == SHAPE
    return Case(
        name="Case_1",
        files=CaseFiles("Case_1", "brats2017", {}),
        prior_image=np.zeros((4, *SHAPE), np.float32),
        wt_truth=truth,
        labels=None if truth is None else truth.astype(np.uint8),
        geometry=geometry,
    )


def box(z: slice | int, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[z, y, x] = True
    return mask


def ensemble_of(*masks: np.ndarray, slices: range = range(SHAPE[0])) -> Ensemble:
    ensemble = Ensemble(len(masks), SHAPE)
    for member, mask in enumerate(masks):
        for z in slices:
            ensemble.add(member, z, np.where(mask[z], 255, 0).astype(np.uint8))
    return ensemble


# Eight voxels in slice 1; the second member has only half of them.
WHOLE = box(1, slice(0, 2), slice(0, 4))
HALF = box(1, slice(0, 1), slice(0, 4))


def record_of(case: Case, ensemble: Ensemble, **options: object) -> ResultRecord:
    return describe_result(case, ensemble, RUN, **options)  # type: ignore[arg-type]


def test_record_tells_volume_agreement_and_scores() -> None:
    record = record_of(make_case(HALF), ensemble_of(WHOLE, HALF, HALF))
    assert record.volume.mask_ml == pytest.approx(4 * VOXEL_ML)
    assert record.volume.expected_ml == pytest.approx((4 + 4 / 3) * VOXEL_ML)
    assert record.volume.members_ml == pytest.approx([8 * VOXEL_ML, 4 * VOXEL_ML, 4 * VOXEL_ML])
    assert record.volume.low_ml == pytest.approx(4 * VOXEL_ML)
    assert record.volume.high_ml == pytest.approx(8 * VOXEL_ML)
    assert record.volume.interval == "range"
    # Dice of the pairs: twice 2 * 4 / 12, once 1.
    assert record.confidence == pytest.approx((2 * (8 / 12) + 1) / 3)
    assert record.scores is not None
    assert record.scores.dice == 1
    assert record.scores.hd95_mm == 0
    assert record.scores.volume_error_ml == 0
    assert record.scores.members_dice == pytest.approx([8 / 12, 1, 1])


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({"threshold": 0.7}, 0.7),
        ({"threshold": 0.2}, 0.2),
        ({"threshold": 0.7, "of": "masks"}, 0.5),
        ({"threshold": 0.7, "consensus": "majority"}, 0.5),
        ({"threshold": 0.7, "consensus": "closest"}, 0.5),
    ],
)
def test_members_are_cut_where_their_mean_probability_is(
    options: dict[str, object], cut: float
) -> None:
    ensemble = Ensemble(3, SHAPE)
    ramp = np.linspace(0, 255, SHAPE[1] * SHAPE[2]).reshape(SHAPE[1:])
    for member, share in enumerate((0.9, 0.95, 1.0)):
        for z in range(SHAPE[0] - (member == 2)):  # the last one lacks a slice
            ensemble.add(member, z, (share * ramp).astype(np.uint8))
    record = record_of(make_case(HALF), ensemble, **options)
    assert record.volume.members_threshold == cut
    voxels = (ensemble.members_uint8()[:2] > cut * 255).sum(axis=(2, 3))
    assert record.volume.members_ml == pytest.approx(voxels.sum(axis=1) * VOXEL_ML)
    assert record.slices[-1].low_ml == pytest.approx(voxels[0, -1] * VOXEL_ML)
    assert record.slices[-1].high_ml == pytest.approx(voxels[1, -1] * VOXEL_ML)


def test_one_sample_has_a_volume_and_no_interval() -> None:
    volume = record_of(make_case(HALF), ensemble_of(HALF)).volume
    assert volume.members_ml == pytest.approx([4 * VOXEL_ML])
    assert volume.median_ml == pytest.approx(4 * VOXEL_ML)
    assert (volume.low_ml, volume.high_ml, volume.interval) == (None, None, None)
    assert (volume.likely_low_ml, volume.likely_high_ml) == (None, None)
    ensemble = ensemble_of(WHOLE, HALF, slices=range(2))
    ensemble.add(0, 2, np.zeros(SHAPE[1:], np.uint8))
    slices = record_of(make_case(HALF), ensemble).slices
    assert (slices[1].low_ml, slices[1].high_ml) == pytest.approx((4 * VOXEL_ML, 8 * VOXEL_ML))
    assert (slices[2].low_ml, slices[2].high_ml) == (None, None)


def test_likely_volume_is_of_the_mean_probability_in_the_slices_asked_for() -> None:
    ensemble = Ensemble(3, SHAPE)
    ramp = np.linspace(0, 255, SHAPE[1] * SHAPE[2]).reshape(SHAPE[1:])
    for member, share in enumerate((0.9, 1.0, 0.2)):
        for z in range(SHAPE[0] - (member == 2)):  # the last one lacks a slice
            ensemble.add(member, z, (share * ramp).astype(np.uint8))
    for options in ({}, {"of": "masks"}, {"consensus": "closest"}, {"k": 2}, {"z_range": (1, 3)}):
        volume = record_of(make_case(HALF), ensemble, **options).volume
        first, end = options.get("z_range", (0, 3))
        mean = ensemble.mean_map(options.get("k"))[first:end]
        assert volume.likely_low_ml == pytest.approx((mean > 0.9).sum() * VOXEL_ML)
        assert volume.likely_high_ml == pytest.approx((mean > 0.1).sum() * VOXEL_ML)
        assert volume.high_ml is not None
        assert volume.likely_low_ml < volume.high_ml < volume.likely_high_ml


def test_slices_have_the_numbers_of_the_source_file() -> None:
    case = make_case(box(0, slice(0, 2), slice(0, 2)))
    masks = (box(0, slice(0, 2), slice(0, 2)), box(0, slice(0, 2), slice(0, 1)))
    record = record_of(case, ensemble_of(*masks))
    # z grows downwards and the source's second axis as well: the numbers are the same.
    assert [case.geometry.to_source_slice(z) for z in range(3)] == [0, 1, 2]
    flipped = replace(case, geometry=Geometry.from_affine((4, 3, 5), AFFINE * [1, -1, 1, 1]))
    upside_down = record_of(flipped, ensemble_of(*masks))
    assert [entry.slice for entry in record.slices] == [0, 1, 2]
    assert [entry.slice for entry in upside_down.slices] == [0, 1, 2]
    assert record.slices[0].disagreement == pytest.approx(1 - 4 / 6)
    assert upside_down.slices[2] == replace(record.slices[0], slice=2)
    assert record.slices[0].mask_mm2 == pytest.approx(2 * 2 * 3)  # p = 0.5 is not tumour
    assert record.slices[1].disagreement == 0


def test_range_is_measured_alone() -> None:
    truth = np.ones(SHAPE, bool)
    ensemble = ensemble_of(np.ones(SHAPE, bool), slices=range(1, 3))
    record = record_of(make_case(truth), ensemble, z_range=(1, 3))
    assert record.scores is not None
    assert record.scores.dice == 1
    assert (record.maps.first_slice, record.maps.last_slice) == (1, 2)
    assert not record.maps.whole_volume
    assert record.volume.mask_ml == pytest.approx(2 * 4 * 5 * VOXEL_ML)
    assert record_of(make_case(truth), ensemble).scores.dice == pytest.approx(0.8)  # type: ignore[union-attr]


def test_record_uses_the_first_k_members_and_the_kind_of_map() -> None:
    low = np.where(WHOLE, 102, 0).astype(np.uint8)  # p = 0.4: in no member's mask
    ensemble = Ensemble(2, SHAPE)
    for z in range(3):
        ensemble.add(0, z, np.where(WHOLE[z], 255, 0).astype(np.uint8))
        ensemble.add(1, z, low[z])
    case = make_case(WHOLE)
    soft = record_of(case, ensemble)
    hard = record_of(case, ensemble, of="masks")
    first = record_of(case, ensemble, k=1)
    assert soft.scores is not None
    assert hard.scores is not None
    assert soft.scores.dice == 1  # mean 0.7
    assert hard.scores.dice == 0  # mean 0.5, not above it
    assert hard.scores.empty_prediction
    assert hard.scores.hd95_mm is None
    assert (first.maps.n_members, first.confidence) == (1, None)
    assert record_of(case, ensemble, threshold=0.8).volume.mask_ml == 0


@pytest.mark.parametrize("consensus", ["mean", "majority", "closest", "staple"])
def test_the_mask_that_is_saved_is_the_one_that_was_decided(
    tmp_path: Path, consensus: ConsensusKind
) -> None:
    if consensus == "staple":
        pytest.importorskip("SimpleITK")
    case = make_case(WHOLE)
    ensemble = ensemble_of(HALF, WHOLE, HALF)
    record = record_of(case, ensemble, consensus=consensus, threshold=0.2)
    expected = make_mask(ensemble, decide(ensemble, consensus, threshold=0.2))
    assert expected.sum() == (8 if consensus == "mean" else 4)  # mean 1/3 in the other half
    assert record.maps.consensus == consensus
    assert record.maps.closest_member == (0 if consensus == "closest" else None)
    assert record.volume.mask_ml == pytest.approx(expected.sum() * VOXEL_ML)
    paths = save_result(tmp_path, case, ensemble, record)
    image = nib.load(paths["mask"])
    mask = np.asanyarray(image.dataobj).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(mask, expected)
    described = image.header["descrip"].item().decode()
    assert ("0.2" in described) == (consensus in ("mean", "staple"))
    assert json.loads(paths["diffseg"].read_text())["maps"]["consensus"] == consensus


def test_a_member_that_is_not_complete_can_be_the_one_that_sees_a_tumour() -> None:
    nothing = np.zeros(SHAPE, bool)
    ensemble = ensemble_of(*[nothing] * 4, box(0, slice(0, 2), slice(0, 2)))
    sampled = ensemble.sampled.copy()
    sampled[4, 2] = False
    stopped = Ensemble.from_arrays(ensemble.members_uint8(), sampled)
    verdict = record_of(make_case(), stopped).verdict
    assert verdict is not None
    assert verdict.is_warning
    assert "1 of 5 samples show a tumour" in verdict.text


def test_case_without_labels_has_no_scores() -> None:
    record = record_of(make_case(None), ensemble_of(WHOLE))
    assert record.scores is None
    assert record.slices[0].dice is None
    assert json.loads(record_to_json(record, {}))["scores"] is None


def test_notes_warn_about_images_that_the_model_does_not_expect() -> None:
    assert any("4.0 mm apart" in note for note in describe_case(make_case()).notes)
    noise = np.random.default_rng(0).uniform(1, 9, (4, *SHAPE)).astype(np.float32)
    with_skull = replace(make_case(), prior_image=noise)
    assert any("skull-stripped" in note for note in describe_case(with_skull).notes)
    oblique = AFFINE.copy()
    oblique[:3, :3] = np.array([[1, 0.1, 0], [-0.1, 1, 0], [0, 0, 1]]) @ AFFINE[:3, :3]
    assert any("oblique" in note for note in describe_case(make_case(affine=oblique)).notes)


def test_maps_lie_on_the_source_grid(tmp_path: Path) -> None:
    case = make_case(WHOLE)
    ensemble = ensemble_of(WHOLE, HALF, HALF)
    ensemble.add(2, 0, np.full(SHAPE[1:], 51, np.uint8))
    record = record_of(case, ensemble)
    paths = save_result(tmp_path / "new" / "folder", case, ensemble, record, samples=True)
    images = {name: nib.load(path) for name, path in paths.items() if name != "diffseg"}
    for image in images.values():
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert image.shape[:3] == (4, 3, 5)
    # source (y, z, x) with y reversed: canonical y grows to posterior, the source's to anterior
    mean = np.asanyarray(images["mean"].dataobj).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(mean, ensemble.mean_map())
    mask = np.asanyarray(images["mask"].dataobj).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(mask, HALF)
    variance = np.asanyarray(images["variance"].dataobj).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(variance, ensemble.variance_map())
    samples = images["samples"].get_fdata()
    between = np.asanyarray(images["disagreement"].dataobj)
    np.testing.assert_allclose(between, samples.var(axis=-1), atol=1e-6)
    assert between.max() > 0.2
    told = {name: image.header["descrip"].item().decode() for name, image in images.items()}
    of = "3 samples, probabilities"
    assert told["variance"] == f"napari-diffseg: m(1-m) of {of}, between + within"
    assert told["disagreement"] == f"napari-diffseg: variance between {of}"
    assert samples.shape == (4, 3, 5, 3)
    assert samples.max() <= 1
    np.testing.assert_allclose(samples.mean(axis=-1).transpose(1, 0, 2)[:, ::-1], mean, atol=1e-6)
    assert images["samples"].get_data_dtype() == np.uint8
    written = json.loads(paths["diffseg"].read_text(encoding="utf-8"))
    assert written["files"]["mean"] == "Case_1_mean.nii.gz"
    assert written["files"]["disagreement"] == "Case_1_disagreement.nii.gz"
    assert written["run"]["seed"] == 7
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.name for path in paths.values()
    )


def test_json_has_null_where_a_number_is_not_finite() -> None:
    record = record_of(make_case(), ensemble_of(WHOLE))
    odd = replace(record, run=replace(RUN, elapsed_s=float("nan")))
    text = record_to_json(odd, {"mask": "a.nii.gz"})
    values = json.loads(text, parse_constant=pytest.fail)
    assert values["run"]["elapsed_s"] is None
    assert list(values) == sorted(values)
    assert text.endswith("}\n")


def test_failed_export_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, ensemble = make_case(), ensemble_of(WHOLE)
    record = record_of(case, ensemble)
    paths = save_result(tmp_path, case, ensemble, record)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "record_to_json", fail)
    other = ensemble_of(HALF)
    with pytest.raises(DiffsegError, match=r"Case_1 cannot be written .* No space left on device"):
        save_result(tmp_path, case, other, record_of(case, other))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == set(paths.values())


@pytest.mark.parametrize("reason", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["away", "in"])
def test_a_file_that_cannot_be_moved_leaves_all_of_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: BaseException, moment: str
) -> None:
    case, ensemble, other = make_case(), ensemble_of(WHOLE), ensemble_of(HALF)
    save_result(tmp_path, case, ensemble, record_of(case, ensemble))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    real = Path.rename

    def rename(source: Path, target: Path) -> Path:
        now = "back" if source.parent.name == "earlier" else "in"
        now = "away" if target.parent.name == "earlier" else now
        if source.name == "Case_1_variance.nii.gz" and now == moment:
            if isinstance(reason, OSError):  # as the system reports it
                raise type(reason)(*reason.args, str(source), None, str(target))
            raise reason
        return real(source, target)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(moves, "_WAITS_S", (0,))
    told = "Nothing of it was written. Close Case_1_variance.nii.gz in other programs"
    error, match = (
        (DiffsegError, told) if isinstance(reason, OSError) else (KeyboardInterrupt, None)
    )
    with pytest.raises(error, match=match):
        save_result(tmp_path, case, other, record_of(case, other))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_is_open_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, ensemble, other = make_case(), ensemble_of(WHOLE), ensemble_of(HALF)
    save_result(tmp_path, case, ensemble, record_of(case, ensemble))
    real, refused = Path.rename, []

    def rename(source: Path, target: Path) -> Path:
        if source.name == "Case_1_mean.nii.gz" and len(refused) < 2:
            refused.append(source)
            raise PermissionError(13, "Permission denied")
        return real(source, target)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(moves, "_WAITS_S", (0, 0))
    paths = save_result(tmp_path, case, other, record_of(case, other))
    assert len(refused) == 2
    assert nib.load(paths["mask"]).get_fdata().sum() == HALF.sum()
    assert set(tmp_path.iterdir()) == {*paths.values()}


def test_a_page_belongs_to_the_result_and_is_named_by_its_record(tmp_path: Path) -> None:
    case, ensemble = make_case(), ensemble_of(WHOLE)
    paths = save_result(tmp_path, case, ensemble, record_of(case, ensemble), report="<p>\udcff</p>")
    assert paths["report"].read_text(encoding="utf-8") == "<p>\\udcff</p>"
    named = json.loads(paths["diffseg"].read_text(encoding="utf-8"))["files"]
    assert named["report"] == "Case_1_report.html"


def test_source_files_are_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "Case_1_mask.nii.gz"
    source.write_bytes(b"precious")
    case = make_case()
    case = replace(case, files=replace(case.files, modalities={"t1": source}))
    ensemble = ensemble_of(WHOLE)
    out = tmp_path / "elsewhere" / ".."  # the same folder by another name
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DiffsegError, match="is a file of the case itself"):
        save_result(out, case, ensemble, record_of(case, ensemble))
    assert source.read_bytes() == b"precious"


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    case, ensemble = make_case(), ensemble_of(WHOLE)
    with pytest.raises(DiffsegError, match=r"file.* cannot be made"):
        save_result(tmp_path / "file" / "out", case, ensemble, record_of(case, ensemble))
