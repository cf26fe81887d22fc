from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shutil
import sys
import time
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_diffseg.core.brats import Case, CaseFiles, load_case
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.preprocessing import prepare_case
from tests.training.tiny import TRAINING, VALIDATION, TinyData
from training import nnunet
from training.baselines import nnunet_dataset
from training.baselines.nnunet import NnunetSegmenter, read_probability
from training.baselines.nnunet_folders import DATASET
from training.baselines.opening import open_segmenter
from training.evaluate import main as evaluate
from training.nnunet import main
from training.results import SettingRow, SliceRow, read_rows


def in_one_process(data: TinyData) -> list[str]:
    """Return which cases are converted, without the seconds that other processes need to start."""
    return [str(data.cases), "--split", str(data.split), "--workers", "1"]


def test_dataset_has_nnunets_names_and_the_cases_own_grid(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    options = ["--split", str(tiny_data.split), "--work", str(tmp_path), "--workers", "1"]
    assert main(["convert", str(tiny_data.cases), *options]) == 0
    dataset = tmp_path / "raw" / DATASET
    names = sorted(path.name for path in (dataset / "imagesTr").iterdir())
    assert names == [f"{case}_{i:04d}.nii.gz" for case in TRAINING for i in range(4)]
    assert len(list((dataset / "imagesTs").iterdir())) == 4
    assert not (dataset / "labelsTs").exists()
    description = json.loads((dataset / "dataset.json").read_text("utf-8"))
    assert description["channel_names"]["3"] == "FLAIR"
    assert description["labels"] == {"background": 0, "whole_tumour": 1}
    assert (description["numTraining"], description["file_ending"]) == (3, ".nii.gz")
    name = TRAINING[0]
    for converted, source in ((f"imagesTr/{name}_0003", "flair"), (f"labelsTr/{name}", "seg")):
        ours = nib.load(dataset / f"{converted}.nii.gz")
        theirs = nib.load(tiny_data.cases / name / f"{name}_{source}.nii.gz")
        assert np.array_equal(ours.affine, theirs.affine)
        expected = np.asanyarray(theirs.dataobj)
        if source == "seg":
            expected = expected > 0
        assert np.array_equal(np.asanyarray(ours.dataobj), expected)


def test_conversion_goes_on_where_it_was_interrupted(
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = shutil.copytree(tiny_data.cases, tmp_path / "cases")
    which = [str(cases), "--split", str(tiny_data.split), "--work", str(tmp_path / "work")]
    dataset = tmp_path / "work" / "raw" / DATASET
    converted: list[str] = []

    def convert(files: CaseFiles) -> Case:
        if len(converted) == 2:
            raise KeyboardInterrupt
        converted.append(files.name)
        return load_case(files)

    monkeypatch.setattr(nnunet_dataset, "load_case", convert)
    assert main(["convert", *which, "--workers", "1"]) == 130
    assert converted == [*TRAINING[:2]]
    assert not (dataset / "dataset.json").exists()
    (dataset / "imagesTr" / f"{TRAINING[1]}_0003.nii.gz").unlink()
    (dataset / "imagesTr" / f".part_{TRAINING[1]}_0003.nii.gz").write_text("cut off")
    del converted[:]
    converted.append("")
    assert main(["convert", *which, "--workers", "1"]) == 130
    assert converted == ["", TRAINING[1]]
    assert not list(dataset.glob("*/.part*"))
    # The rest by two processes; then nothing is left to do, until a case has changed.
    assert main(["convert", *which, "--workers", "2"]) == 0
    assert len(list(dataset.glob("images*/*.nii.gz"))) == 16
    assert json.loads((dataset / "dataset.json").read_text("utf-8"))["numTraining"] == 3
    del converted[:]
    assert main(["convert", *which]) == 0
    assert not converted
    future = time.time() + 10
    os.utime(cases / TRAINING[2] / f"{TRAINING[2]}_t2.nii.gz", (future, future))
    assert main(["convert", *which]) == 0
    assert converted == [TRAINING[2]]
    # nnU-Net would train on whatever it finds there.
    swapped = tmp_path / "swapped.json"
    swapped.write_text(json.dumps({"training": VALIDATION, "validation": TRAINING}), "utf-8")
    capsys.readouterr()
    which[2] = str(swapped)
    assert main(["convert", *which]) == 2
    assert "files that are not of this split" in capsys.readouterr().err


def write_prediction(folder: Path, tiny_data: TinyData, probability: float) -> None:
    """Write what nnU-Net would for a network that sees the labels."""
    name = VALIDATION[0]
    seg = np.asanyarray(nib.load(tiny_data.cases / name / f"{name}_seg.nii.gz").dataobj) > 0
    tumour = np.where(seg, probability, 0.1).astype(np.float32).T  # (z, y, x)
    folder.mkdir(parents=True)
    np.savez_compressed(folder / f"{name}.npz", probabilities=np.stack([1 - tumour, tumour]))


@pytest.fixture
def predictions(tiny_data: TinyData, tmp_path: Path) -> Path:
    write_prediction(tmp_path / "predictions" / "fold_0", tiny_data, 0.9)
    write_prediction(tmp_path / "predictions" / "fold_1", tiny_data, 0.4)
    return tmp_path / "predictions"


def test_softmax_comes_back_onto_the_case(predictions: Path, tiny_data: TinyData) -> None:
    case = load_case(tiny_data.cases / VALIDATION[0])
    path = predictions / "fold_0" / f"{case.name}.npz"
    assert np.array_equal(read_probability(path, case.geometry) > 0.5, case.wt_truth)
    segmenter = open_segmenter(predictions)
    ensemble = segmenter.segment(case, prepare_case(case, segmenter.preprocessing), None)
    assert ensemble.n_members == 2
    assert np.array_equal(ensemble.wt_mask(), case.wt_truth)  # (0.9 + 0.4) / 2
    assert not ensemble.wt_mask(k=2, of="masks").any()


def test_predictions_are_evaluated_like_any_other_system(
    predictions: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    (predictions / "effort.json").write_text('{"training_hours": "3.5"}', encoding="utf-8")
    arguments = ["--split", tiny_data.split, "--segmenter", predictions, "--out", tmp_path / "out"]
    assert evaluate([str(tiny_data.cases), *map(str, arguments), "--slices", "4:9"]) == 0
    rows = [r for r in read_rows(tmp_path / "out", SliceRow) if r.method == "probabilities"]
    assert {row.dice for row in rows} == {1.0}
    settings = {row.name: row.value for row in read_rows(tmp_path / "out", SettingRow)}
    assert (settings["system"], settings["samples"]) == ("nnunet", "2")
    assert settings["training_hours"] == "3.5"


def test_what_is_no_prediction_is_told(
    predictions: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    case = load_case(tiny_data.cases / VALIDATION[0])
    path = predictions / "fold_0" / f"{case.name}.npz"
    np.savez(path, probabilities=np.zeros((2, 3, 4, 5)))
    with pytest.raises(CaseError, match="is not \\(2, 12, 36, 40\\)"):
        read_probability(path, case.geometry)
    intact = (predictions / "fold_1" / path.name).read_bytes()
    for content in (b"nonsense", intact[: len(intact) // 2]):  # cut off while it was written
        path.write_bytes(content)
        with pytest.raises(CaseError, match="Delete it and predict again, with --save_prob"):
            read_probability(path, case.geometry)
    path.unlink()
    with pytest.raises(CaseError, match="is missing"):
        read_probability(path, case.geometry)
    with pytest.raises(CaseError, match="holds no prediction"):
        _ = NnunetSegmenter(tmp_path).folds


def test_missing_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert main(["train", "--work", str(tmp_path)]) == 2
    assert 'pip install "nnunetv2>=2.8"' in capsys.readouterr().err


@pytest.fixture
def cards() -> list[str]:
    """Give what each command of `ran` saw of the cards."""
    return []


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: list[str]) -> list[list[str]]:
    """Give the commands that were run, as if nnU-Net was there; each training leaves its fold."""
    commands: list[list[str]] = []
    clock = [0.0]  # a training takes an hour

    class Done:
        returncode = 0

    def run(command: list[str], env: dict[str, str], check: bool) -> Done:
        cards.append(env.get("CUDA_VISIBLE_DEVICES", ""))
        assert env["nnUNet_raw"] == str(tmp_path / "raw")
        assert (Path(env["nnUNet_extTrainer"]) / "timed.py").exists()
        commands.append(command)
        if command[0] == "nnUNetv2_train":
            trainer = command[command.index("-tr") + 1]
            name = f"{trainer}__nnUNetPlans__{command[2]}/fold_{command[3]}"
            fold = tmp_path / "results" / DATASET / name
            fold.mkdir(parents=True, exist_ok=True)
            (fold / "checkpoint_final.pth").touch()
            images = 300 * int(re.search(r"(\d+)epochs", trainer)[1])
            effort = {"parameters": 10, "images_seen": images, "seconds_per_iteration": 0.5}
            (fold / "effort.json").write_text(json.dumps(effort), "utf-8")
            clock[0] += 3600.0
        if command[0] == "nnUNetv2_predict":
            out = Path(command[command.index("-o") + 1])
            out.mkdir(parents=True, exist_ok=True)
            for image in (tmp_path / "raw" / DATASET / "imagesTs").glob("*_0000.nii.gz"):
                name = image.name.removesuffix("_0000.nii.gz")
                if not ((out / f"{name}.npz").exists() and (out / f"{name}.nii.gz").exists()):
                    (out / f"{name}.npz").write_text("probabilities")
                    (out / f"{name}.nii.gz").write_text("mask")
        return Done()

    monkeypatch.setattr(nnunet.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(shutil, "which", lambda name, **_: name)
    monkeypatch.setattr(nnunet.subprocess, "run", run)
    return commands


def test_commands_are_nnunets_own(tmp_path: Path, ran: list[list[str]]) -> None:
    options = ["--work", str(tmp_path), "--folds", "0", "3", "--epochs", "7", "--device", "cpu"]
    assert main(["train", *options]) == 0
    assert main(["predict", *options]) == 0
    assert [command[0] for command in ran] == [
        "nnUNetv2_plan_and_preprocess",
        *["nnUNetv2_train"] * 2,
        *["nnUNetv2_predict"] * 2,
    ]
    trainer = "nnUNetTrainer_7epochs_250iterations"
    assert ran[2][:6] == ["nnUNetv2_train", "500", "2d", "3", "-tr", trainer]
    assert trainer in ran[-1]
    assert "--save_probabilities" in ran[-1]
    effort = json.loads((tmp_path / "predictions" / "effort.json").read_text("utf-8"))
    assert (effort["parameters"], effort["images_seen"]) == (20, 2 * 7 * 300)
    assert effort["training_hours"] == "2.0000"


@pytest.fixture
def work(tiny_data: TinyData, tmp_path: Path) -> list[str]:
    """Give the options of a converted dataset."""
    convert = [*in_one_process(tiny_data), "--work", str(tmp_path)]
    assert main(["convert", *convert]) == 0
    return ["--work", str(tmp_path), "--device", "cpu"]


def test_record_is_of_the_folds_that_predicted(
    work: list[str], tmp_path: Path, ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = ([*work, "--epochs", epochs] for epochs in ("2", "10"))
    for options in (short, long):  # two lengths, fold by fold
        for fold in ("0", "1", "all"):
            assert main(["train", *options, "--folds", fold]) == 0
    predictions = tmp_path / "predictions"

    def settings() -> dict[str, object]:
        return NnunetSegmenter(predictions).settings

    assert main(["predict", *short, "--folds", "all"]) == 0
    assert (settings()["images_seen"], settings()["training_hours"]) == (2 * 300, "1.0000")
    assert main(["predict", *short, "--folds", "0", "1"]) == 0
    assert [fold.name for fold in NnunetSegmenter(predictions).folds] == ["fold_0", "fold_1"]
    assert (settings()["samples"], settings()["parameters"]) == (2, 20)
    assert (settings()["images_seen"], settings()["training_hours"]) == (2 * 2 * 300, "2.0000")
    # Another network has a folder of its own.
    assert main(["predict", *long, "--folds", "0"]) == 2
    assert "has predictions of nnUNetTrainer_2epochs_250iter" in capsys.readouterr().err
    assert main(["predict", *long, "--folds", "0", "--out", str(tmp_path / "long")]) == 0
    assert NnunetSegmenter(tmp_path / "long").settings["images_seen"] == 10 * 300
    assert settings()["images_seen"] == 2 * 2 * 300
    assert main(["predict", *short, "--folds", "4"]) == 2
    assert "fold_4: this fold has not been trained to its end" in capsys.readouterr().err


def test_hours_of_an_interrupted_training_count(
    work: list[str], tmp_path: Path, ran: list[list[str]]
) -> None:
    options = [*work, "--epochs", "2", "--folds", "0"]
    assert main(["train", *options]) == 0
    for path in tmp_path.glob("results/**/checkpoint_final.pth"):
        path.unlink()
    assert main(["train", *options]) == 0
    assert main(["predict", *options]) == 0
    assert NnunetSegmenter(tmp_path / "predictions").settings["training_hours"] == "2.0000"


def test_interrupted_prediction_goes_on(
    work: list[str], tmp_path: Path, ran: list[list[str]]
) -> None:
    options = [*work, "--epochs", "2", "--folds", "0", "1"]
    assert main(["train", *options]) == 0
    assert main(["predict", *options]) == 0
    ran.clear()
    assert main(["predict", *options]) == 0
    assert not ran
    probabilities = tmp_path / "predictions" / "fold_1" / f"{VALIDATION[0]}.npz"
    mask = probabilities.with_suffix(".nii.gz")
    mask.unlink()  # so the probabilities before it may have been cut off
    probabilities.write_text("prob")
    assert main(["predict", *options]) == 0
    assert [command[command.index("-f") + 1] for command in ran] == ["1"]
    assert "--continue_prediction" in ran[0]
    assert probabilities.read_text() == "probabilities"
    # Images that were converted anew are predicted anew.
    image = next((tmp_path / "raw" / DATASET / "imagesTs").glob(f"{VALIDATION[0]}_*.nii.gz"))
    image.touch()
    probabilities.write_text("of another image")
    os.utime(probabilities, ns=(0, image.stat().st_mtime_ns - 1))
    assert main(["predict", *options]) == 0
    assert probabilities.read_text() == "probabilities"
    # What an earlier training predicted is not this one's.
    for path in (probabilities, mask):
        path.write_text("old")
        os.utime(path, (1, 1))
    assert main(["predict", *options]) == 0
    assert probabilities.read_text() == "probabilities"


def test_what_is_done_is_not_done_again(
    tiny_data: TinyData,
    tmp_path: Path,
    ran: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    convert = [*in_one_process(tiny_data), "--work", str(tmp_path)]
    assert main(["convert", *convert]) == 0
    options = ["--work", str(tmp_path), "--device", "cpu", "--epochs", "1"]
    assert main(["train", *options, "--folds", "0"]) == 0
    prepared = tmp_path / "preprocessed" / DATASET
    (prepared / "nnUNetPlans_2d").mkdir(parents=True)
    (prepared / "nnUNetPlans.json").touch()
    for name in TRAINING[:-1]:
        (prepared / "nnUNetPlans_2d" / f"{name}.pkl").touch()
    ran.clear()
    assert main(["train", *options, "--folds", "0", "1"]) == 0
    # One case has not been prepared, so all are; fold 0 is there.
    assert [command[0] for command in ran] == ["nnUNetv2_plan_and_preprocess", "nnUNetv2_train"]
    assert ran[1][3] == "1"
    (prepared / "nnUNetPlans_2d" / f"{TRAINING[-1]}.pkl").touch()
    ran.clear()
    assert main(["train", *options, "--folds", "0", "1"]) == 0
    assert not ran
    # Another length is another network.
    assert main(["train", *options, "--folds", "0", "--iterations", "50"]) == 0
    assert ran[0][5] == "nnUNetTrainer_1epochs_50iterations"

    # A label was corrected: what was made of the old one does not count any more.
    label = tmp_path / "raw" / DATASET / "labelsTr" / f"{TRAINING[0]}.nii.gz"
    later = time.time() + 60
    os.utime(label, (later, later))
    ran.clear()
    assert main(["train", *options, "--folds", "0"]) == 2
    assert "was trained before images or labels were converted anew" in capsys.readouterr().err
    assert not ran
    final = next((tmp_path / "results").rglob("*_50iterations__*/fold_0/checkpoint_final.pth"))
    final.rename(final.with_name("checkpoint_latest.pth"))  # as of an interrupted training
    assert main(["train", *options, "--folds", "0", "--iterations", "50"]) == 2
    assert not ran
    assert main(["train", *options, "--folds", "2"]) == 0
    assert ran[0][0] == "nnUNetv2_plan_and_preprocess"


def test_a_batch_size_is_a_configuration_beside_nnunets_own(
    tiny_data: TinyData,
    tmp_path: Path,
    ran: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    convert = [*in_one_process(tiny_data), "--work", str(tmp_path)]
    assert main(["convert", *convert]) == 0
    prepared = tmp_path / "preprocessed" / DATASET
    (prepared / "nnUNetPlans_2d").mkdir(parents=True)
    for name in TRAINING:
        (prepared / "nnUNetPlans_2d" / f"{name}.pkl").touch()
    theirs = {"2d": {"batch_size": 106, "data_identifier": "nnUNetPlans_2d"}}
    plans = prepared / "nnUNetPlans.json"
    plans.write_text(json.dumps({"configurations": theirs}), "utf-8")
    options = ["--work", str(tmp_path), "--folds", "all", "--epochs", "1", "--batch-size", "12"]
    assert main(["train", *options]) == 0
    assert main(["predict", *options]) == 0
    assert [command[0] for command in ran] == ["nnUNetv2_train", "nnUNetv2_predict"]
    assert ran[0][2] == ran[1][ran[1].index("-c") + 1] == "2d_batch12"
    ours = {"2d_batch12": {"inherits_from": "2d", "batch_size": 12}}
    assert json.loads(plans.read_text("utf-8"))["configurations"] == theirs | ours
    with pytest.raises(SystemExit):
        main(["train", *options[:-1], "1"])
    assert "at least 2 slices" in capsys.readouterr().err


def test_the_card_that_is_asked_for_is_the_one_that_nnunet_sees(
    tmp_path: Path, ran: list[list[str]], cards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    options = ["train", "--work", str(tmp_path), "--device", "cuda:1", "--folds"]
    assert main([*options, "0"]) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert main([*options, "1"]) == 0
    assert set(cards[:2]) == {"1"}
    assert set(cards[2:]) == {"6"}
    assert all(
        command[command.index("-device") + 1] == "cuda" for command in ran if "-tr" in command
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert main([*options, "2"]) == 2
    with pytest.raises(SystemExit):
        main([*options, "2", "--device", "gpu"])


@pytest.mark.skipif(os.name == "nt", reason="a script is not executable there")
def test_nnunet_beside_this_python_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert not nnunet.is_installed()
    command = tmp_path / "nnUNetv2_train"
    command.write_text("#!/bin/sh\n", "utf-8")
    command.chmod(0o755)
    assert nnunet.is_installed()


def test_an_iteration_is_timed(tmp_path: Path, ran: list[list[str]]) -> None:
    assert nnunet.time_iteration(tmp_path, "cpu") == 0.5
    assert ran[-1][5] == "nnUNetTrainer_1epochs_4iterations"


def test_trainer_is_nnunets_but_for_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Theirs:
        """As much of nnU-Net's trainer as ours touches."""

        def __init__(self, plans, configuration, fold, dataset_json, device):
            self.given = plans, configuration, fold, dataset_json, device
            self.num_epochs, self.num_iterations_per_epoch = 1000, 250
            self.save_every, self.batch_size = 50, 12
            self.network, self.output_folder = torch.nn.Linear(3, 1), str(tmp_path)

        def initialize(self):
            self.device = self.given[-1]

        def train_step(self, batch):
            return {"loss": batch["loss"]}

        def on_train_end(self):
            self.ended = True

    names = ["nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer"]
    for name in (*names, f"{names[-1]}.nnUNetTrainer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[f"{names[-1]}.nnUNetTrainer"].nnUNetTrainer = Theirs
    path = Path(nnunet.__file__).parent / "nnunet_trainers" / "timed.py"
    spec = importlib.util.spec_from_file_location("timed", path)
    timed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timed)

    assert not hasattr(timed, "nnUNetTrainer_5epochs")  # nnU-Net's own are left to nnU-Net
    cls = timed.nnUNetTrainer_20epochs_3iterations
    assert cls is timed.nnUNetTrainer_20epochs_3iterations
    assert cls.__name__ == "nnUNetTrainer_20epochs_3iterations"
    # nnU-Net keeps its arguments by their names.
    assert [*inspect.signature(cls).parameters] == [*inspect.signature(Theirs).parameters]
    trainer = cls({}, "2d", 0, {}, torch.device("cpu"))
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (20, 3)
    assert trainer.save_every == 2
    assert [trainer.train_step({"loss": i})["loss"] for i in range(3)] == [0, 1, 2]
    trainer.on_train_end()
    assert trainer.ended
    effort = json.loads((tmp_path / "effort.json").read_text("utf-8"))
    assert (effort["parameters"], effort["images_seen"]) == (4, 20 * 3 * 12)
    assert effort["seconds_per_iteration"] >= 0

    images = torch.rand(2, 3)
    exact = trainer.network(images)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has_bfloat16 in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)  # noqa: B023
        trainer.initialize()
        outputs = trainer.network(images)
        assert outputs.dtype == torch.float32
        assert torch.equal(outputs, exact) != has_bfloat16
        torch.testing.assert_close(outputs, exact, rtol=0, atol=0.02)
