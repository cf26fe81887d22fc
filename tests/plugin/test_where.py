"""Where to look, how large, how sure: plot, work list, lesions, with real clicks and keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from qtpy.QtCore import QObject, QPoint, Qt

from napari_diffseg._layers import find_slice
from napari_diffseg._widgets.lesions_panel import LesionsPanel
from napari_diffseg._widgets.newest import Newest
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.profile_panel import ProfilePanel
from napari_diffseg._widgets.work_list_panel import WorkListPanel
from napari_diffseg.core.events import Finished, SampleDone, Started, StepDone
from napari_diffseg.core.levels import MASK_LEVEL
from napari_diffseg.core.uncertainty import compute_mean_pairwise_dice
from napari_diffseg.core.work_list import rank_slices
from tests.plugin.conftest import TUMOUR_Z, Desk, load_tiny, write_synthetic

Kind = TypeVar("Kind", bound=Panel)

SHIFTS = {4: 0, 5: 3, 6: 1, 7: 2}
"""By how many voxels two members' squares are apart, for each canonical slice."""
SPECK = (4, 33, 30)
"""A voxel that belongs to another lesion."""


def square(z: int, shift: int) -> np.ndarray:
    """Return a member's levels on a slice: a square, and on one slice a speck far from it."""
    levels = np.zeros((40, 36), np.uint8)
    levels[20:28, 20 + shift : 28 + shift] = 255
    if z == SPECK[0]:
        levels[SPECK[1:]] = 255
    return levels


def draw(case: Any, model: Any, params: Any, cancel: Any, prepared: Any) -> Iterator[Any]:
    """Give members that are known; every second one is shifted."""
    zs = [z for z in range(*(params.z_range or (0, 12))) if z in SHIFTS]
    yield Started(tuple(zs), tuple(params.members), 1, "cpu", 1, len(zs) * len(params.members))
    for z in zs:
        for member in params.members:
            yield StepDone(1, 1, 1)
            yield SampleDone(member, z, square(z, SHIFTS[z] * (member % 2)))
    yield Finished(0.1)


def panel(desk: Desk, kind: type[Kind]) -> Kind:
    """Return the panel of a kind."""
    return next(each for each in desk.widget.panels if isinstance(each, kind))


def visible(desk: Desk) -> int:
    """Return the canonical slice on screen."""
    return find_slice(desk.viewer.dims, desk.layer("mask").metadata["diffseg"]["source"].geometry)


@pytest.fixture
def reviewed(make_desk: Callable[..., Desk], case_folder: Path) -> Desk:
    """Give a desk, in a window, with two members on four slices."""
    desk = make_desk(draw, load_tiny, show=True)
    desk.viewer.window.resize(1200, 1400)
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.widget.parameters.n_samples.setValue(2)
    desk.segment()
    work_list, profile = panel(desk, WorkListPanel), panel(desk, ProfilePanel)
    desk.wait(lambda: work_list.work_list is not None and work_list.list.count() == 3)
    desk.wait(lambda: profile.plot is not None and profile.profile is not None)
    return desk


def click_row(desk: Desk, view: Any, row: int) -> None:
    """Click a row of a list or a table."""
    index = view.model().index(row, 0)
    position = view.visualRect(index).center()
    desk.qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=position)


def test_the_work_list_ranks_slices_by_the_distance_of_the_outlines(reviewed: Desk) -> None:
    texts = [panel(reviewed, WorkListPanel).list.item(row).text().split(":")[0] for row in range(3)]
    assert texts == ["slice 6", "slice 4", "slice 5"]  # canonical 5, 7 and 6 of 12


def test_a_click_in_the_work_list_goes_to_the_slice_and_marks_it(reviewed: Desk) -> None:
    work_list = panel(reviewed, WorkListPanel).list
    assert visible(reviewed) == TUMOUR_Z
    assert work_list.currentRow() == 2  # where the viewer is
    click_row(reviewed, work_list, 0)
    assert visible(reviewed) == 5
    assert work_list.currentRow() == 0


def test_arrow_keys_and_n_walk_through_the_work_list(reviewed: Desk) -> None:
    work_list = panel(reviewed, WorkListPanel).list
    click_row(reviewed, work_list, 0)
    reviewed.qtbot.keyClick(work_list, Qt.Key.Key_Down)
    assert visible(reviewed) == 7
    reviewed.qtbot.keyClick(work_list, Qt.Key.Key_Up)
    assert visible(reviewed) == 5
    window = reviewed.widget.window()
    with reviewed.qtbot.waitActive(window, timeout=60_000):  # keys need a window with the focus
        window.activateWindow()
    button = reviewed.widget.panels[0].button
    button.setFocus()
    for key, modifier, z in (
        (Qt.Key.Key_N, Qt.KeyboardModifier.NoModifier, 7),
        (Qt.Key.Key_N, Qt.KeyboardModifier.NoModifier, 6),
        (Qt.Key.Key_N, Qt.KeyboardModifier.NoModifier, 6),  # it ends at the end
        (Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier, 7),
    ):
        reviewed.qtbot.keyClick(button, key, modifier)
        assert visible(reviewed) == z
    keys = dict(reviewed.widget.shortcuts.entries())
    assert {"N", "Shift+N"} <= keys.keys()


def test_from_a_slice_that_is_not_listed_next_leads_to_the_first(reviewed: Desk) -> None:
    work_list = panel(reviewed, WorkListPanel)
    case = reviewed.layer("mask").metadata["diffseg"]["source"]
    reviewed.go_to(case, 2)
    assert work_list.list.currentRow() == -1
    reviewed.click(work_list.next)
    assert visible(reviewed) == 5


@pytest.mark.parametrize("by", ["mean_disagreement", "variance", "entropy"])
def test_ranking_by_a_map_is_that_of_the_core(reviewed: Desk, by: Any) -> None:
    work_list = panel(reviewed, WorkListPanel)
    work_list.by.setCurrentIndex(work_list.by.findData(by))
    reviewed.wait(lambda: work_list.work_list.by == by)
    members = reviewed.layer("samples").data
    case = reviewed.layer("mask").metadata["diffseg"]["source"]
    brain = (case.prior_image != 0).any(axis=0)
    sampled = np.isin(np.arange(12), list(SHIFTS))[np.newaxis].repeat(2, axis=0)
    expected = rank_slices(members, sampled, case.geometry, by=by, brain=brain)
    assert work_list.work_list == expected


def test_one_member_cannot_disagree_and_the_panel_says_so(reviewed: Desk) -> None:
    work_list = panel(reviewed, WorkListPanel)
    reviewed.widget.ensemble.members.setValue(1)
    reviewed.wait(lambda: "One sample" in work_list.note.text())
    assert work_list.note.isVisible()
    assert not work_list.list.isVisible()
    work_list.by.setCurrentIndex(work_list.by.findData("mean_disagreement"))
    reviewed.wait(lambda: work_list.work_list.by == "mean_disagreement")
    assert "One sample" in work_list.note.text()
    reviewed.widget.ensemble.members.setValue(2)
    reviewed.wait(work_list.list.isVisible)


def test_the_plot_shows_mask_band_and_truth_of_the_slice(reviewed: Desk) -> None:
    profile = panel(reviewed, ProfilePanel)
    case = reviewed.layer("mask").metadata["diffseg"]["source"]
    text = profile.values.text()
    truth_ml = case.wt_truth[TUMOUR_Z].sum() / 1000
    assert text.startswith("5: ")
    assert "(0.06–0.06, range of 2)" in text
    assert f">{truth_ml:.2f}</b>" in text
    reviewed.go_to(case, 4)
    assert profile.values.text().startswith("7: ")
    assert profile._cursor.value() == 7
    reviewed.go_to(case, 0)
    assert profile.values.text() == "11: not sampled"


def test_a_click_in_the_plot_goes_to_the_slice_and_dragging_follows(reviewed: Desk) -> None:
    plot = panel(reviewed, ProfilePanel).plot
    assert plot is not None

    def at(number: int) -> QPoint:
        scene = plot.plotItem.vb.mapViewToScene(plot.plotItem.vb.viewRect().center())
        x = plot.plotItem.vb.mapViewToScene(type(scene)(number, 0)).x()
        return plot.mapFromScene(type(scene)(x, scene.y()))

    left = Qt.MouseButton.LeftButton
    reviewed.qtbot.mouseClick(plot.viewport(), left, pos=at(7))
    assert visible(reviewed) == 4
    reviewed.qtbot.mousePress(plot.viewport(), left, pos=at(7))
    reviewed.qtbot.mouseMove(plot.viewport(), at(9))
    reviewed.wait(lambda: visible(reviewed) == 2)
    reviewed.qtbot.mouseRelease(plot.viewport(), left, pos=at(9))


def test_the_plot_follows_the_threshold(reviewed: Desk) -> None:
    profile = panel(reviewed, ProfilePanel)
    before = profile.profile
    reviewed.widget.ensemble.threshold.setValue(40)  # now what one of two members has counts, too
    row = before.slices.index(6)  # not the slice on screen, so it follows when the slider rests
    reviewed.wait(lambda: profile.profile.mask_ml[row] == pytest.approx(0.088))
    assert profile.profile.high_ml == before.high_ml


def test_lesions_are_listed_and_a_row_leads_to_the_lesion(reviewed: Desk) -> None:
    lesions = panel(reviewed, LesionsPanel)
    assert not lesions.table.isVisible()
    reviewed.click(lesions.button)
    reviewed.wait(lambda: lesions.table.rowCount() == 2)
    cells = [lesions.table.item(1, column).text() for column in range(4)]
    assert cells == ["0.001", "1.00", "0.00", "7"]
    click_row(reviewed, lesions.table, 1)
    assert visible(reviewed) == SPECK[0]
    case = reviewed.layer("mask").metadata["diffseg"]["source"]
    world = np.array(case.geometry.translate_mm) + SPECK
    np.testing.assert_allclose(reviewed.viewer.scene.camera.center[1:], world[1:])


def test_how_sure_is_told_as_a_number_and_in_words(reviewed: Desk) -> None:
    readout = reviewed.widget.readout
    masks = reviewed.layer("samples").data >= MASK_LEVEL
    dice = compute_mean_pairwise_dice(masks)
    assert dice is not None
    assert 0.8 < dice < 0.9
    assert readout.confidence.text() == f"<b>{dice:.2f}</b>: samples mostly agree"
    weighted_ml = reviewed.layer("mean").data.sum() / 1000
    volumes_ml = masks.sum(axis=(1, 2, 3)) / 1000
    assert readout.volume.text().endswith(f" (weighted {weighted_ml:.2f})")
    assert readout.samples.text().endswith(f", median {np.median(volumes_ml):.2f}")
    reviewed.widget.ensemble.members.setValue(1)
    reviewed.wait(lambda: readout.confidence.text() == "–")


def test_what_is_out_of_date_when_it_is_ready_is_not_shown(qtbot: Any) -> None:
    parent = QObject()
    newest, go_on, results = Newest(parent), threading.Event(), []
    newest.done.connect(results.append)

    def slow(value: int) -> int:
        assert go_on.wait(timeout=60)
        return value

    for value in range(4):
        newest.ask(slow, value)
    go_on.set()
    qtbot.waitUntil(lambda: bool(results), timeout=60_000)
    assert results == [3]
    newest.ask(slow, 4)
    newest.release()
    newest.ask(slow, 5)
    qtbot.waitUntil(lambda: len(results) > 1, timeout=60_000)
    assert results == [3, 5]


def test_without_a_run_the_panels_say_what_to_do(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    assert "Segment" in panel(desk, WorkListPanel).note.text()
    assert panel(desk, ProfilePanel).values.text() == "–"
    assert panel(desk, LesionsPanel).table.rowCount() == 0


def test_a_folded_list_forgets_the_case_that_is_left(
    desk: Desk, case_folder: Path, tmp_path: Path
) -> None:
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.segment()
    ranking = panel(desk, WorkListPanel)
    desk.wait(lambda: ranking.work_list is not None)
    ranking.set_open(False)
    desk.open(write_synthetic(tmp_path, "Case_002", seed=1))
    assert ranking.work_list is None
