from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core.brats import load_case
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.preprocessing import prepare_case
from tests.training.tiny import TRAINING, VALIDATION, TinyData
from training import nnunet
from training.baselines.nnunet import DATASET, NnunetSegmenter, read_probability
from training.baselines.opening import open_segmenter
from training.evaluate import main as evaluate
from training.nnunet import main
from training.results import SettingRow, SliceRow, read_rows


def test_dataset_has_nnunets_names_and_the_cases_own_grid(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    options = ["--split", str(tiny_data.split), "--work", str(tmp_path)]
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
    path.write_bytes(b"nonsense")
    with pytest.raises(CaseError, match="save_probabilities"):
        read_probability(path, case.geometry)
    with pytest.raises(CaseError, match="holds no prediction"):
        _ = NnunetSegmenter(tmp_path).folds


def test_missing_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert main(["train", "--work", str(tmp_path)]) == 2
    assert "pip install nnunetv2" in capsys.readouterr().err


def test_commands_are_nnunets_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    class Done:
        returncode = 0

    def run(command: list[str], env: dict[str, str], check: bool) -> Done:
        assert env["nnUNet_raw"] == str(tmp_path / "raw")
        ran.append(command)
        return Done()

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(nnunet.subprocess, "run", run)
    options = ["--work", str(tmp_path), "--folds", "0", "3", "--epochs", "5", "--device", "cpu"]
    assert main(["train", *options]) == 0
    assert main(["predict", *options]) == 0
    assert [command[0] for command in ran] == [
        "nnUNetv2_plan_and_preprocess",
        *["nnUNetv2_train"] * 2,
        *["nnUNetv2_predict"] * 2,
    ]
    assert ran[2][:6] == ["nnUNetv2_train", "500", "2d", "3", "-tr", "nnUNetTrainer_5epochs"]
    assert "--save_probabilities" in ran[-1]
    assert (tmp_path / "predictions" / "effort.json").exists()
