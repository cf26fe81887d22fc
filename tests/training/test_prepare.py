from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core.brats import discover_cases, load_case
from napari_diffseg.core.errors import CaseError, DiffsegError
from napari_diffseg.core.preprocessing import (
    PAPER_PREPROCESSING,
    PreprocessingConfig,
    prepare_case,
)
from tests.core.synthetic import synthetic_case
from tests.training.tiny import TRAINING, TinyData, tiny_config, write, write_tiny_case
from training import prepare
from training.cache_index import INDEX_NAME, CachedCase, read_index
from training.config import format_config
from training.files import locked
from training.prepare import main, prepare_cache
from training.slices import fit_window, prepare_training_slices

CONFIG = tiny_config().preprocessing


def refresh(
    cases: Path, out: Path, config: PreprocessingConfig = CONFIG, *, replace_others: bool = False
) -> dict[str, bool | str]:
    """Bring a cache up to date; return for each case whether it was done anew, or its error."""
    done: dict[str, bool | str] = {}
    prepare_cache(
        discover_cases(cases),
        out,
        config,
        1,
        lambda files, result, fresh: done.update(
            {files.name: fresh if isinstance(result, CachedCase) else result}
        ),
        replace_others=replace_others,
    )
    return done


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    for seed, name in enumerate(("A_1", "A_2")):
        write_tiny_case(tmp_path / "cases", name, seed)
    return tmp_path / "cases"


def test_cache_holds_what_inference_sees(tiny_data: TinyData) -> None:
    case = load_case(tiny_data.cases / TRAINING[0])
    prepared = prepare_case(case, CONFIG)
    images = np.load(tiny_data.cache / f"{TRAINING[0]}.images.npy")
    masks = np.load(tiny_data.cache / f"{TRAINING[0]}.masks.npy")
    assert (images.dtype, masks.dtype) == (np.uint8, np.uint8)
    np.testing.assert_allclose(images / 255.0, prepared.slices, atol=0.5 / 255.0 + 1e-6)
    assert case.wt_truth is not None
    restored = prepared.window.restore(masks.astype(np.float32)) > 0.5
    assert np.array_equal(restored, case.wt_truth[prepared.z_indices])


def test_slice_numbers_are_those_of_the_file(tiny_data: TinyData) -> None:
    masks = np.load(tiny_data.cache / f"{TRAINING[0]}.masks.npy")
    numbers = np.load(tiny_data.cache / f"{TRAINING[0]}.slices.npy")
    assert numbers.dtype == np.int64
    path = tiny_data.cases / TRAINING[0] / f"{TRAINING[0]}_seg.nii.gz"
    labels = np.asarray(nib.load(path).dataobj)
    for mask, number in zip(masks, numbers, strict=True):
        assert mask.sum() == (labels[..., number] > 0).sum()


def test_second_time_nothing_is_done(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    assert refresh(cases, out) == {"A_1": True, "A_2": True}
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert len(before) == 8
    assert refresh(cases, out) == {"A_1": False, "A_2": False}
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.npy")} == before


def test_older_cache_gets_the_shares_of_its_slices(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    refresh(cases, out)
    shares = out / "A_1.content.npy"
    intact = shares.read_bytes()
    os.utime(shares, (1, 1))  # of other arrays, for all we know
    (out / "A_2.content.npy").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.images.npy")}
    assert refresh(cases, out) == {"A_1": False, "A_2": False}
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.images.npy")} == before
    assert shares.read_bytes() == intact
    assert shares.stat().st_mtime > 1
    assert (out / "A_2.content.npy").exists()


def test_changed_file_is_done_again_and_a_touched_one_is_not(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    refresh(cases, out)
    os.utime(cases / "A_1" / "A_1_t2.nii.gz", (1, 1))
    assert refresh(cases, out) == {"A_1": False, "A_2": False}
    image = np.asarray(nib.load(cases / "A_1" / "A_1_t2.nii.gz").dataobj)
    write(cases / "A_1" / "A_1_t2.nii.gz", image[::-1])
    before = np.load(out / "A_1.images.npy")
    assert refresh(cases, out) == {"A_1": True, "A_2": False}
    assert not np.array_equal(np.load(out / "A_1.images.npy"), before)


def test_cache_of_other_settings_is_only_given_up_on_request(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    refresh(cases, out)
    wider = PreprocessingConfig(window=(64, 48), stride=16)
    with pytest.raises(CaseError, match=r"2 cases .* other settings \(window .*--replace"):
        refresh(cases, out, wider)
    assert refresh(cases, out) == {"A_1": False, "A_2": False}
    assert refresh(cases, out, wider, replace_others=True) == {"A_1": True, "A_2": True}
    assert np.load(out / "A_1.masks.npy").shape[1:] == (64, 48)
    index = read_index(out)
    assert index is not None
    assert index.preprocessing == wider


@pytest.mark.parametrize("damage", ["gone", "cut off", "other shape", "other type"])
def test_damaged_cache_is_mended(cases: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "cache"
    refresh(cases, out)
    path = out / "A_1.masks.npy"
    intact = path.read_bytes()
    masks = np.load(path)
    match damage:
        case "gone":
            path.unlink()
        case "cut off":
            path.write_bytes(intact[:200])
        case "other shape":
            np.save(path, masks[:-1])
        case _:
            np.save(path, masks.astype(np.float32))
    assert refresh(cases, out) == {"A_1": True, "A_2": False}
    assert path.read_bytes() == intact


def test_thick_slices_have_nearer_neighbours(cases: Path, tmp_path: Path) -> None:
    for path in (cases / "A_1").iterdir():
        image = nib.load(path)
        image.header.set_zooms((1.0, 1.0, 2.0))
        image.affine[2, 2] = 2.0
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)
    out = tmp_path / "cache"
    refresh(cases, out)
    index = read_index(out)
    assert index is not None
    assert index.context_of(["A_1", "A_2"]) == {"A_1": (-1, 1), "A_2": (-2, 2)}


def test_two_processes_do_not_prepare_into_one_cache(cases: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no lock on Windows")
    out = tmp_path / "cache"
    out.mkdir()
    with (
        locked(out, "preparing cases"),
        pytest.raises(DiffsegError, match="Another process is preparing cases in"),
    ):
        refresh(cases, out)
    assert refresh(cases, out) == {"A_1": True, "A_2": True}


def test_what_was_prepared_before_an_interrupt_is_listed(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepare.prepare_training_slices
    monkeypatch.setattr(
        prepare,
        "prepare_training_slices",
        lambda case, config: interrupt() if case.name == "A_2" else real(case, config),
    )
    with pytest.raises(KeyboardInterrupt):
        refresh(cases, tmp_path / "cache")
    index = read_index(tmp_path / "cache")
    assert index is not None
    assert [*index.cases] == ["A_1"]


def test_interrupted_case_is_not_listed(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cache"
    refresh(cases, out)
    monkeypatch.setattr("training.prepare.prepare_training_slices", interrupt)
    wider = PreprocessingConfig(window=(64, 48), stride=16)
    with pytest.raises(KeyboardInterrupt):
        refresh(cases, out, wider, replace_others=True)
    index = read_index(out)
    assert index is not None
    assert not index.cases


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_bad_cases_are_reported_and_the_others_go_on(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_case(cases, "B_unlabelled", 3, labels=False)
    write_tiny_case(cases, "C_damaged", 4)
    damaged = cases / "C_damaged" / "C_damaged_t1.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    write_tiny_case(cases, "D_incomplete", 5)
    (cases / "D_incomplete" / "D_incomplete_flair.nii.gz").unlink()
    config = tmp_path / "tiny.toml"
    config.write_text("[preprocessing]\nwindow = [64, 64]\nstride = 32\n", encoding="utf-8")
    out = tmp_path / "cache"
    arguments = [str(cases), str(out), "--workers", "1", "--config", str(config)]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "FAILED B_unlabelled: there is no label file" in printed.err
    assert "C_damaged_t1.nii.gz" in printed.err
    assert "FAILED D_incomplete" in printed.err
    assert "2 cases (2 new, 0 unchanged, 3 failed)" in printed.out
    index = read_index(out)
    assert index is not None
    assert set(index.cases) == {"A_1", "A_2"}


def test_processes_do_the_same(cases: Path, tmp_path: Path) -> None:
    refresh(cases, tmp_path / "one")
    config = tmp_path / "tiny.toml"
    config.write_text(format_config(tiny_config()), encoding="utf-8")
    arguments = [str(cases), str(tmp_path / "two"), "--workers", "2", "--config", str(config)]
    assert main(arguments) == 0
    for path in (tmp_path / "one").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    one, two = ((tmp_path / name / INDEX_NAME).read_text("utf-8") for name in ("one", "two"))
    assert one == two


def test_second_case_of_one_name_is_left_out(cases: Path, tmp_path: Path) -> None:
    write_tiny_case(cases / "again", "A_1", 7)
    reports: list[tuple[str, bool]] = []
    prepare_cache(
        discover_cases(cases),
        tmp_path / "cache",
        CONFIG,
        1,
        lambda files, result, _: reports.append((files.name, isinstance(result, CachedCase))),
    )
    assert sorted(reports) == [("A_1", False), ("A_1", True), ("A_2", True)]


def test_folder_without_cases_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds no BraTS case" in capsys.readouterr().err


def test_brain_larger_than_the_window_is_cut_in_the_middle() -> None:
    case = synthetic_case((12, 60, 36))
    small = PreprocessingConfig(window=(32, 32), stride=16)
    slices = prepare_training_slices(case, small)
    prepared = prepare_case(case, small)
    assert prepared.window.shape == (48, 32)
    assert slices.images.shape[1:] == (4, 32, 32)
    expected = np.round(prepared.slices[:, :, 8:40] * 255.0)
    assert np.array_equal(slices.images, expected)
    assert "window of 48x32" in slices.messages[0]


def test_tumour_outside_of_the_window_is_told() -> None:
    case = synthetic_case((12, 60, 60))
    slices = prepare_training_slices(case, PreprocessingConfig(window=(16, 16), stride=16))
    assert any("% of the tumour is outside" in message for message in slices.messages)


def test_ordinary_case_needs_no_message() -> None:
    assert not prepare_training_slices(synthetic_case(), CONFIG).messages


def test_case_without_labels_cannot_be_trained_on() -> None:
    case = synthetic_case()
    object.__setattr__(case, "wt_truth", None)
    with pytest.raises(CaseError, match="no label file"):
        prepare_training_slices(case, CONFIG)


def test_fit_window_cuts_and_pads_around_the_middle() -> None:
    stack = np.arange(1, 13, dtype=np.float32).reshape(1, 2, 6)
    fitted = fit_window(stack, (4, 2))
    assert fitted.tolist() == [[[0, 0], [3, 4], [9, 10], [0, 0]]]
    assert np.array_equal(fit_window(stack, (2, 6)), stack)


def test_real_case_in_the_papers_window(brats_data: Path) -> None:
    folder = brats_data / "original" / "BraTS2021_00006"
    slices = prepare_training_slices(load_case(folder), PAPER_PREPROCESSING)
    assert slices.images.shape[1:] == (4, 224, 224)
    assert not slices.messages
    (path,) = folder.glob("*seg.nii.gz")
    labels = np.asarray(nib.load(path).dataobj)
    areas = (labels > 0).sum((0, 1))
    assert np.array_equal(slices.masks.sum((1, 2)), areas[slices.slices])
