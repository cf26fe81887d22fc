"""A run as its user sees it: live, visible slice first, cancelled, continued, replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer

from napari_diffseg.core.events import (
    Cancelled,
    Downgraded,
    Finished,
    SampleDone,
    Started,
    StepDone,
)
from napari_diffseg.core.progress import Progress
from tests.core.case_files import write_nifti
from tests.models import tiny_model
from tests.plugin.conftest import TUMOUR_Z, Desk, SlowMotion, load_tiny


def test_a_click_draws_the_samples_of_the_visible_slice(desk: Desk, case_folder: Path) -> None:
    case = desk.open(case_folder)
    desk.segment()
    mean, samples = desk.layer("mean").data, desk.layer("samples").data
    assert samples.shape == (5, *case.geometry.shape)
    assert mean[TUMOUR_Z].any()
    assert not mean[:TUMOUR_Z].any()
    assert not mean[TUMOUR_Z + 1 :].any()
    np.testing.assert_allclose(mean, samples.mean(axis=0) / 255, atol=1e-6)
    np.testing.assert_allclose(desk.layer("variance").data, mean * (1 - mean), atol=1e-6)
    between = samples.astype(np.float64).var(axis=0) / 255**2
    np.testing.assert_allclose(desk.layer("disagreement").data, between, atol=1e-6)
    np.testing.assert_array_equal(desk.layer("mask").data, mean > 0.5)
    assert desk.widget.run.status.full_text().startswith("Done in")
    assert f"slice {case.geometry.to_source_slice(TUMOUR_Z)}." in desk.widget.run.status.full_text()


def test_every_sample_is_shown_at_once_and_the_visible_slice_comes_first(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    case = desk.open(case_folder)
    desk.go_to(case, 4)
    desk.widget.parameters.whole_volume.click()
    desk.click(desk.widget.run.button)
    slow_motion.go(2)
    desk.wait(lambda: slow_motion.n_steps == 1)
    assert "mean" not in desk.roles
    while not any(isinstance(event, SampleDone) for event in slow_motion.events):
        n_events = len(slow_motion.events)
        slow_motion.go(1)
        desk.wait(lambda n=n_events: len(slow_motion.events) > n)
    first = next(event for event in slow_motion.events if isinstance(event, SampleDone))
    assert first.z == 4
    desk.wait(lambda: "mean" in desk.roles)
    np.testing.assert_allclose(desk.layer("mean").data[4], first.probability / 255, atol=1e-6)
    np.testing.assert_array_equal(desk.layer("mask").data[4], first.probability >= 128)
    assert desk.widget.run.state == "running"
    assert 0 < desk.widget.run.progress.value() < desk.widget.run.progress.maximum()
    # A sample of a whole volume has a slice sample on each of its slices.
    progress = re.match(r"(\d+) of 40 slice samples · .* left", desk.widget.run.status.full_text())
    assert progress is not None
    assert int(progress[1]) >= 1
    slow_motion.go()
    desk.wait_until_ready()
    assert ": 5 samples, slices " in desk.widget.run.status.full_text()
    order = [event.z for event in slow_motion.events if isinstance(event, SampleDone)]
    distances = [abs(z - 4) for z in order]
    assert distances == sorted(distances)
    assert desk.layer("mean").data.any(axis=(1, 2)).sum() == 8  # the slices with brain


def test_the_window_lives_while_the_layers_of_a_first_result_come(
    desk: Desk, case_folder: Path
) -> None:
    desk.open(case_folder)
    n_turns = 0
    came: dict[str, int] = {}

    def count() -> None:
        nonlocal n_turns
        n_turns += 1

    def note(event: Any) -> None:
        came[event.value.metadata["diffseg"]["role"]] = n_turns

    timer = QTimer()
    timer.timeout.connect(count)
    timer.start(0)
    desk.viewer.layers.events.inserted.connect(note)
    desk.segment()
    timer.stop()
    desk.viewer.layers.events.inserted.disconnect(note)
    maps = ["disagreement", "variance", "mean"]
    assert list(came) == ["samples", "mask", *maps]
    assert len(set(came.values())) == 5
    assert desk.roles == [*["image"] * 4, "samples", *maps, "truth", "mask"]
    assert [desk.layer(role).visible for role in ("samples", *maps)] == [0, 0, 0, 1]


def test_layers_that_are_still_to_come_do_not_come_after_their_case(
    desk: Desk, case_folder: Path
) -> None:
    desk.open(case_folder)
    desk.viewer.layers.events.inserted.connect(
        lambda event: (
            QTimer.singleShot(0, desk.viewer.layers.clear)
            if event.value.metadata["diffseg"]["role"] == "mask"
            else None
        )
    )
    desk.click(desk.widget.run.button)
    desk.wait(lambda: desk.widget.run.state == "no case")
    desk.wait(lambda: not desk.widget.stage.layers.is_busy)
    assert not desk.viewer.layers


def test_segment_turns_into_cancel_which_acts_within_one_step(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    desk.widget.parameters.n_steps.setValue(50)
    desk.click(desk.widget.run.button)
    assert desk.widget.run.button.text() == "Cancel"
    slow_motion.go(4)
    desk.wait(lambda: slow_motion.n_steps == 3)
    desk.click(desk.widget.run.button)
    assert desk.widget.run.button.text() == "Cancelling …"
    assert not desk.widget.run.button.isEnabled()
    slow_motion.go()
    desk.wait_until_ready()
    assert slow_motion.n_steps <= 4
    assert isinstance(slow_motion.events[-1], Cancelled)
    assert desk.widget.run.button.text() == "Segment"
    assert desk.widget.run.status.full_text() == "Cancelled before the first sample."


def test_samples_that_were_drawn_before_a_cancel_stay_and_are_not_drawn_again(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.click(desk.widget.run.button)
    slow_motion.go(1)
    while sum(isinstance(event, SampleDone) for event in slow_motion.events) < 10:
        n_events = len(slow_motion.events)
        slow_motion.go(1)
        desk.wait(lambda n=n_events: len(slow_motion.events) > n)
    desk.click(desk.widget.run.button)
    slow_motion.go()
    desk.wait_until_ready()
    before = desk.layer("samples").data.copy()
    drawn = {(e.member, e.z) for e in slow_motion.events if isinstance(e, SampleDone)}
    assert len(drawn) == 10
    slow_motion.events.clear()
    desk.segment()
    again = {(e.member, e.z) for e in slow_motion.events if isinstance(e, SampleDone)}
    assert not drawn & again
    assert len(drawn | again) == 5 * 8
    after = desk.layer("samples").data
    for member, z in drawn:
        np.testing.assert_array_equal(after[member, z], before[member, z])


def test_more_samples_are_added_to_the_same_run(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    desk.widget.parameters.n_samples.setValue(2)
    desk.segment()
    two = desk.layer("samples").data.copy()
    run = desk.layer("mean").metadata["diffseg"]["run"]
    desk.widget.parameters.n_samples.setValue(5)
    assert desk.widget.run.button.text() == "Add 3 samples"
    desk.segment()
    five = desk.layer("samples").data
    assert five.shape[0] == 5
    np.testing.assert_array_equal(five[:2], two)
    assert all(five[member].any() for member in range(5))
    assert desk.viewer.dims.nsteps[0] == 5  # though the layer is hidden
    assert desk.layer("mean").metadata["diffseg"]["run"] == run
    np.testing.assert_allclose(desk.layer("mean").data, five.mean(axis=0) / 255, atol=1e-6)
    assert desk.widget.ensemble.members_text.text() == "5 of 5"
    # ... and they are those that a run of five draws at once
    desk.widget.parameters.seed.setValue(1)
    desk.segment()
    desk.widget.parameters.seed.setValue(0)
    desk.segment()
    np.testing.assert_array_equal(desk.layer("samples").data, five)


def test_the_button_counts_what_is_missing_where_samples_are_wanted(
    desk: Desk, case_folder: Path
) -> None:
    case = desk.open(case_folder)
    parameters, button = desk.widget.parameters, desk.widget.run.button
    parameters.n_samples.setValue(3)
    desk.segment()
    assert button.text() == "Segment"  # all is there
    desk.go_to(case, TUMOUR_Z + 1)
    assert button.text() == "Segment"  # nothing is
    parameters.n_samples.setValue(2)
    desk.segment()
    parameters.n_samples.setValue(5)
    assert button.text() == "Add 3 samples"
    desk.go_to(case, TUMOUR_Z)
    assert button.text() == "Add 2 samples"
    parameters.slice_range.click()
    numbers = [case.geometry.to_source_slice(z) for z in (TUMOUR_Z, TUMOUR_Z + 1)]
    parameters.first.setValue(min(numbers))
    parameters.last.setValue(max(numbers))
    assert button.text() == "Add 3 samples"
    parameters.whole_volume.click()
    assert button.text() == "Add 5 samples"


def test_asking_for_what_is_there_says_so(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    desk.segment()
    before = desk.layer("samples").data.copy()
    desk.segment()
    assert "there already" in desk.widget.run.message.text()
    np.testing.assert_array_equal(desk.layer("samples").data, before)


def test_other_slices_are_added_to_the_same_run(desk: Desk, case_folder: Path) -> None:
    case = desk.open(case_folder)
    desk.segment()
    desk.go_to(case, 3)
    desk.segment()
    assert desk.widget.run.status.full_text().endswith(": 5 samples, slice 8.")  # these alone
    sampled = desk.layer("mean").data.any(axis=(1, 2))
    assert np.flatnonzero(sampled).tolist() == [3, TUMOUR_Z]


def test_before_the_click_the_dock_says_how_long_it_will_take(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "seconds_per_call", property(lambda _: 3.0))
    case = desk.open(case_folder)
    status = desk.widget.run.status
    desk.segment()
    desk.click(desk.widget.parameters.whole_volume)
    # Eight slices have brain, one of them has its five samples; each takes three steps.
    assert status.full_text() == "About 5 min at the speed of the last run."
    desk.click(desk.widget.parameters.this_slice)
    assert status.full_text() == ""
    desk.widget.parameters.n_samples.setValue(6)
    assert status.full_text() == "About 9 s at the speed of the last run."
    desk.go_to(case, 0)  # there is no brain, but a run says that
    desk.widget.parameters.n_samples.setValue(7)
    assert status.full_text() == ""


def test_a_range_of_slices_is_typed_in_the_files_numbers(desk: Desk, case_folder: Path) -> None:
    case = desk.open(case_folder)
    assert case.geometry.to_source_slice(0) == 11  # the file counts from the feet
    desk.widget.parameters.slice_range.click()
    desk.widget.parameters.first.setValue(4)
    desk.widget.parameters.last.setValue(5)
    desk.segment()
    sampled = np.flatnonzero(desk.layer("mean").data.any(axis=(1, 2)))
    assert [case.geometry.to_source_slice(int(z)) for z in sampled] == [5, 4]
    assert desk.widget.readout.slices.text() == "slices 4–5: <b>a part of the tumour</b>"


def test_the_view_stays_where_the_user_has_zoomed(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    camera = desk.viewer.scene.camera
    camera.zoom, camera.center = 17.0, (0.0, -110.0, -70.0)
    for seed in (0, 1):
        desk.widget.parameters.seed.setValue(seed)
        desk.segment()
        assert camera.zoom == 17.0
        assert camera.center[-2:] == (-110.0, -70.0)
        assert desk.viewer.dims.current_step[1] == TUMOUR_Z


@pytest.mark.parametrize("change", ["seed", "n_steps"])
def test_another_seed_or_steps_replace_the_results(
    desk: Desk, case_folder: Path, change: str
) -> None:
    desk.open(case_folder)
    desk.segment()
    before, run = desk.layer("mean").data.copy(), desk.layer("mean").metadata["diffseg"]["run"]
    getattr(desk.widget.parameters, change).setValue(2)
    desk.layer("mean").opacity = 0.9
    desk.segment()
    assert desk.layer("mean").metadata["diffseg"]["run"] != run
    assert (desk.layer("mean").data != before).any()
    assert desk.layer("mean").opacity == 0.9  # what the user has set stays
    desk.layer("mean").visible = False
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    assert not desk.layer("mean").visible


def test_a_run_that_is_cancelled_before_its_first_sample_replaces_nothing(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    slow_motion.go(1 + 3 + 5 * 2 + 1)  # Started, three steps, five samples and members, Finished
    desk.segment()
    mean = desk.layer("mean").data.copy()
    desk.widget.parameters.seed.setValue(1)
    desk.click(desk.widget.run.button)
    slow_motion.events.clear()
    slow_motion.go(2)
    desk.wait(lambda: slow_motion.n_steps == 1)
    desk.click(desk.widget.run.button)
    slow_motion.go()
    desk.wait_until_ready()
    assert desk.widget.run.status.full_text() == "Cancelled before the first sample."
    np.testing.assert_array_equal(desk.layer("mean").data, mean)
    assert desk.widget.ensemble.isEnabled()
    desk.widget.ensemble.members.setValue(1)
    desk.wait(lambda: bool((desk.layer("mean").data != mean).any()))


def test_results_are_kept_if_asked_for(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    desk.segment()
    roles = ("samples", "disagreement", "variance", "mean", "mask")
    kept = {role: desk.layer(role) for role in roles}
    desk.click(desk.widget.parameters.advanced.button)
    desk.click(desk.widget.parameters.keep)
    desk.widget.parameters.keep.setChecked(True)
    desk.widget.parameters.seed.setValue(1)
    desk.segment()
    for role, layer in kept.items():
        assert layer in desk.viewer.layers
        assert not layer.visible
        assert desk.roles.count(role) == 2


def test_a_typed_number_of_steps_that_is_the_recommended_one_continues(
    desk: Desk, case_folder: Path
) -> None:
    desk.open(case_folder)
    assert desk.widget.parameters.n_steps.text() == "auto"
    desk.segment()
    assert desk.widget.parameters.n_steps.text() == "auto 3"  # the tiny model's card
    run = desk.layer("mean").metadata["diffseg"]["run"]
    desk.widget.parameters.n_steps.setValue(3)
    desk.widget.parameters.n_samples.setValue(6)
    desk.segment()
    assert desk.layer("mean").metadata["diffseg"]["run"] == run


def test_a_case_of_one_slice_is_segmented(desk: Desk, case_folder: Path, tmp_path: Path) -> None:
    import nibabel as nib

    for path in case_folder.iterdir():
        role = path.name.split("_")[-1].split(".")[0]
        array = np.asarray(nib.load(path).dataobj)[:, :, 5]
        write_nifti(tmp_path / "slices" / f"case_{role}_080_w.nii.gz", array, np.eye(4))
    desk.viewer.open(tmp_path / "slices", plugin="napari-diffseg")
    assert "(80)" in desk.widget.parameters.this_slice.text()
    for region in (desk.widget.parameters.this_slice, desk.widget.parameters.whole_volume):
        region.click()
        desk.widget.parameters.seed.setValue(desk.widget.parameters.seed.value() + 1)
        desk.segment()
        assert desk.widget.run.message.kind != "error"
        assert desk.layer("mean").data.shape == (1, 40, 36)
        assert desk.layer("mean").data.any()
        assert desk.widget.readout.slices.text() == "slice 80"
        assert "0." in desk.widget.readout.dice.text()


def test_a_run_in_3d_and_back(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    desk.viewer.dims.ndisplay = 3  # napari warns of outlines in 3-D, and warnings are errors here
    desk.widget.parameters.whole_volume.click()
    slow_motion.go()
    desk.segment()
    assert desk.layer("mean").data.any(axis=(1, 2)).sum() == 8
    first = next(event for event in slow_motion.events if isinstance(event, SampleDone))
    assert first.z == TUMOUR_Z
    desk.viewer.dims.ndisplay = 2
    assert desk.layer("mask").contour == desk.layer("truth").contour == 1


def test_results_carry_their_provenance(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    desk.segment()
    for role in ("samples", "disagreement", "variance", "mean", "mask"):
        tag = desk.layer(role).metadata["diffseg"]
        assert tag["role"] == role
        assert tag["case"] == "Case_001"
        assert tag["seed"] == 0
        assert tag["n_steps"] == 3
        assert tag["sampler"] == "ddpm"
        assert tag["model_sha256"] == "0" * 64


def test_a_downgrade_is_shown_and_the_run_goes_on(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    from napari_diffseg.core.segment import segment

    def short_of_memory(*args: Any) -> Any:
        events = segment(*args)
        yield next(events)
        yield Downgraded("Memory ran out on cpu: going on with batches of 2.", "cpu", 2)
        yield from events

    desk = make_desk(short_of_memory)
    desk.open(case_folder)
    desk.segment()
    assert desk.widget.run.message.kind == "warning"
    assert "batches of 2" in desk.widget.run.message.text()
    assert desk.layer("mean").data.any()


def test_a_second_click_while_the_model_loads_cancels(
    make_desk: Callable[..., Desk], slow_motion: SlowMotion, case_folder: Path
) -> None:
    import threading

    loading, loaded = threading.Event(), threading.Event()

    def load(path: object) -> Any:
        loading.set()
        assert loaded.wait(120)
        return tiny_model()

    desk = make_desk(slow_motion, load)
    desk.open(case_folder)
    desk.click(desk.widget.run.button)
    desk.wait(loading.is_set)
    desk.wait(lambda: "Loading the model" in desk.widget.run.status.full_text())
    desk.click(desk.widget.run.button)
    loaded.set()
    desk.wait_until_ready()
    assert not slow_motion.events
    assert "mean" not in desk.roles


def test_parts_of_a_run_look_like_one_run(case: Any) -> None:
    from napari_diffseg._widgets.engine import Engine, Request, iter_run
    from napari_diffseg.core.events import CancelToken

    sampled = np.zeros((3, case.geometry.shape[0]), bool)
    sampled[:2, 5:7] = True  # a hole in the middle, where one member is missing
    request = Request(case, None, 3, None, None, 0, "cpu", None, 6, sampled)
    engine = Engine(load_tiny)
    events = list(iter_run(request, engine, CancelToken()))
    (started,) = (event for event in events if isinstance(event, Started))
    samples = [(e.member, e.z) for e in events if isinstance(e, SampleDone)]
    assert len(samples) == len(set(samples)) == 2 * 1 + 6 * 3
    assert samples[:2] == [(2, 6), (2, 5)]
    assert set(started.z_indices) == {z for _, z in samples}
    n_calls = sum(event.n_samples for event in events if isinstance(event, StepDone))
    assert started.n_network_calls == n_calls
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert isinstance(events[-1], Finished)


def test_views_from_the_side_are_of_the_body_and_not_of_the_samples(
    desk: Desk, case_folder: Path
) -> None:
    desk.open(case_folder)
    desk.segment()
    dims = desk.viewer.dims
    assert dims.axis_labels[0] == "sample"
    for _ in range(4):  # napari's button "roll dimensions"
        assert "sample" not in [dims.axis_labels[axis] for axis in dims.displayed]
        dims.roll()
    desk.viewer.layers.remove(desk.layer("samples"))
    assert dims.rollable == (True, True, True)
