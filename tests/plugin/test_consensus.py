"""The chooser of the consensus: it acts at once, on what is there, and samples nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_diffseg._widgets import ensemble_section
from napari_diffseg.core.consensus import decide, has_staple, make_mask
from napari_diffseg.core.ensemble import Ensemble
from tests.plugin.conftest import TUMOUR_Z, Desk


@pytest.fixture
def segmented(desk: Desk, case_folder: Path) -> Desk:
    """Give a desk after a run of five samples on all slices."""
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.segment()
    return desk


def choose(desk: Desk, kind: str) -> None:
    chooser = desk.widget.ensemble.consensus
    chooser.setCurrentIndex(chooser.findData(kind))


def expected_mask(desk: Desk, kind: Any, **options: Any) -> np.ndarray:
    run = desk.widget.stage.run
    assert run is not None
    ensemble = Ensemble.from_arrays(run.ensemble.members_uint8(), run.ensemble.sampled)
    return make_mask(ensemble, decide(ensemble, kind, **options))


@pytest.mark.parametrize("kind", ["majority", "closest"])
def test_another_consensus_is_on_the_visible_slice_at_once(segmented: Desk, kind: str) -> None:
    mean = segmented.layer("mean").data.copy()
    expected = expected_mask(segmented, kind)
    choose(segmented, kind)
    # no event loop has run since
    mask = segmented.layer("mask").data
    np.testing.assert_array_equal(mask[TUMOUR_Z], expected[TUMOUR_Z])
    segmented.wait(lambda: np.array_equal(mask, expected))
    np.testing.assert_array_equal(segmented.layer("mean").data, mean)
    volume_ml = f"{expected.sum() / 1000:.2f} mL"
    segmented.wait(lambda: volume_ml in segmented.widget.readout.volume.text())
    choose(segmented, "mean")
    segmented.wait(lambda: np.array_equal(mask, mean > np.float32(0.5)))


@pytest.mark.skipif(not has_staple(), reason="SimpleITK is not installed")
def test_staple_is_shown_when_it_is_ready_and_follows_the_threshold(segmented: Desk) -> None:
    chooser = segmented.widget.ensemble.consensus
    choose(segmented, "staple")
    mask = segmented.layer("mask").data
    np.testing.assert_array_equal(
        mask[TUMOUR_Z], expected_mask(segmented, "majority")[TUMOUR_Z]
    )  # until then
    segmented.wait(lambda: "computing" in chooser.currentText())
    segmented.wait(lambda: chooser.currentText() == "STAPLE")
    expected = expected_mask(segmented, "staple")
    segmented.wait(lambda: np.array_equal(mask, expected))
    segmented.widget.ensemble.threshold.setValue(90)
    expected = expected_mask(segmented, "staple", threshold=0.9)
    segmented.wait(lambda: np.array_equal(mask, expected))


def test_fewer_members_may_have_another_closest_one(segmented: Desk) -> None:
    choose(segmented, "closest")
    segmented.widget.ensemble.members.setValue(3)
    expected = expected_mask(segmented, "closest", k=3)
    segmented.wait(lambda: np.array_equal(segmented.layer("mask").data, expected))


def test_more_samples_may_bring_another_closest_one(segmented: Desk) -> None:
    choose(segmented, "closest")
    segmented.widget.parameters.n_samples.setValue(7)
    segmented.segment()
    expected = expected_mask(segmented, "closest")
    segmented.wait(lambda: np.array_equal(segmented.layer("mask").data, expected))


def test_the_threshold_is_only_there_where_it_means_something(desk: Desk) -> None:
    ensemble = desk.widget.ensemble
    for kind, is_enabled in (("majority", False), ("mean", True), ("closest", False)):
        choose(desk, kind)
        assert ensemble.threshold.isEnabledTo(ensemble) is is_enabled
        assert ("knows no threshold" in ensemble.threshold.toolTip()) is not is_enabled


def test_without_simpleitk_staple_says_what_to_install(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_section, "has_staple", lambda: False)
    chooser = make_desk().widget.ensemble.consensus
    row = chooser.findData("staple")
    assert not chooser.model().item(row).isEnabled()
    assert "napari-diffseg[staple]" in chooser.itemData(row, Qt.ItemDataRole.ToolTipRole)
