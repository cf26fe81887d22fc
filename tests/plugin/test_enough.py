"""Is n enough: drawing that stops by itself, and the panel that tells."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_diffseg._widgets.convergence_panel import (
    ConvergencePanel,
    describe_convergence,
    measure,
)
from napari_diffseg._widgets.run import View
from napari_diffseg.core.convergence import Addition, compute_convergence
from napari_diffseg.core.metrics import compute_dice
from tests.plugin.conftest import Desk


def stop_when_stable(desk: Desk, tolerance_percent: float, n_samples: int) -> None:
    parameters = desk.widget.parameters
    parameters.advanced.set_open(True)
    if not parameters.stop.isChecked():
        parameters.stop.click()
    parameters.tolerance.setValue(tolerance_percent)
    parameters.n_samples.setValue(n_samples)


@pytest.fixture
def members(make_desk: Callable[..., Desk], case_folder: Path) -> np.ndarray:
    """Give six members of the slice with tumour, drawn without stopping."""
    desk = make_desk()
    case = desk.open(case_folder)
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    run = desk.widget._runner.find_run(case)
    return run.ensemble.members_uint8().copy()


def test_the_mask_on_screen_is_the_one_that_has_to_be_stable(
    make_desk: Callable[..., Desk], case_folder: Path, members: np.ndarray
) -> None:
    desk = make_desk()
    case = desk.open(case_folder)
    desk.widget.ensemble.threshold.setValue(80)
    desk.widget.ensemble.kind.setCurrentIndex(desk.widget.ensemble.kind.findData("masks"))
    stop_when_stable(desk, 20.0, 3)
    desk.widget.parameters.tolerance.setRange(0, 100)
    desk.widget.parameters.tolerance.setValue(99)
    desk.segment()
    stopping = desk.widget._runner.find_run(case).record.stopping
    assert (stopping.threshold, stopping.of, stopping.stable_with) == (0.8, "masks", 3)
    dices = [each.dice for each in compute_convergence(members[:3], 0.8, "masks")]
    assert stopping.dice == pytest.approx(min(dices))


def test_the_panel_judges_the_mask_that_the_run_watches(
    members: np.ndarray,
) -> None:
    z_indices = np.arange(members.shape[1])
    view = View(6, threshold=0.8, of="probabilities", consensus="majority")
    expected = compute_convergence(members, 0.5, "masks")  # the greyed out threshold has no effect
    assert measure(members, range(6), z_indices, view) == expected
    assert expected != compute_convergence(members, 0.8, "probabilities")


def test_drawing_stops_when_the_mask_is_stable(
    make_desk: Callable[..., Desk], case_folder: Path, members: np.ndarray
) -> None:
    desk = make_desk()
    case = desk.open(case_folder)
    parameters, status = desk.widget.parameters, desk.widget.run.status
    assert not parameters.tolerance.isEnabled()
    stop_when_stable(desk, 20.0, 6)
    parameters.tolerance.setRange(0, 100)
    parameters.tolerance.setValue(90)  # the masks of the tiny model are arbitrary
    desk.segment()
    assert status.full_text().startswith("Stable after 3 of at most 6 samples, slice ")
    run = desk.widget._runner.find_run(case)
    assert run.n_started == 3
    np.testing.assert_array_equal(run.ensemble.members_uint8(3), members[:3])
    assert desk.widget.ensemble.view().k == 3
    assert run.record.stopping.stable_with == 3
    assert run.record.stopping.tolerance == pytest.approx(0.9)

    assert (run.record.stopping.threshold, run.record.stopping.of) == (0.5, "probabilities")

    # Again: what is there counts, so nothing is drawn.
    assert desk.widget.run.button.text() == "Add up to 3 samples"
    desk.segment()
    assert "stable with the 3 samples" in desk.widget.run.message.text()
    assert run.n_started == 3

    # Without the box the rest is drawn, the same as ever.
    parameters.stop.click()
    assert desk.widget.run.button.text() == "Add 3 samples"
    desk.segment()
    assert status.full_text().startswith("Done in ")
    np.testing.assert_array_equal(run.ensemble.members_uint8(), members)
    assert run.record.stopping is None


def test_drawing_goes_on_with_what_is_there_and_says_when_it_is_not_enough(
    desk: Desk, case_folder: Path
) -> None:
    case = desk.open(case_folder)
    parameters = desk.widget.parameters
    parameters.n_samples.setValue(2)
    desk.segment()
    # More slices, of which one has two samples already.
    parameters.slice_range.click()
    number = case.geometry.to_source_slice(6)
    parameters.first.setValue(number - 1)
    parameters.last.setValue(number)
    stop_when_stable(desk, 0.1, 4)
    parameters.tolerance.setRange(0, 100)
    parameters.tolerance.setValue(0)
    desk.segment()
    assert desk.widget.run.status.full_text().startswith("Not stable after 4 samples, ")
    run = desk.widget._runner.find_run(case)
    assert run.ensemble.n_complete() == 4
    assert run.record.stopping.stable_with is None


def test_panel_answers_in_a_sentence_and_draws_the_curve(desk: Desk, case_folder: Path) -> None:
    case = desk.open(case_folder)
    panel = next(p for p in desk.widget.panels if isinstance(p, ConvergencePanel))
    desk.click(panel.button)
    assert panel.answer.text() == "Segment first."
    desk.widget.parameters.n_samples.setValue(1)
    desk.segment()
    desk.wait(lambda: panel.answer.text() == "One sample cannot tell. Draw 3 or more.")
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    desk.wait(lambda: len(panel.additions) == 5)
    run = desk.widget._runner.find_run(case)
    masks = [run.ensemble.wt_mask(0.5, k) for k in range(1, 7)]
    dices = [compute_dice(one, other) for one, other in itertools.pairwise(masks)]
    assert [addition.dice for addition in panel.additions] == pytest.approx(dices)
    assert f"Dice {min(dices[-2:]):.3f}" in panel.answer.text()
    assert panel.plot is not None
    # What counts as no change is what the user sets; without the box it is half a per cent.
    change = 1 - min(dices[-2:])
    assert 0.005 < change < 0.2
    parameters = desk.widget.parameters
    parameters.stop.click()
    parameters.tolerance.setValue(20.0)
    assert panel.answer.text().startswith("6 samples are enough")
    parameters.tolerance.setValue(0.1)
    assert panel.answer.text().startswith("Not yet: with 6 samples")
    parameters.tolerance.setValue(20.0)
    parameters.stop.click()
    assert panel.answer.text().startswith("Not yet: with 6 samples")
    # Fewer members are looked at: the curve is theirs.
    desk.widget.ensemble.members.setValue(2)
    desk.wait(lambda: len(panel.additions) == 1)
    assert panel.answer.text() == "2 samples cannot tell. Draw 3 or more."


@pytest.mark.parametrize(
    ("dices", "text"),
    [
        ([0.9, 0.996, 0.998], "4 samples are enough: one more changes the mask by about 0.4 %"),
        ([0.996, 0.9], "Not yet: with 3 samples, one more changes the mask by about 10.0 %"),
        ([0.996, 0.9946], "Not yet: with 3 samples, one more changes the mask by about 0.54 %"),
        ([0.996, 0.9954], "3 samples are enough: one more changes the mask by about 0.46 %"),
    ],
)
def test_the_answer_follows_the_rule(dices: list[float], text: str) -> None:
    additions = [Addition(n, dice, 0.1) for n, dice in enumerate(dices, start=2)]
    assert describe_convergence(additions, 0.005).startswith(text)
