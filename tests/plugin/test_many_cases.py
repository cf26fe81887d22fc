"""Many cases: which to look at, which were drawn differently, a table of all, and closing one."""

from __future__ import annotations

import csv
import gc
import json
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg._settings import DEFAULTS
from napari_diffseg._widgets import case_closer, case_folder, case_table, exporter
from napari_diffseg._widgets.case_folder import LEAVE, REPLACE, STOP
from napari_diffseg._widgets.found import Found, Wanted, is_to_do
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.resume import DrawKey
from tests.models import tiny_model
from tests.plugin.conftest import Desk, SlowMotion, write_synthetic

RESULTS = "diffseg_results"
NAMES = ("Case_001", "Case_002", "Case_003")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Give a folder with three cases."""
    folder = tmp_path / "cohort"
    for seed, name in enumerate(NAMES):
        write_synthetic(folder, name, seed=seed)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answer questions with "answer", and note what was asked in "texts"."""
    noted: dict[str, Any] = {"answer": "", "texts": []}

    def answer(_: object, text: str, *choices: str) -> str:
        noted["texts"].append(text)
        assert noted["answer"] in ("", *choices)
        return str(noted["answer"])

    for module in (case_closer, case_folder):
        monkeypatch.setattr(module, "ask", answer)
    return noted


def open_folder(desk: Desk, folder: Path, n_samples: int = 2) -> None:
    """Open a folder as the button does, and wait for its first case."""
    desk.widget.parameters.n_samples.setValue(n_samples)
    desk.widget._desk._opener.open_paths(str(folder))
    desk.wait(lambda: desk.widget.case_list.tree.topLevelItemCount() == len(NAMES))
    desk.wait(lambda: not desk.widget._desk.is_opening and desk.widget._desk.current is not None)


def run_all(desk: Desk) -> None:
    desk.click(desk.widget.case_list.run_button)
    desk.wait(lambda: desk.widget.case_list.run_button.text() == "Run all")


def column(desk: Desk, number: int) -> list[str]:
    tree = desk.widget.case_list.tree
    return [tree.topLevelItem(i).text(number) for i in range(tree.topLevelItemCount())]


def read_record(cohort: Path, name: str) -> dict[str, Any]:
    path = cohort / RESULTS / f"{name}_diffseg.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def change_record(cohort: Path, name: str, **values: Any) -> None:
    path = cohort / RESULTS / f"{name}_diffseg.json"
    path.write_text(json.dumps(read_record(cohort, name) | values), encoding="utf-8")


def load_two(path: Path | None) -> LoadedModel:
    """Load the tiny model, or, of a file, another one."""
    return tiny_model() if path is None else replace(tiny_model(seed=1), sha256="1" * 64)


def test_the_list_has_volumes_and_marks_and_is_ordered_by_confidence(
    make_desk: Callable[..., Desk], cohort: Path
) -> None:
    first = make_desk()
    open_folder(first, cohort)
    run_all(first)
    sure = {"confidence": 0.95, "verdict": {"text": "Fine.", "is_warning": False}}
    unsure = {"confidence": 0.3, "verdict": {"text": "Do not rely on it.", "is_warning": True}}
    change_record(cohort, "Case_001", **sure)
    change_record(cohort, "Case_002", **unsure)
    (cohort / RESULTS / "Case_003_diffseg.json").unlink()

    desk = make_desk()
    open_folder(desk, cohort)
    volume = read_record(cohort, "Case_002")["volume"]
    assert column(desk, 2)[1:] == [f"{volume['mask_ml']:.2f}", ""]
    assert column(desk, 3)[1:] == [f"{volume['low_ml']:.2f}–{volume['high_ml']:.2f}", ""]
    likely = f"likely {volume['likely_low_ml']:.2f}–{volume['likely_high_ml']:.2f} mL"
    tree, case_list = desk.widget.case_list.tree, desk.widget.case_list
    marks = [tree.topLevelItem(i) for i in range(3)]
    assert [item.icon(4).isNull() for item in marks] == [True, False, True]
    assert "Do not rely on it." in marks[1].toolTip(4)
    assert likely in marks[1].toolTip(2)
    case_list.unsure_first.click()
    assert column(desk, 0) == ["Case_002", "Case_001", "Case_003"]
    assert tree.currentItem().text(0) == "Case_001"  # still the one on screen
    assert not tree.topLevelItem(0).icon(4).isNull()
    assert tree.topLevelItem(1).icon(4).isNull()
    desk.click(case_list.previous)  # in the order that is seen
    desk.wait(lambda: desk.widget._desk.current.name == "Case_002")
    case_list.unsure_first.click()
    assert column(desk, 0) == list(NAMES)


def test_the_table_of_the_listed_cases_is_saved(
    desk: Desk, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder(desk, cohort)
    assert not desk.widget.case_list.table_button.isEnabled()
    run_all(desk)
    proposed: list[str] = []

    def choose(_: object, start: str) -> str:
        proposed.append(start)
        return str(tmp_path / "table")

    monkeypatch.setattr(case_table, "ask_table", choose)
    desk.click(desk.widget.case_list.table_button)
    desk.wait(lambda: "table of 3 cases" in desk.widget.run.message.text())
    assert proposed == [str(cohort / RESULTS / "summary.csv")]
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == list(NAMES)


def test_results_of_another_model_are_replaced_only_if_the_user_says_so(
    make_desk: Callable[..., Desk], cohort: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    desk = make_desk(load_model=load_two)
    open_folder(desk, cohort)
    run_all(desk)
    change_record(cohort, "Case_003", edited=read_record(cohort, "Case_003")["maps"])
    written = {name: read_record(cohort, name) for name in NAMES}
    own = tmp_path / "own.safetensors"
    own.touch()
    desk.widget.model.set_path(own)
    for answer in ("", LEAVE):
        asked["answer"] = answer
        run_all(desk)
        assert {name: read_record(cohort, name) for name in NAMES} == written
    assert column(desk, 1) == ["other model"] * 2 + ["edited, 2 samples"]
    assert "2 samples, drawn by another model (tiny)" in desk.widget.case_list.tree.topLevelItem(
        0
    ).toolTip(1)
    assert all(text.startswith("2 cases have results that were") for text in asked["texts"])
    assert len(asked["texts"]) == 2
    asked["answer"] = REPLACE
    run_all(desk)
    shas = [read_record(cohort, name)["run"]["model"]["sha256"][0] for name in NAMES]
    assert shas == ["1", "1", "0"]
    assert column(desk, 1) == ["done, 2 samples"] * 2 + ["edited, 2 samples"]


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_mask_edited_in_another_program_is_left_alone_whatever_is_drawn_anew(
    desk: Desk, cohort: Path, asked: dict[str, Any], keeps_time: bool
) -> None:
    open_folder(desk, cohort)
    run_all(desk)
    mask = cohort / RESULTS / "Case_001_mask.nii.gz"
    image: Any = nib.load(mask)
    painted = np.asarray(image.dataobj).copy()
    painted[0, 0, 0] = 1 - painted[0, 0, 0]
    nib.save(nib.Nifti1Image(painted, image.affine), mask)
    if keeps_time:
        os.utime(mask, ns=(0, 0))
    before = mask.read_bytes()
    desk.widget.parameters.seed.setValue(5)
    asked["answer"] = REPLACE
    run_all(desk)
    assert mask.read_bytes() == before
    state = "problem" if keeps_time else "edited, 2 samples"  # the list does not read every mask
    assert column(desk, 1) == [state, "done, 2 samples", "done, 2 samples"]
    if keeps_time:
        tip = desk.widget.case_list.tree.topLevelItem(0).toolTip(1)
        assert "edited in another program" in tip


def test_images_that_were_changed_in_their_place_are_not_taken_for_done(
    desk: Desk, cohort: Path, asked: dict[str, Any]
) -> None:
    open_folder(desk, cohort)
    run_all(desk)
    write_synthetic(cohort, "Case_002", seed=9)
    desk.widget._folder.queue.look_again()
    assert column(desk, 1) == ["done, 2 samples", "other images", "done, 2 samples"]
    tip = desk.widget.case_list.tree.topLevelItem(1).toolTip(1)
    assert "is of images that have been changed since" in tip
    before = read_record(cohort, "Case_002")["case"]["sha256"]
    asked["answer"] = REPLACE
    run_all(desk)
    assert column(desk, 1) == ["done, 2 samples"] * 3
    assert read_record(cohort, "Case_002")["case"]["sha256"] != before


@pytest.mark.parametrize(("box", "value"), [("seed", 3), ("n_steps", 2), ("sampler", 1)])
def test_results_of_other_settings_are_not_taken_for_done(
    desk: Desk, cohort: Path, asked: dict[str, Any], box: str, value: int
) -> None:
    open_folder(desk, cohort)
    run_all(desk)
    control = getattr(desk.widget.parameters, box)
    choose = control.setCurrentIndex if box == "sampler" else control.setValue
    before = control.currentIndex() if box == "sampler" else control.value()
    choose(value + (box == "sampler"))  # its second entry is what the model recommends
    assert column(desk, 1) == ["other settings"] * 3
    tooltip = desk.widget.case_list.tree.topLevelItem(0).toolTip(1)
    drawn = {"seed": "seed 0", "n_steps": "3 steps", "sampler": "sampler ddpm"}[box]
    assert f"than those below: {drawn}. Run all" in tooltip
    assert desk.widget.case_list.button.text() == "Cases (0 of 3 done)"
    choose(before)
    assert column(desk, 1) == ["done, 2 samples"] * 3
    assert not asked["texts"]


def test_what_the_user_lets_be_replaced_is_that_very_result() -> None:
    wanted = Wanted(n_samples=5, drawing=DrawKey(model_sha256="1", seed=0))
    agreed = Found(5, drawing=DrawKey(model_sha256="0", seed=0))
    assert not is_to_do(agreed, wanted)
    assert is_to_do(agreed, wanted, may_replace=agreed)
    assert not is_to_do(replace(agreed, n_members=7), wanted, may_replace=agreed)  # saved since
    assert not is_to_do(replace(agreed, is_edited=True), wanted, may_replace=agreed)
    assert is_to_do(replace(agreed, is_whole=False), wanted)  # of some slices only
    not_known = replace(wanted, drawing=DrawKey(seed=0))  # the model is not loaded
    assert not is_to_do(agreed, not_known)
    assert is_to_do(replace(agreed, n_members=4), not_known)


def test_the_queue_stops_when_stable_and_finds_it_done(
    make_desk: Callable[..., Desk], cohort: Path
) -> None:
    desk = make_desk()
    open_folder(desk, cohort, n_samples=6)
    parameters = desk.widget.parameters
    parameters.stop.setChecked(True)
    parameters.tolerance.setRange(0, 100)
    parameters.tolerance.setValue(100)  # the masks of the tiny model are arbitrary
    parameters.tolerance.setValue(99)
    desk.widget.ensemble.threshold.setValue(30)
    run_all(desk)
    stopping = read_record(cohort, "Case_002")["run"]["stopping"]
    assert (stopping["threshold"], stopping["of"]) == (0.3, "probabilities")  # of what is saved
    assert (stopping["stable_with"], stopping["max_samples"]) == (3, 6)
    assert column(desk, 1) == ["done, 3 samples"] * 3
    path = cohort / RESULTS / "Case_002_diffseg.json"
    written = path.stat().st_mtime_ns
    run_all(desk)
    assert path.stat().st_mtime_ns == written
    desk.widget.ensemble.threshold.setValue(60)  # another mask, which has not been watched
    assert column(desk, 1) == ["3 samples"] * 3
    run_all(desk)
    assert read_record(cohort, "Case_002")["run"]["stopping"]["threshold"] == 0.6
    parameters.stop.setChecked(False)
    assert column(desk, 1) == ["3 samples"] * 3  # now all six are wanted


def test_a_result_that_is_saved_by_hand_is_in_the_list_at_once(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder(desk, cohort)
    desk.widget.parameters.whole_volume.setChecked(True)
    desk.segment()
    for chosen in (cohort.parent / "elsewhere", cohort / RESULTS):
        assert column(desk, 1) == ["not run"] * 3
        monkeypatch.setattr(exporter, "ask_folder", lambda *_, chosen=chosen: str(chosen))
        desk.click(desk.widget.export.save_button)
        desk.wait(desk.widget.export.save_button.isEnabled)
        assert str(chosen) in desk.widget.export.status.full_text()
    assert column(desk, 1) == ["done, 2 samples", "not run", "not run"]


def test_looking_at_a_saved_result_does_not_change_what_the_queue_draws(
    make_desk: Callable[..., Desk], cohort: Path
) -> None:
    first = make_desk()
    open_folder(first, cohort)
    first.widget.ensemble.set_threshold(0.3)
    run_all(first)
    for name in NAMES[1:]:
        for path in (cohort / RESULTS).glob(f"{name}_*"):
            path.unlink()

    desk = make_desk()
    open_folder(desk, cohort, n_samples=3)
    desk.wait(lambda: "mask" in desk.roles)  # the first one opens by itself
    assert desk.widget.ensemble.view().threshold == 0.3
    assert desk.widget.parameters.n_samples.value() == 3
    desk.wait(lambda: desk.widget.run.button.text() == "Add 1 sample")
    desk.widget.ensemble.members.setValue(1)
    run_all(desk)
    maps = read_record(cohort, "Case_002")["maps"]
    assert (maps["n_members"], maps["threshold"]) == (3, 0.5)


def test_another_folder_does_not_stop_the_queue_without_a_question(
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    cohort: Path,
    tmp_path: Path,
    asked: dict[str, Any],
) -> None:
    other = tmp_path / "other"
    for number in (7, 8, 9):
        write_synthetic(other, f"Case_00{number}", seed=number)
    desk = make_desk(slow_motion)
    open_folder(desk, cohort)
    desk.click(desk.widget.case_list.run_button)
    queue = desk.widget._folder.queue
    for folder, answer, names in (
        (cohort, "", NAMES),  # the same one: nothing is asked
        (other, "", NAMES),
        (other, STOP, ("Case_007", "Case_008", "Case_009")),
    ):
        asked["answer"] = answer
        desk.widget._desk._opener.open_paths(str(folder))
        desk.wait(lambda: not desk.widget._desk.is_opening)
        desk.wait(lambda: desk.widget._folder._looking is None)
        assert column(desk, 0) == list(names)
        assert queue.is_running == (answer != STOP)
        # The first case of another folder opens by itself.
        desk.wait(lambda: not desk.widget.run.status.full_text().startswith("Reading"))
    assert len(asked["texts"]) == 2
    assert str(cohort) in asked["texts"][0]


def test_a_folder_with_the_current_case_leaves_nothing_to_be_read(desk: Desk, cohort: Path) -> None:
    desk.open(cohort / "Case_002")
    open_folder(desk, cohort)
    assert desk.widget.case_list.tree.currentItem().text(0) == "Case_002"
    assert not desk.widget.run.status.full_text().startswith("Reading")


def test_a_case_is_closed_from_the_menu_and_let_go(
    desk: Desk, tmp_path: Path, asked: dict[str, Any]
) -> None:
    close = desk.widget.cases.close_action
    assert not close.isEnabled()
    desk.open(write_synthetic(tmp_path, "Case_001"))
    desk.open(write_synthetic(tmp_path, "Case_002"))
    close.trigger()  # nothing was drawn: nothing is asked
    assert [case.name for case in desk.widget._desk._cases] == ["Case_001"]
    desk.segment()
    run = weakref.ref(desk.widget._runner.find_run(desk.widget._desk.current))
    close.trigger()
    assert desk.widget._desk.current is not None
    assert asked["texts"] == [
        "Close Case_001? Samples and edits of it that you have not saved are lost."
    ]
    asked["answer"] = case_closer.CLOSE
    close.trigger()
    assert not desk.viewer.layers
    assert desk.widget._desk.current is None
    assert desk.widget.run.state == "no case"

    def is_gone() -> bool:
        gc.collect()
        return run() is None

    desk.wait(is_gone)


def test_results_of_another_study_with_the_same_names_are_left_alone(
    make_desk: Callable[..., Desk],
    cohort: Path,
    tmp_path: Path,
    asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = tmp_path / "all results"
    settings = replace(DEFAULTS, results_folder=results)
    monkeypatch.setattr(case_folder, "read_settings", lambda: settings)
    first = make_desk()
    open_folder(first, cohort)
    run_all(first)
    before = {path: path.read_bytes() for path in results.iterdir()}
    other = tmp_path / "other study"
    for seed, name in enumerate(NAMES):
        write_synthetic(other, name, seed=10 + seed)

    desk = make_desk()
    open_folder(desk, other)
    assert column(desk, 1) == ["other images"] * 3
    assert column(desk, 2) == [""] * 3  # no volume of another patient
    tip = desk.widget.case_list.tree.topLevelItem(0).toolTip(1)
    assert str(cohort / "Case_001" / "Case_001_") in tip
    assert desk.widget._desk.current.files.modalities["t1"].is_relative_to(other)
    assert "mask" not in desk.roles

    asked["answer"] = LEAVE
    run_all(desk)
    assert "of other images (3)" in asked["texts"][-1]
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    assert not desk.widget.case_list.table_button.isEnabled()

    asked["answer"] = REPLACE
    run_all(desk)
    assert column(desk, 1) == ["done, 2 samples"] * 3
    last = results / "Case_003_diffseg.json"
    last.write_bytes(before[last])  # as if study A was run again
    desk.widget._folder.queue.look_again()
    assert column(desk, 1)[2] == "other images"
    edited = json.loads(before[last]) | {"edited": {"by": "hand"}}
    last.write_text(json.dumps(edited), encoding="utf-8")
    desk.widget._folder.queue.look_again()
    tip = desk.widget.case_list.tree.topLevelItem(2).toolTip(1)
    assert "It was edited, so Run all leaves it alone" in tip
    table = tmp_path / "table.csv"
    monkeypatch.setattr(case_table, "ask_table", lambda *_: str(table))
    desk.click(desk.widget.case_list.table_button)
    desk.wait(lambda: "The table of 2 cases" in desk.widget.run.message.text())
    assert "saved as Case_003 is of other images" in desk.widget.run.message.text()
    assert "Case_003" not in table.read_text(encoding="utf-8")


def test_a_folder_that_was_moved_with_its_results_is_there_as_before(
    make_desk: Callable[..., Desk], cohort: Path, tmp_path: Path
) -> None:
    first = make_desk()
    open_folder(first, cohort)
    run_all(first)
    moved = tmp_path / "elsewhere" / "study"
    moved.parent.mkdir()
    cohort.rename(moved)
    desk = make_desk()
    open_folder(desk, moved)
    assert column(desk, 1) == ["done, 2 samples"] * 3
    assert len(desk.layer("samples").data) == 2
    desk.click(desk.widget.case_list.next)
    desk.wait(lambda: desk.widget._desk.current.name == "Case_002")
    assert desk.widget._desk.current.files.modalities["t1"].is_relative_to(moved)


def test_of_a_result_that_cannot_be_read_at_least_the_images_open(
    make_desk: Callable[..., Desk], cohort: Path
) -> None:
    first = make_desk()
    open_folder(first, cohort)
    run_all(first)
    for name in ("Case_001_samples.nii.gz", "Case_001_mean.nii.gz"):
        (cohort / RESULTS / name).write_bytes(b"no image")
    desk = make_desk()
    open_folder(desk, cohort)
    desk.wait(lambda: desk.widget._desk.current is not None)
    assert desk.widget._desk.current.name == "Case_001"
    assert "mask" not in desk.roles
    assert "Case_001_samples.nii.gz" in desk.widget.run.message.text()
