"""The dock says what to do, what is odd about a scan, and when a result is unsure."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_diffseg._widgets import advice
from napari_diffseg.core.verdict import Verdict
from tests.plugin.conftest import Desk, SlowMotion, write_synthetic


def test_the_first_line_says_what_to_do(desk: Desk) -> None:
    assert desk.widget.run.status.full_text().startswith("Open a case")


def test_an_ordinary_case_has_no_banner(desk: Desk, case_folder: Path) -> None:
    desk.open(case_folder)
    desk.wait(lambda: not desk.widget._advice._tasks)
    assert desk.widget.run.message.text() == ""


def test_two_equal_files_are_pointed_out_once(desk: Desk, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path, "Mixed_up")
    t1, t1ce = (next(folder.glob(f"*_{name}.nii*")) for name in ("t1", "t1ce"))
    shutil.copy(t1, t1ce)
    first = desk.open(folder)
    message = desk.widget.run.message
    desk.wait(lambda: "T1 and T1ce are the same image" in message.text())
    assert message.kind == "warning"
    desk.click(message.close_button)
    other = desk.open(write_synthetic(tmp_path, "Other", seed=1))
    desk.widget._desk.choose(first)
    desk.wait(lambda: not desk.widget._advice._tasks)
    assert message.text() == ""
    desk.widget._desk.choose(other)


def test_the_banner_of_a_case_goes_with_it(desk: Desk, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path, "Mixed_up")
    t1, t2 = (next(folder.glob(f"*_{name}.nii*")) for name in ("t1", "t2"))
    shutil.copy(t1, t2)
    desk.open(folder)
    desk.wait(lambda: "T1 and T2 are the same image" in desk.widget.run.message.text())
    desk.open(write_synthetic(tmp_path, "Other", seed=1))
    assert desk.widget.run.message.text() == ""


def test_a_run_whose_samples_disagree_says_so_in_words(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def judge(confidence: float | None, work_list: list[int], **volumes: object) -> Verdict:
        heard.append((confidence, work_list, volumes))
        return Verdict("The samples disagree much.", is_warning=True)

    monkeypatch.setattr(advice, "judge", judge)
    case = desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.segment()
    desk.wait(lambda: desk.widget.run.message.text() == "The samples disagree much.")
    ((confidence, work_list, volumes),) = heard
    assert confidence is not None
    assert set(work_list) <= {case.geometry.to_source_slice(z) for z in range(2, 10)}
    mask_ml = np.count_nonzero(desk.layer("mask").data) * case.geometry.voxel_volume_ml
    assert volumes["mask_ml"] == pytest.approx(mask_ml)


def test_what_the_sliders_make_of_a_run_is_judged_too(
    desk: Desk, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*_: object, mask_ml: float, **__: object) -> Verdict:
        return Verdict("The mask is empty.", is_warning=not mask_ml)

    monkeypatch.setattr(advice, "judge", judge)
    desk.open(case_folder)
    desk.segment()
    message, threshold = desk.widget.run.message, desk.widget.ensemble.threshold
    assert message.text() == ""
    before = threshold.value()
    threshold.setValue(threshold.maximum())
    desk.layer("mean").data[:] = 0  # so that no voxel is above it
    desk.widget.stage.run.mean[:] = 0
    desk.widget.stage.run.mask[:] = 0
    desk.wait(lambda: message.text() == "The mask is empty.")
    threshold.setValue(before)
    desk.wait(lambda: message.text() == "")


def test_a_run_that_was_cancelled_is_judged(
    make_desk: Callable[..., Desk],
    slow_motion: SlowMotion,
    case_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict = Verdict("The samples disagree much.", is_warning=True)
    monkeypatch.setattr(advice, "judge", lambda *_, **__: verdict)
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.click(desk.widget.run.button)
    slow_motion.go(9)
    desk.wait(lambda: "samples" in desk.roles)
    desk.click(desk.widget.run.button)
    slow_motion.go()
    desk.wait_until_ready()
    assert desk.widget.run.status.full_text().startswith("Cancelled. ")
    desk.wait(lambda: desk.widget.run.message.text() == verdict.text)
