from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import training.train
from napari_diffseg.core.checkpoint import load_checkpoint
from napari_diffseg.core.errors import DiffsegError
from tests.training.tiny import (
    TRAINING,
    TinyData,
    assert_same_state,
    load_state_tensors,
    tiny_config,
)
from training.baseline_config import BaselineConfig
from training.baselines.checkpoint import save_baseline
from training.config import load_config
from training.data import find_patient
from training.export import main as export_main
from training.files import locked
from training.known_patients import find_training_patients
from training.loop import Trainer
from training.state import BEST_NAME, STATE_NAME, read_record
from training.train import main
from training.validate import Validator

pytestmark = pytest.mark.usefixtures("no_tensorboard")

SHORT = ("--set", "run.total_steps=21", "--set", "run.validate_every=14")
# TensorBoard takes seconds to be imported, and a run without it is a run as well.
WITHOUT_TENSORBOARD = (
    "import sys; sys.modules['torch.utils.tensorboard'] = None; "
    "from training.train import main; sys.exit(main())"
)
# It waits where it has to be killed at the latest, however long whoever does it takes.
TO_BE_KILLED = (
    """
import sys, time
from training.loop import Trainer

run_step = Trainer.run_step

def wait_at_step_13(trainer):
    if trainer.step == 13:
        time.sleep(3600)
    return run_step(trainer)

Trainer.run_step = wait_at_step_13
"""
    + WITHOUT_TENSORBOARD
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run that reached its end."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.logs._open_tensorboard", lambda *_: None)
        assert tiny_data.train(folder, *SHORT) == 0
    return folder


def copy_run(finished: Path, tmp_path: Path) -> Path:
    """Copy what a run needs to go on."""
    run = tmp_path / "run"
    run.mkdir()
    for name in (STATE_NAME, "config.toml", "split.json"):
        (run / name).write_bytes((finished / name).read_bytes())
    return run


def test_run_leaves_a_complete_record(finished: Path, tiny_data: TinyData) -> None:
    assert read_record(finished / STATE_NAME)["step"] == 21
    assert [row["step"] for row in read(finished / "train.csv")] == ["7", "14", "21"]
    validations = read(finished / "validation.csv")
    assert [row["step"] for row in validations] == ["14", "21"]
    assert all(0 <= float(row["dice_ensemble"]) <= 1 for row in validations)
    pictures = sorted(path.name for path in (finished / "previews").iterdir())
    assert pictures == ["step_0000014.png", "step_0000021.png"]
    assert load_config(finished / "config.toml") == tiny_config(*SHORT[1::2])
    assert json.loads((finished / "split.json").read_text("utf-8"))["training"] == [*TRAINING]
    (session,) = json.loads((finished / "run.json").read_text("utf-8"))["sessions"]
    assert session["from_step"] == 0
    assert session["n_training_cases"] == 3
    assert len(session["data_hash"]) == len(session["source_hash"]) == 64
    assert session["versions"]["torch"] == torch.__version__


def test_curves_are_drawn(finished: Path) -> None:
    text = (finished / "curves.svg").read_text("utf-8")
    assert "Training loss" in text
    assert "Validation Dice, best" in text


def test_run_can_be_made_again_from_its_folder(
    finished: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    places = {"--data": tiny_data.cache, "--split": finished / "split.json", "--run": tmp_path}
    options = [str(part) for item in places.items() for part in item]
    assert main([str(finished / "config.toml"), *options, "--threads", "1"]) == 0
    assert_same_state(finished, tmp_path)
    first, second = (
        json.loads((run / "run.json").read_text("utf-8"))["sessions"][0]
        for run in (finished, tmp_path)
    )
    for moment in ("started", "patch"):
        first.pop(moment, None)
        second.pop(moment, None)
    assert first == second
    assert first["processes"] == 1
    assert first["validation_source_hash"] != first["source_hash"]


def test_code_that_differs_from_its_commit_is_kept(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run_folder._find_patch", lambda: "+changed\n")
    assert tiny_data.train(tmp_path, "--set", "run.total_steps=1") == 0
    (session,) = json.loads((tmp_path / "run.json").read_text("utf-8"))["sessions"]
    assert (tmp_path / session["patch"]).read_text("utf-8") == "+changed\n"


def test_best_validation_is_kept(finished: Path) -> None:
    validations = read(finished / "validation.csv")
    best = max(validations, key=lambda row: float(row["dice_ensemble"]))
    assert read_record(finished / BEST_NAME)["step"] == int(best["step"])


def test_finished_run_has_nothing_left_to_do(finished: Path, tiny_data: TinyData) -> None:
    before = (finished / STATE_NAME).stat().st_mtime_ns
    assert tiny_data.train(finished, *SHORT) == 0
    assert (finished / STATE_NAME).stat().st_mtime_ns == before
    assert len(read(finished / "validation.csv")) == 2


def test_validation_leaves_the_training_alone(
    finished: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    often = ("--set", "run.total_steps=21", "--set", "run.validate_every=3")
    assert tiny_data.train(tmp_path / "often", *often) == 0
    assert_same_state(finished, tmp_path / "often")


def test_run_killed_at_any_moment_goes_on_bit_by_bit(tiny_data: TinyData, tmp_path: Path) -> None:
    settings = ("--set", "run.total_steps=49", "--set", "run.log_every=1")
    assert tiny_data.train(tmp_path / "whole", *settings) == 0

    killed = tmp_path / "killed"
    arguments = tiny_data.arguments(killed, *settings)
    command = [sys.executable, "-c", TO_BE_KILLED, *arguments]
    repository = Path(training.train.__file__).parents[1]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL) as process:
        wait_for_row(killed / "train.csv", 10)  # beyond the state of step 7
        process.kill()
        assert process.wait() != 0
    assert read_record(killed / STATE_NAME)["step"] == 7

    assert tiny_data.train(killed, *settings) == 0
    assert_same_state(tmp_path / "whole", killed)
    for name in ("train.csv", "validation.csv"):
        whole, again = read(tmp_path / "whole" / name), read(killed / name)
        for row in (*whole, *again):
            row.pop("step_s", None)
        assert whole == again
    sessions = json.loads((killed / "run.json").read_text("utf-8"))["sessions"]
    assert [session["from_step"] > 0 for session in sessions] == [False, True]


def wait_for_row(path: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and f"\n{step}," in path.read_text("utf-8"):
            return
        time.sleep(0.005)
    pytest.fail("the run did not get going")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_stops(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    run_step = Trainer.run_step

    def interrupted(trainer: Trainer):
        if trainer.step == 10:
            signal.raise_signal(number)
        return run_step(trainer)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", interrupted)
        assert tiny_data.train(tmp_path / "run", *SHORT) == 128 + number
    assert signal.getsignal(number) is handler
    assert read_record(tmp_path / "run" / STATE_NAME)["step"] == 11
    assert tiny_data.train(tmp_path / "run", *SHORT) == 0
    assert [row["step"] for row in read(tmp_path / "run" / "train.csv")] == ["7", "14", "21"]


def test_signal_during_a_validation_makes_up_for_it(
    finished: Path, tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("training.validate.Validator.validate", interrupted)
    assert tiny_data.train(tmp_path / "run", *SHORT) == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "validation.csv").exists()
    monkeypatch.undo()
    monkeypatch.setattr("training.logs._open_tensorboard", lambda *_: None)
    assert tiny_data.train(tmp_path / "run", *SHORT) == 0
    assert read(tmp_path / "run" / "validation.csv") == read(finished / "validation.csv")
    assert_same_state(finished, tmp_path / "run")


def test_dry_run_shows_everything_and_writes_nothing(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_data.train(tmp_path / "run", *SHORT, "--dry-run") == 0
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "total_steps = 21" in printed
    assert "(prior encoder " in printed
    assert "slices of 3 cases" in printed
    assert "window (48, 48)" in printed
    assert "4 slices of 1 cases" in printed
    assert os.name == "nt" or re.search(r"memory +\d+\.\d GB at most", printed)
    assert "Nothing was written" in printed


def test_dry_run_leaves_a_run_alone(
    finished: Path, tiny_data: TinyData, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert tiny_data.train(finished, *SHORT, "--dry-run") == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert "goes on at step 21 of 21" in capsys.readouterr().out


def test_other_settings_need_to_be_allowed(
    finished: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(finished, tmp_path)
    longer = (*SHORT, "--set", "run.total_steps=28", "--set", "run.batch_size=3")
    assert tiny_data.train(run, *longer) == 1
    message = capsys.readouterr().err
    assert "run.total_steps: 21 -> 28" in message
    assert "run.batch_size: 4 -> 3" in message
    assert "--allow-changes" in message
    assert read_record(run / STATE_NAME)["step"] == 21
    assert tiny_data.train(run, *longer, "--allow-changes") == 0
    assert read_record(run / STATE_NAME)["step"] == 28
    assert load_config(run / "config.toml").run.batch_size == 3
    # Another person can still tell what the first steps were made with.
    assert load_config(run / "config.until_0000021.toml").run.batch_size == 4
    assert not list(run.glob("split.until*"))
    # What the weights have seen, whatever the size of a batch is now.
    out = tmp_path / "model.safetensors"
    assert export_main([str(run), str(out)]) == 0
    assert load_checkpoint(out).provenance["images_seen"] == 21 * 4 + 7 * 3
    assert read(run / "train.csv")[-1]["images"] == str(21 * 4 + 7 * 3)


def test_settings_that_were_not_used_for_a_single_step_replace_none_that_were(
    finished: Path, tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run(finished, tmp_path)
    longer = (*SHORT, "--set", "run.total_steps=22", "--allow-changes")

    def stop(trainer: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", stop)
        with contextlib.suppress(KeyboardInterrupt):
            tiny_data.train(run, *longer, "--set", "optimiser.learning_rate=0.5")
    assert tiny_data.train(run, *longer, "--set", "optimiser.learning_rate=0.25") == 0
    rates = [
        load_config(run / name).optimiser.learning_rate
        for name in ("config.until_0000021.toml", "config.toml")
    ]
    assert rates == [tiny_config().optimiser.learning_rate, 0.25]


@pytest.mark.parametrize(
    "change",
    ["model.denoiser.n_groups=2", "diffusion.schedule=linear", "preprocessing.centre=grid"],
)
def test_another_model_is_never_allowed(
    finished: Path, tiny_data: TinyData, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert tiny_data.train(finished, *SHORT, "--set", change, "--allow-changes") == 1
    message = capsys.readouterr().err
    # A cache of other preprocessing is found out even before.
    assert "of another model" in message or "prepared with other settings" in message
    assert change.partition("=")[0].split(".")[-1] in message


def test_other_patients_need_to_be_allowed(
    finished: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": TRAINING[:2], "validation": TRAINING[2:]}))
    arguments = tiny_data.arguments(finished, *SHORT, "--split", str(split))
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "the training cases are others" in message
    assert "the validation cases are others" in message

    # Who was trained on is known to the weights, also if it is for validation now.
    run = copy_run(finished, tmp_path)
    more = ("--set", "run.total_steps=22", "--set", "run.validate_every=0", "--allow-changes")
    assert main(tiny_data.arguments(run, *more, "--split", str(split))) == 0
    out = tmp_path / "model.safetensors"
    assert export_main([str(run), str(out)]) == 0
    known = find_training_patients(load_checkpoint(out).provenance)
    assert known >= {find_patient(name) for name in TRAINING}


def test_resume_and_no_resume_insist(
    finished: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_data.train(finished, *SHORT, "--no-resume") == 1
    assert "--no-resume would overwrite" in capsys.readouterr().err
    assert tiny_data.train(tmp_path / "new", *SHORT, "--resume") == 1
    assert "no run to go on with" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_folder_belongs_to_one_process(
    finished: Path, tiny_data: TinyData, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl", reason="no lock on Windows")
    with locked(finished, "training"):
        assert tiny_data.train(finished, *SHORT) == 1
        assert "Another process" in capsys.readouterr().err
        with pytest.raises(DiffsegError), locked(finished, "training"):
            pass
    with locked(finished, "training"):
        pass


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no lock on Windows")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path, "training"):
        assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


def test_state_of_an_earlier_version_without_new_settings_goes_on(
    finished: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    run = tmp_path / "run"
    run.mkdir()
    record = read_record(finished / STATE_NAME)
    del record["config"]["optimiser"]["ema_warmup"]
    record["provenance"] = {"data_hash": record["provenance"]["data_hash"]}
    tensors = load_state_tensors(finished) | {"rng.cpu": torch.get_rng_state()}
    save_file(tensors, run / STATE_NAME, {"diffseg_training": json.dumps(record)})
    assert tiny_data.train(run, *SHORT) == 0


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--data", "nowhere", "not a slice cache"),
        ("--split", "nowhere.json", "not a split file"),
        ("--device", "tpu", "device"),
        ("--set", "run.steps=3", "Unknown setting run.steps"),
    ],
)
def test_wrong_input_is_named_without_a_traceback(
    tiny_data: TinyData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    complaint: str,
) -> None:
    assert tiny_data.train(tmp_path / "run", option, value) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_split_without_validation_trains_without(tiny_data: TinyData, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": TRAINING, "validation": []}))
    arguments = tiny_data.arguments(tmp_path / "run", *SHORT, "--split", str(split))
    assert main(arguments) == 0
    assert read_record(tmp_path / "run" / STATE_NAME)["step"] == 21
    assert not (tmp_path / "run" / "validation.csv").exists()


def test_gradients_that_are_not_finite_end_with_advice(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ("--set", "optimiser.learning_rate=1e30", "--set", "optimiser.clip_norm=0")
    assert tiny_data.train(tmp_path / "run", *SHORT, *wild) == 1
    assert "lower optimiser.learning_rate" in capsys.readouterr().err


def test_lack_of_memory_ends_with_advice(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def run_out(_self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    monkeypatch.setattr(Trainer, "run_step", run_out)
    assert tiny_data.train(tmp_path / "run", *SHORT) == 1
    error = capsys.readouterr().err
    assert "The memory ran out. Set run.accumulate=2" in error
    assert "Traceback" not in error


def test_run_starts_from_a_models_weights(
    finished: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    assert export_main([str(finished), str(model)]) == 0
    still = ("--set", "optimiser.learning_rate=0.0", "--set", "run.total_steps=1")
    tuned = tmp_path / "tuned"
    assert tiny_data.train(tuned, "--init", str(model), *still) == 0
    weights = load_checkpoint(model).network.state_dict()
    state = load_state_tensors(tuned)
    for part in ("network", "ema"):
        for name, value in weights.items():
            torch.testing.assert_close(state[f"{part}.{name}"], value)
    origin = read_record(tuned / STATE_NAME)["provenance"]["init"]
    assert origin["sha256"] == load_checkpoint(model).sha256
    assert origin["provenance"]["steps"] == 21
    assert tiny_data.train(tuned, "--init", str(model), *still) == 0

    # A model that it has not begun from is not passed over in silence.
    another = tmp_path / "another.safetensors"
    assert export_main([str(tuned), str(another)]) == 0
    capsys.readouterr()
    assert tiny_data.train(tuned, "--init", str(another), *still, "--allow-changes") == 1
    assert f"--init {another}: the run did not begin from it" in capsys.readouterr().err
    assert tiny_data.train(tuned, "--init-encoder", str(model), *still) == 1
    assert "--init-encoder" in capsys.readouterr().err

    # It goes on without the model, and still knows where it came from.
    model.unlink()
    more = ("--set", "run.total_steps=2", "--allow-changes")
    assert tiny_data.train(tuned, *still[:2], *more) == 0
    record = read_record(tuned / STATE_NAME)
    assert record["step"] == 2
    assert record["provenance"]["init"] == origin


def test_only_the_denoiser_learns_after_another_encoder(
    finished: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, unet = tmp_path / "model.safetensors", tmp_path / "unet.safetensors"
    assert export_main([str(finished), str(model)]) == 0
    encoder = load_checkpoint(model).network.prior_encoder
    assert encoder is not None
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_baseline(
        unet,
        encoder,
        BaselineConfig(unet=encoder.config),
        load_checkpoint(model).preprocessing,
        "unet",
        {},
    )
    frozen = ("--set", "optimiser.train_prior_encoder=false", "--set", "run.total_steps=2")
    tuned = tmp_path / "tuned"
    assert tiny_data.train(tuned, *frozen) == 1
    assert "name the model that it comes from with --init" in capsys.readouterr().err
    start = ("--init", str(model), "--init-encoder", str(unet))
    assert tiny_data.train(tuned, *start, *frozen) == 0
    before = load_checkpoint(model).network.state_dict()
    state = load_state_tensors(tuned)
    for name, value in encoder.state_dict().items():
        assert torch.equal(state[f"network.prior_encoder.{name}"], value)
    moved = [
        name
        for name in before
        if name.startswith("denoiser") and not torch.equal(state[f"network.{name}"], before[name])
    ]
    assert moved
    origins = read_record(tuned / STATE_NAME)["provenance"]
    assert (origins["init"]["name"], origins["init_encoder"]["name"]) == ("finished", "unet")

    # A second encoder that nobody has trained would be noise.
    second = ("--set", "model.second_encoder.channels=[4, 8]")
    second += ("--set", "model.second_encoder.n_convolutions=[1, 1]")
    assert tiny_data.train(tmp_path / "two", *start, *frozen, *second) == 1
    assert "model.second_encoder" in capsys.readouterr().err
    assert tiny_data.train(tmp_path / "two", *start[2:], *frozen, *second) == 1
    assert "or the SegNet with --init-second-encoder" in capsys.readouterr().err

    # The U-Net alone: the denoiser starts from nothing.
    fresh = tmp_path / "fresh"
    assert tiny_data.train(fresh, "--init-encoder", str(unet), *frozen) == 0
    state = load_state_tensors(fresh)
    for name, value in encoder.state_dict().items():
        assert torch.equal(state[f"network.prior_encoder.{name}"], value)
    assert set(read_record(fresh / STATE_NAME)["provenance"]) & {"init", "init_encoder"} == {
        "init_encoder"
    }


def test_run_does_not_start_from_another_kind_of_model(
    finished: Path,
    tiny_data: TinyData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model.safetensors"
    assert export_main([str(finished), str(model)]) == 0
    wider = ("--set", "diffusion.signal=[-0.5, 0.5]")
    assert tiny_data.train(tmp_path / "other", "--init", str(model), *wider) == 1
    message = capsys.readouterr().err
    assert "model.safetensors is another model" in message
    assert "diffusion.signal" in message
    assert not (tmp_path / "other").exists()


# --- early stopping -------------------------------------------------------------------------------


def test_run_ends_when_validations_get_no_better(
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Validator.validate
    dice = iter([0.5, 0.6, 0.55, 0.59, 0.9])

    def validate(self, *arguments):
        result, picture = real(self, *arguments)
        return replace(result, dice_ensemble=next(dice)), picture

    monkeypatch.setattr(Validator, "validate", validate)
    settings = ["run.total_steps=20", "run.validate_every=2", "run.stop_after=2"]
    options = [part for setting in settings for part in ("--set", setting)]
    assert tiny_data.train(tmp_path / "run", *options) == 0
    assert "No better validation for 2 in a row" in capsys.readouterr().err
    assert read_record(tmp_path / "run" / STATE_NAME)["step"] == 8
    assert read_record(tmp_path / "run" / BEST_NAME)["step"] == 4
    # The same command does not begin again.
    assert tiny_data.train(tmp_path / "run", *options) == 0
    assert read_record(tmp_path / "run" / STATE_NAME)["step"] == 8
