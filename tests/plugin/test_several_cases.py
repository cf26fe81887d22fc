"""Several cases are open: each shows its own layers, as the dock says, and where it lies."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Layer

from napari_diffseg._layers import find_layers, find_slice
from napari_diffseg._widgets import DiffsegWidget, advice
from napari_diffseg._widgets.engine import Engine
from napari_diffseg._widgets.members_panel import MembersPanel
from napari_diffseg._widgets.truth_panel import TruthPanel
from napari_diffseg.core.brats import Case
from napari_diffseg.core.verdict import Verdict
from tests.core.case_files import write_nifti
from tests.plugin.conftest import TUMOUR_Z, Desk, SlowMotion, load_tiny, write_synthetic


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Give the folder of another case on the same grid."""
    return write_synthetic(tmp_path, "Case_002", seed=2)


def choose(desk: Desk, case: Case) -> None:
    """Choose an open case in the dock."""
    chooser = desk.widget.cases.chooser
    chooser.activated.emit(chooser.findText(case.name))


def visible_roles(desk: Desk, case: Case) -> set[str]:
    """Return what is to be seen of a case."""
    layers = find_layers(desk.viewer.layers, case=case)
    return {layer.metadata["diffseg"]["role"] for layer in layers if layer.visible}


def test_a_result_that_comes_while_another_case_is_looked_at_waits_for_its_own(
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    case_folder: Path,
    other_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict = Verdict("Do not rely on this volume.", is_warning=True)
    monkeypatch.setattr(advice, "judge", lambda *_, **__: verdict)
    desk = make_desk(slow_motion)
    other = desk.open(other_folder)
    case = desk.open(case_folder)
    desk.click(desk.widget.run.button)
    choose(desk, other)
    slow_motion.go(4)
    status, message = desk.widget.run.status, desk.widget.run.message
    desk.wait(lambda: status.full_text().startswith("Case_001: "))
    slow_motion.go()
    desk.wait_until_ready()
    assert status.full_text().startswith("Case_001: Done in ")
    assert visible_roles(desk, case) == set()
    assert message.text() == ""
    choose(desk, case)
    assert visible_roles(desk, case) == {"image", "truth", "mean", "mask"}
    desk.wait(lambda: message.text() == verdict.text)
    choose(desk, other)
    assert message.text() == ""


def test_the_chosen_map_is_shown_of_every_case(
    desk: Desk, case_folder: Path, other_folder: Path
) -> None:
    case = desk.open(case_folder)
    desk.segment()
    other = desk.open(other_folder)
    overlay = desk.widget.ensemble.overlay
    overlay.setCurrentIndex(overlay.findData("variance"))
    choose(desk, case)
    assert {"mean", "variance"} & visible_roles(desk, case) == {"variance"}
    desk.layer("variance").visible = False  # in napari's own list: it stays hidden
    choose(desk, other)
    choose(desk, case)
    assert not {"mean", "variance"} & visible_roles(desk, case)


def test_what_is_unticked_at_another_case_is_not_shown_again(
    desk: Desk, case_folder: Path, other_folder: Path
) -> None:
    other = desk.open(other_folder)
    case = desk.open(case_folder)
    desk.segment()
    members = next(p for p in desk.widget.panels if isinstance(p, MembersPanel))
    truth = next(p for p in desk.widget.panels if isinstance(p, TruthPanel))
    members.set_open(True)
    boxes, roles = (members.agreement, truth.errors), {"agreement", "errors"}
    for box in boxes:
        box.setChecked(True)
    members.list.clicked_on.emit(0)
    assert roles | {"member"} <= visible_roles(desk, case)
    choose(desk, other)
    choose(desk, case)
    assert (roles | {"member"}) & visible_roles(desk, case) == roles
    choose(desk, other)
    for box in boxes:
        box.setChecked(False)
    choose(desk, case)
    assert not roles & visible_roles(desk, case)
    for box in boxes:
        box.setChecked(True)
    assert roles <= visible_roles(desk, case)


def test_a_case_that_lies_elsewhere_is_brought_into_view(
    desk: Desk, case_folder: Path, other_folder: Path
) -> None:
    for path in other_folder.iterdir():
        image = nib.load(path)
        affine = image.affine.copy()
        affine[:3, 3] += (15, 30, 100)
        write_nifti(path, np.asarray(image.dataobj), affine)
    first = desk.open(case_folder)
    desk.viewer.open(other_folder, plugin="napari-diffseg")
    second = desk.widget._desk.current
    assert second is not first
    for case in (second, first):
        choose(desk, case)
        low = np.array(case.geometry.translate_mm)
        middle = low + (np.array(case.geometry.shape) - 1) / 2
        assert abs(desk.viewer.dims.point[0] - middle[0]) <= 0.5
        np.testing.assert_allclose(desk.viewer.scene.camera.center[1:], middle[1:], atol=1)


def test_slice_and_camera_stay_where_cases_lie_over_each_other(
    desk: Desk, case_folder: Path, other_folder: Path
) -> None:
    case = desk.open(case_folder)
    desk.go_to(case, 0)
    camera = desk.viewer.scene.camera
    camera.center, camera.zoom = (0.0, -100.0, -80.0), 9.0
    desk.viewer.open(other_folder, plugin="napari-diffseg")
    assert find_slice(desk.viewer.dims, case.geometry) == 0
    assert (tuple(camera.center), camera.zoom) == ((0.0, -100.0, -80.0), 9.0)


def test_chosen_slices_stay_when_another_case_is_looked_at(
    desk: Desk, case_folder: Path, other_folder: Path
) -> None:
    case = desk.open(case_folder)
    parameters = desk.widget.parameters
    assert (parameters.first.value(), parameters.last.value()) == (0, 11)
    parameters.slice_range.click()
    parameters.first.setValue(4)
    parameters.last.setValue(6)
    desk.open(other_folder)
    choose(desk, case)
    assert (parameters.first.value(), parameters.last.value()) == (4, 6)
    desk.segment()
    sampled = np.flatnonzero(desk.widget.stage.run.is_sampled)
    assert sampled.tolist() == [TUMOUR_Z - 1, TUMOUR_Z, TUMOUR_Z + 1]


def test_a_dock_that_is_opened_again_shows_the_cases_that_were_hidden(
    make_desk: Callable[..., Desk], case_folder: Path, other_folder: Path
) -> None:
    desk = make_desk()
    first, second = desk.open(case_folder), desk.open(other_folder)
    assert visible_roles(desk, first) == set()
    desk.viewer.window.remove_dock_widget(desk.widget)
    desk.widget = DiffsegWidget(desk.viewer, Engine(load_tiny, None))
    desk.viewer.window.add_dock_widget(desk.widget, area="right")
    choose(desk, first)
    assert "image" in visible_roles(desk, first)
    assert visible_roles(desk, second) == set()


def test_the_sample_case_is_opened_once(desk: Desk) -> None:
    for _ in range(2):
        desk.widget.cases.sample_action.trigger()
        desk.wait(lambda: desk.roles.count("image") > 0 and not desk.widget._desk.is_opening)
    assert desk.roles.count("image") == 4


def test_a_closed_case_is_let_go_of_though_its_mask_was_copied(
    desk: Desk, case_folder: Path
) -> None:
    case = desk.open(case_folder)
    desk.segment()
    run = weakref.ref(desk.widget.stage.run)
    mask = desk.layer("mask")
    desk.viewer.layers.append(Layer.create(*mask.as_layer_data_tuple()))  # napari's Duplicate
    desk.widget._desk.close_case(case)
    del mask
    gc.collect()
    assert run() is None
    assert len(desk.viewer.layers) == 1
