"""Which saved members a run would draw again: those of the same key, whole, from the first on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_diffseg.core.brats import Case, CaseFiles
from napari_diffseg.core.case_files import find_last_change, hash_images
from napari_diffseg.core.describe import describe_model, describe_result, describe_run
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.events import Started
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.record import MemberRecord, ResultRecord
from napari_diffseg.core.resume import count_drawn, find_wanted_key, is_changed, is_of_images
from tests.models import tiny_model

SHAPE = (3, 4, 4)
MODEL = tiny_model()
PARAMS = SegmentParams(n_samples=3, sampler="ddim", eta=0.5, seed=4)
KEY = find_wanted_key(PARAMS, MODEL)


def make_record(files: CaseFiles | None = None, judged: np.ndarray | None = None) -> ResultRecord:
    """Return the record of a run with PARAMS over all slices."""
    case = Case(
        name="Case_1",
        files=files or CaseFiles("Case_1", "brats2017", {}),
        prior_image=np.zeros((4, *SHAPE), np.float32),
        wt_truth=None,
        labels=None,
        geometry=Geometry.from_affine(SHAPE[::-1], np.diag([-1.0, -1, 1, 1])),
    )
    ensemble = Ensemble(PARAMS.n_samples, SHAPE)
    for member in range(PARAMS.n_samples):
        for z in range(SHAPE[0]):
            ensemble.add(member, z, np.full(SHAPE[1:], 200, np.uint8))
    started = Started((0, 1, 2), (0, 1, 2), 3, "cpu", 1, 27)
    run = describe_run(describe_model(MODEL), PARAMS, started, 1.0)
    return describe_result(case, ensemble, run, judged=judged)


def test_members_of_the_same_run_count() -> None:
    assert count_drawn(make_record(), KEY) == 3
    # What is left to the model's card is what the card says.
    assert count_drawn(make_record(), find_wanted_key(replace(PARAMS, n_steps=3), MODEL)) == 3
    # Where eta has no effect it makes no difference.
    ddpm = replace(PARAMS, sampler="ddpm")
    assert find_wanted_key(ddpm, MODEL) == find_wanted_key(replace(ddpm, eta=1.0), MODEL)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "ddpm"},
        {"n_steps": 2},
        {"eta": 0.0},
        {"seed": 5},
        {"mirror": True},
        {"vary_contrast": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_members_of_other_parameters_do_not_count(changes: dict[str, object]) -> None:
    wanted = replace(PARAMS, **changes)  # type: ignore[arg-type]
    assert count_drawn(make_record(), find_wanted_key(wanted, MODEL)) == 0


def test_members_of_another_model_do_not_count() -> None:
    other = replace(MODEL, sha256="1" * 64)
    assert count_drawn(make_record(), find_wanted_key(PARAMS, other)) == 0


def test_members_that_are_not_whole_do_not_count() -> None:
    record = make_record()
    parts = (*record.members[:2], MemberRecord(((0, 1),)))
    assert count_drawn(replace(record, members=parts), KEY) == 2
    added = replace(record, run=replace(record.run, first_member=3))
    assert count_drawn(added, KEY) == 0
    stopped = make_record(judged=np.array([True, True, False]))
    assert count_drawn(stopped, KEY) == 0


def test_members_that_the_maps_are_not_made_of_do_not_count() -> None:
    record = make_record()
    fewer = replace(record, maps=replace(record.maps, n_members=2))
    assert count_drawn(fewer, KEY) == 2


def test_records_of_the_first_version_count() -> None:
    record = make_record()
    maps = replace(record.maps, judged_slices=())
    assert count_drawn(replace(record, schema_version=1, members=(), maps=maps), KEY) == 3


def name_files(folder: Path, case: str = "Case_1") -> CaseFiles:
    modalities = {name: folder / case / f"{case}_{name}.nii.gz" for name in ("t1", "flair")}
    return CaseFiles(case, "brats2017", modalities)


def record_files(files: CaseFiles) -> dict[str, str]:
    return make_record(files).case.files


def test_a_result_of_other_files_is_told_by_their_paths(tmp_path: Path) -> None:
    here, there = name_files(tmp_path / "a"), name_files(tmp_path / "b")
    roundabout = name_files(tmp_path / "x" / ".." / "a")
    results = tmp_path / "results"
    assert is_of_images(record_files(here), here, results)
    assert is_of_images(record_files(here), roundabout, results)
    # Another study has a case of this name, and results of both go into one folder.
    assert not is_of_images(record_files(here), there, results)
    assert not is_of_images(record_files(here), name_files(tmp_path / "a", "Case_2"), results)


def test_images_that_were_moved_with_their_result_are_the_same(tmp_path: Path) -> None:
    recorded = record_files(name_files(tmp_path / "study"))
    moved = name_files(tmp_path / "elsewhere" / "study_2")
    assert is_of_images(recorded, moved, tmp_path / "elsewhere/study_2/results")
    assert is_of_images(recorded, moved, tmp_path / "elsewhere/study_2/Case_1")
    assert is_of_images(recorded, moved, tmp_path / "x/../elsewhere/study_2/results")
    assert is_of_images(recorded, moved, tmp_path / "elsewhere/study_2/derivatives/diffseg")
    assert not is_of_images(recorded, moved, tmp_path / "results")
    assert not is_of_images(recorded, moved, tmp_path / "elsewhere" / "results")
    fewer = {"t1": recorded["t1"]}
    assert not is_of_images(fewer, moved, tmp_path / "elsewhere/study_2/results")
    drive = {name: f"D:\\study\\Case_1\\Case_1_{name}.nii.gz" for name in ("t1", "flair")}
    assert is_of_images(drive, moved, tmp_path / "elsewhere/study_2/results")


def test_images_of_another_study_that_are_still_there_are_others(tmp_path: Path) -> None:
    here, there = name_files(tmp_path / "a"), name_files(tmp_path / "b")
    for files, content in ((here, b"one"), (there, b"two")):
        for path in files.modalities.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    # Both studies were saved in a folder of the first one.
    assert not is_of_images(record_files(there), here, tmp_path / "a" / "results")
    for path in there.modalities.values():
        path.write_bytes(b"one")  # a copy, with its results
    assert is_of_images(record_files(there), here, tmp_path / "a" / "results")


def test_images_that_lie_alike_and_are_known_to_be_others_are_others(tmp_path: Path) -> None:
    here, moved = name_files(tmp_path / "a"), name_files(tmp_path / "b" / "a")
    for path in moved.modalities.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"one")
    results, sha256 = tmp_path / "b" / "a" / "results", hash_images(moved)
    assert is_of_images(record_files(here), moved, results, sha256)
    others = {**sha256, "flair": "0" * 64}
    assert is_of_images(record_files(here), moved, results)
    assert not is_of_images(record_files(here), moved, results, others)
    # Those in their own place may have been changed: that is another question.
    assert is_of_images(record_files(moved), moved, results, others)
    written = find_last_change(moved)
    for other_time in (written - 1, written + 1):  # an older file may have taken its place
        assert is_changed(others, moved, other_time)
        assert not is_changed(sha256, moved, other_time)
    assert not is_changed(others, moved, written)  # not read: nobody has written them
    assert not is_changed({}, moved, written - 1)


def test_links_to_images_are_told_by_where_they_lie(tmp_path: Path) -> None:
    store, study = tmp_path / "store", tmp_path / "study" / "Case_1"
    study.mkdir(parents=True)
    store.mkdir()
    files = name_files(tmp_path / "study")
    for name, path in files.modalities.items():
        (store / name).touch()
        path.symlink_to(store / name)
    recorded = record_files(name_files(tmp_path / "before"))
    assert is_of_images(recorded, files, tmp_path / "study" / "results")
