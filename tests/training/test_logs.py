from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from training.logs import CsvLog, RunLog, read_validation
from training.loop import StepResult


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result(step: int, loss: float) -> StepResult:
    return StepResult(step, 16 * step, loss, {"mask": loss / 2, "prior": loss / 2}, 1e-3, 0.5, 0.1)


def write_steps(log: CsvLog, steps: range) -> None:
    for step in steps:
        log.write({"step": step, "loss": step / 10})


def test_table_grows_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_steps(CsvLog(path, 0), range(1, 4))
    assert path.read_text("utf-8") == "step,loss\n1,0.1\n2,0.2\n3,0.3\n"


def test_steps_that_were_lost_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_steps(CsvLog(path, 0), range(1, 6))
    write_steps(CsvLog(path, 3), range(4, 7))
    assert [row["step"] for row in read(path)] == ["1", "2", "3", "4", "5", "6"]


def test_row_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_steps(CsvLog(path, 0), range(1, 4))
    path.write_text(path.read_text("utf-8")[:-2], encoding="utf-8")  # "3,0." looks complete
    log = CsvLog(path, 100)
    write_steps(log, range(3, 5))
    assert [row["loss"] for row in read(path)] == ["0.1", "0.2", "0.3", "0.4"]


def test_new_columns_join_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path, 0)
    log.write({"step": 1, "dice": None})
    log.write({"step": 2, "dice": 0.5, "agreement": 0.25})
    assert path.read_text("utf-8") == "step,dice,agreement\n1,,\n2,0.5,0.25\n"


def test_row_is_the_mean_since_the_last_one(tmp_path: Path, no_tensorboard: None) -> None:
    with RunLog(tmp_path, 0, 10, log_every=2) as log:
        for step in range(1, 6):
            log.on_step(result(step, float(step)))
    rows = read(tmp_path / "train.csv")
    assert [(row["step"], row["images"], row["loss"]) for row in rows] == [
        ("2", "32", "1.5"),
        ("4", "64", "3.5"),
    ]
    assert rows[0]["loss_mask"] == "0.75"
    assert float(rows[0]["learning_rate"]) == 1e-3


def test_validations_are_remembered_beyond_the_process(
    tmp_path: Path, no_tensorboard: None
) -> None:
    with RunLog(tmp_path, 0, 10, 2) as log:
        assert log.best("dice") is None
        log.on_validation({"step": 5, "dice": 0.7, "dice_prior": None}, None)
        log.on_validation({"step": 10, "dice": 0.6, "dice_prior": None}, None)
    with RunLog(tmp_path, 10, 10, 2) as log:
        assert log.best("dice") == 0.7
        assert log.best("dice_prior") is None
        assert log.is_validated(10)
        assert not log.is_validated(7)
    with RunLog(tmp_path, 5, 10, 2) as log:
        assert not log.is_validated(10)
    assert read_validation(tmp_path, 5) == {"step": 5.0, "dice": 0.7}
    assert read_validation(tmp_path, 10) == {}


def test_tensorboard_has_scalars_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, 0, 2, log_every=1) as log:
        log.on_step(result(1, 3.0))
        log.on_validation({"step": 1, "dice": 0.5}, np.zeros((8, 8, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("train/loss")[0].value == 3.0
    assert events.Scalars("validation/dice")[0].step == 1
    assert events.Tags()["images"] == ["samples"]


def test_without_tensorboard_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with RunLog(tmp_path, 0, 2, log_every=1) as log:
        log.on_step(result(1, 3.0))
    assert "TensorBoard is not installed" in capsys.readouterr().err
    assert len(read(tmp_path / "train.csv")) == 1
