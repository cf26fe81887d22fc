"""Several cases: the list, going through it, and the queue that works while others are reviewed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_diffseg._widgets.found import find_result
from napari_diffseg.core.brats import Case, CaseFiles
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.events import Event
from napari_diffseg.core.segment import segment
from tests.plugin.conftest import Desk, SlowMotion, write_synthetic

RESULTS = "diffseg_results"


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Give a folder with three cases, the second of which is damaged."""
    folder = tmp_path / "cohort"
    for number in (1, 2, 3):
        write_synthetic(folder, f"Case_00{number}", seed=number)
    next((folder / "Case_002").glob("*_t2.nii*")).write_bytes(b"no image")
    return folder


def open_cohort(desk: Desk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open a folder with the button, and wait for its first case."""
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    desk.click(desk.widget.cases.open_button)
    desk.wait(lambda: desk.widget.case_list.tree.topLevelItemCount() == 3)
    desk.wait(lambda: desk.widget._desk.current is not None)
    desk.widget.parameters.n_samples.setValue(2)


def states(desk: Desk) -> list[str]:
    tree = desk.widget.case_list.tree
    return [tree.topLevelItem(i).text(1) for i in range(tree.topLevelItemCount())]


def current(desk: Desk) -> str:
    case = desk.widget._desk.current
    return "" if case is None else case.name


def wait_for_queue(desk: Desk) -> None:
    desk.wait(lambda: desk.widget.case_list.run_button.text() == "Run all")


def start_queue(
    desk: Desk, slow_motion: SlowMotion, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Run the queue until one sample of the first case is saved; give the record's path."""
    open_cohort(desk, cohort, monkeypatch)
    desk.click(desk.widget.case_list.run_button)
    record = cohort / RESULTS / "Case_001_diffseg.json"
    while not record.exists():
        n_events = len(slow_motion.events)
        slow_motion.go(1)
        desk.wait(lambda n=n_events: len(slow_motion.events) > n or record.exists())
    desk.wait(lambda: desk.widget._folder.queue.entries[0].n_members == 1)
    return record


def test_a_folder_with_several_cases_is_listed_and_its_first_case_opened(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk.widget.case_list.isHidden()
    open_cohort(desk, cohort, monkeypatch)
    assert not desk.widget.case_list.isHidden()
    assert states(desk) == ["not run"] * 3
    assert current(desk) == "Case_001"
    assert desk.widget.case_list.tree.currentItem().text(0) == "Case_001"


def test_next_and_previous_go_through_the_list_and_make_room(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(cohort))
    write_synthetic(cohort, "Case_002", seed=2)  # whole again
    open_cohort(desk, cohort, monkeypatch)
    desk.click(desk.widget.case_list.next)
    desk.wait(lambda: current(desk) == "Case_002")
    desk.wait(lambda: len(desk.roles) == 5)  # nothing was drawn on the first: it is closed
    desk.segment()
    desk.click(desk.widget.case_list.previous)
    desk.wait(lambda: current(desk) == "Case_001")
    assert len(desk.roles) == 5 + 10  # the second has results that are not saved: it stays


def test_the_queue_saves_every_case_and_a_bad_one_does_not_stop_it(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cohort(desk, cohort, monkeypatch)
    layers = list(desk.viewer.layers)
    desk.click(desk.widget.case_list.run_button)
    assert desk.widget.case_list.run_button.text() == "Stop"
    wait_for_queue(desk)
    assert states(desk) == ["done, 2 samples", "problem", "done, 2 samples"]
    tree = desk.widget.case_list.tree
    assert "t2" in tree.topLevelItem(1).toolTip(1)
    assert list(desk.viewer.layers) == layers  # what is on screen is not changed
    record = json.loads((cohort / RESULTS / "Case_003_diffseg.json").read_text())
    assert record["maps"]["n_members"] == 2
    assert record["maps"]["whole_volume"]
    samples = nib.load(cohort / RESULTS / "Case_003_samples.nii.gz")
    assert samples.shape[3] == 2
    assert desk.widget.case_list.button.text() == "Cases (2 of 3 done)"


def test_results_are_found_again_and_not_made_again(
    make_desk: Callable[..., Desk], cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_desk()
    open_cohort(first, cohort, monkeypatch)
    first.click(first.widget.case_list.run_button)
    wait_for_queue(first)
    path = cohort / RESULTS / "Case_001_diffseg.json"
    written = path.stat().st_mtime_ns
    second = make_desk()
    open_cohort(second, cohort, monkeypatch)
    assert states(second) == ["done, 2 samples", "not run", "done, 2 samples"]
    assert second.layer("samples").data.shape[0] == 2  # opened with what was saved of it
    second.click(second.widget.case_list.run_button)
    wait_for_queue(second)
    assert path.stat().st_mtime_ns == written


def test_what_was_saved_since_the_folder_was_listed_is_left_alone(
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    cohort: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk(slow_motion)
    open_cohort(desk, cohort, monkeypatch)
    first, third = (cohort / RESULTS / f"Case_00{k}_diffseg.json" for k in (1, 3))
    first.parent.mkdir()
    maps = {"n_members": 1, "whole_volume": True}
    first.write_text(json.dumps({"maps": maps, "edited": {"by": "hand"}}))
    desk.click(desk.widget.case_list.run_button)
    assert states(desk)[0] == "edited, 1 sample"
    # More samples than the queue would draw, while it is busy with the case before.
    third.write_text(json.dumps({"maps": {"n_members": 20, "whole_volume": True}}))
    written = [path.read_text() for path in (first, third)]
    slow_motion.go()
    wait_for_queue(desk)
    assert states(desk) == ["edited, 1 sample", "problem", "done, 20 samples"]
    assert [path.read_text() for path in (first, third)] == written


def test_what_is_painted_while_the_case_is_running_is_kept(
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    cohort: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk(slow_motion)
    path = start_queue(desk, slow_motion, cohort, monkeypatch)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"edited": {"by": "hand"}}))
    written = path.read_text()
    slow_motion.go()
    wait_for_queue(desk)
    assert states(desk)[0] == "edited, 1 sample"
    assert path.read_text() == written


FILES = CaseFiles("c", "brats2017", {})


def test_samples_of_single_slices_are_none_of_the_whole(tmp_path: Path) -> None:
    maps = {"n_members": 4, "whole_volume": True}
    whole, slice_alone = {"slices": [[0, 11]]}, {"slices": [[5, 5]]}
    record = {"maps": maps, "members": [whole, whole, slice_alone, slice_alone]}
    (tmp_path / "c_diffseg.json").write_text(json.dumps(record))
    assert find_result(tmp_path, FILES).n_whole == 2
    del record["members"]  # as in the first version of the record
    (tmp_path / "c_diffseg.json").write_text(json.dumps(record))
    assert find_result(tmp_path, FILES).n_whole == 4


def test_saved_samples_count_also_if_the_maps_are_made_of_fewer(tmp_path: Path) -> None:
    record = {
        "maps": {"n_members": 3, "whole_volume": True},
        "members": [{"slices": [[0, 11]]}] * 10,
        "files": {"samples": "c_samples.nii.gz"},
    }
    (tmp_path / "c_diffseg.json").write_text(json.dumps(record))
    assert find_result(tmp_path, FILES).n_whole == 10
    record["files"] = {}  # then the others are nowhere
    (tmp_path / "c_diffseg.json").write_text(json.dumps(record))
    assert find_result(tmp_path, FILES).n_whole == 3


def test_a_result_of_some_slices_is_no_finished_case(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cohort / RESULTS).mkdir()
    path = cohort / RESULTS / "Case_003_diffseg.json"
    path.write_text(json.dumps({"maps": {"n_members": 9, "whole_volume": False}}))
    open_cohort(desk, cohort, monkeypatch)
    assert states(desk)[2] == "9 samples, some slices"
    desk.click(desk.widget.case_list.run_button)
    wait_for_queue(desk)
    assert states(desk)[2] == "done, 2 samples"
    assert json.loads(path.read_text())["maps"]["whole_volume"]


def test_a_stopped_queue_keeps_the_samples_that_are_complete(
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    cohort: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk(slow_motion)
    record = start_queue(desk, slow_motion, cohort, monkeypatch)
    desk.click(desk.widget.case_list.run_button)
    slow_motion.go()
    wait_for_queue(desk)
    assert states(desk) == ["1 sample", "not run", "not run"]
    assert json.loads(record.read_text())["maps"]["n_members"] == 1
    assert nib.load(cohort / RESULTS / "Case_001_samples.nii.gz").shape[:3] == (36, 40, 12)


def test_a_run_of_the_user_goes_first_and_the_queue_goes_on(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cohort(desk, cohort, monkeypatch)
    desk.click(desk.widget.case_list.run_button)
    may_go = desk.widget._folder.queue._may_go  # the queue's thread waits for it at every event
    assert may_go.is_set()
    desk.click(desk.widget.run.button)
    assert not may_go.is_set()
    desk.wait_until_ready()
    assert may_go.is_set()
    assert "mean" in desk.roles
    wait_for_queue(desk)
    assert states(desk)[2] == "done, 2 samples"


def test_with_several_devices_the_queue_has_a_network_of_its_own(
    make_desk: Callable[..., Desk], cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[object] = []

    def watched(case: Case, model: LoadedModel, *rest: Any) -> Iterator[Event]:
        networks.append(model.network)
        return segment(case, model, *rest)

    desk = make_desk(watched)
    open_cohort(desk, cohort, monkeypatch)
    monkeypatch.setattr("napari_diffseg.core.segment.has_accelerator", lambda: True)
    desk.click(desk.widget.case_list.run_button)
    wait_for_queue(desk)
    shared = desk.widget._runner.engine.load(None).network
    assert networks
    assert not any(network is shared for network in networks)


def test_enter_on_a_row_opens_its_case(
    desk: Desk, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cohort(desk, cohort, monkeypatch)
    tree = desk.widget.case_list.tree
    tree.setCurrentItem(tree.topLevelItem(2))
    desk.qtbot.keyClick(tree, Qt.Key.Key_Return)
    desk.wait(lambda: current(desk) == "Case_003")
