"""The evaluation: hand-drawn members with known scores, resuming, and the printed table."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core.brats import Case
from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint, save_checkpoint
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.geometry import to_source_grid
from napari_diffseg.core.levels import MASK_LEVEL
from napari_diffseg.core.metrics import compute_dice, compute_hd95_mm
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.run import run_case
from tests.core.case_files import write_case
from tests.core.synthetic import synthetic_case
from tests.models import published_state, tiny_model
from training import evaluate as evaluation
from training.bootstrap import bootstrap_interval
from training.comparison import make_comparison
from training.data import load_split
from training.evaluate import main
from training.known_patients import find_training_patients
from training.measure import measure_case
from training.results import (
    CalibrationRow,
    CaseRow,
    SettingRow,
    SliceRow,
    UncertaintyRow,
    read_rows,
    write_rows,
)
from training.table import main as table_main
from training.table import make_report

SPLITS = Path(evaluation.__file__).parent / "splits"

SLICES = "4:9"


# ---------------------------------------------------------------------------- what is measured


def levels(case: Case, mask: np.ndarray, probability: int = 255) -> np.ndarray:
    assert case.wt_truth is not None
    return np.where(mask, probability, 0).astype(np.uint8)


@pytest.fixture
def case() -> Case:
    case = synthetic_case()
    truth = np.zeros(case.geometry.shape, bool)
    truth[3:8, 10:14, 10:14] = True  # 16 voxels on each of slices 3 to 7
    return replace(case, wt_truth=truth)


def members_of(case: Case) -> Ensemble:
    """Give a perfect member, one of half the size and a hesitant one (p = 0.4)."""
    assert case.wt_truth is not None
    half = case.wt_truth.copy()
    half[:, 12:] = False
    members = [
        levels(case, case.wt_truth),
        levels(case, half),
        levels(case, case.wt_truth, 102),
    ]
    return Ensemble.from_arrays(np.stack(members))


def test_every_method_is_scored_on_every_slice_with_tumour(case: Case) -> None:
    brain = np.ones(case.geometry.shape, bool)
    rows = measure_case(case, "p", members_of(case), brain, (2, 7)).slices
    by_method = {(row.slice, row.method, row.member): row for row in rows}
    # Slice 2 of the range has no tumour; slices 3 to 6 have three runs and two ensembles each.
    assert sorted({row.slice for row in rows}) == [
        case.geometry.to_source_slice(z) for z in sorted(range(3, 7), reverse=True)
    ]
    assert len(rows) == 4 * 5
    number = case.geometry.to_source_slice(3)
    perfect, half, hesitant = (by_method[number, "run", member] for member in range(3))
    assert (perfect.dice, perfect.jaccard, perfect.hd95_mm, perfect.empty) == (1, 1, 0, False)
    assert half.dice == pytest.approx(2 * 8 / 24)
    assert half.hd95_mm == pytest.approx(2)
    assert half.predicted_mm2 == 8
    assert (hesitant.dice, hesitant.jaccard, hesitant.hd95_mm) == (0, 0, None)
    assert hesitant.empty
    # Mean of probabilities: (1 + 1 + 0.4) / 3 and (1 + 0 + 0.4) / 3 = 0.47; of masks: 2/3 and 1/3.
    assert by_method[number, "probabilities", None].dice == pytest.approx(2 * 8 / 24)
    assert by_method[number, "masks", None].dice == pytest.approx(2 * 8 / 24)
    assert by_method[number, "masks", None].n_samples == 3
    assert perfect.truth_mm2 == 16


def test_volume_scores_are_of_the_region_and_of_the_whole(case: Case) -> None:
    assert case.wt_truth is not None
    everywhere = np.stack([levels(case, case.wt_truth)] * 2)
    everywhere[:, :5] = 0  # misses slices 3 and 4
    brain = np.ones(case.geometry.shape, bool)
    ensemble = Ensemble.from_arrays(everywhere)
    # The protocol's slices are the table's row, also where they are all that a file has.
    everything = (0, len(case.wt_truth))
    assert not any(
        row.whole_volume for row in measure_case(case, "p", ensemble, brain, everything).cases
    )
    rows = measure_case(case, "p", ensemble, brain, (4, 9), whole_volume=True).cases
    part, whole = (
        next(row for row in rows if row.whole_volume == is_whole and row.method == "masks")
        for is_whole in (False, True)
    )
    assert part.dice == pytest.approx(2 * 3 / (3 + 4))
    assert whole.dice == pytest.approx(2 * 3 / (3 + 5))
    assert whole.volume_error_ml == pytest.approx(-2 * 16 / 1000)
    assert part.truth_ml == pytest.approx(4 * 16 / 1000)
    assert whole.hd95_mm == compute_hd95_mm(everywhere[0] > 0, case.wt_truth, (1, 1, 1))


def test_maps_are_judged_inside_the_brain_and_the_range(case: Case) -> None:
    ensemble = members_of(case)
    brain = np.zeros(case.geometry.shape, bool)
    brain[:, 8:16, 8:16] = True
    result = measure_case(case, "p", ensemble, brain, (4, 6))
    run, soft, hard = result.uncertainty
    assert [row.method for row in (run, soft, hard)] == ["run", "probabilities", "masks"]
    assert soft.n_voxels == 2 * 64
    assert (run.n_errors, run.ece, run.error_auroc) == (0, 0, None)  # the first member is perfect
    assert (run.n_samples, run.diversity) == (1, None)
    assert soft.n_errors == hard.n_errors == 2 * 8
    # Uncertain: all 16 tumour voxels, most of all (0.47) the 8 wrong ones; background is certain.
    assert soft.error_auroc == 1
    assert hard.error_auroc is not None
    # Of masks, the wrong voxels have 1/3 and the right ones 2/3: the same variance.
    assert hard.error_auroc == pytest.approx((96 + 16 / 2) / 112)
    # ECE: 8 of 64 voxels have p = 0.8 instead of 1, 8 have 0.467.
    assert soft.ece == pytest.approx((8 * 0.2 + 8 * (1 - 1.4 / 3)) / 64, abs=1e-6)
    curve = [row for row in result.calibration if row.method == "probabilities"]
    assert sum(row.n_voxels for row in curve) == soft.n_voxels
    assert sum(row.observed_sum for row in curve) == 2 * 16


def test_slices_have_what_they_can_be_ranked_by(case: Case) -> None:
    brain = np.zeros(case.geometry.shape, bool)
    brain[:, 8:16, 8:16] = True
    rows = measure_case(case, "p", members_of(case), brain, (4, 5)).slices
    (soft,) = [row for row in rows if row.method == "probabilities"]
    # Masks of 16, 8 and 0 voxels: Dice 2/3 of the first two, 0 of the others.
    assert soft.confidence == pytest.approx(2 / 3 / 3)
    # p is 0.8 in 8 voxels of the mask, 1.4 / 3 in 8 others; the mask has 8.
    assert soft.soft_dice == pytest.approx(2 * 6.4 / (6.4 + 8 * 1.4 / 3 + 8), abs=1e-3)
    p = np.array([0.8, 1.4 / 3])
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum() * 8 / 64
    assert soft.mean_entropy == pytest.approx(bits, abs=1e-3)
    runs = [row for row in rows if row.method == "run"]
    assert [row.soft_dice for row in runs] == [1.0, None, None]
    assert {row.confidence for row in runs} == {None}


def test_thresholds_are_measured_in_3d_as_well(case: Case) -> None:
    # A false slice beside the tumour: Dice per slice knows only those with tumour.
    assert case.wt_truth is not None
    mask = case.wt_truth.copy()
    mask[2] = mask[3]
    ensemble = Ensemble.from_arrays(levels(case, mask)[np.newaxis])
    brain = np.ones(case.geometry.shape, bool)
    (row,) = measure_case(case, "p", ensemble, brain, (2, 7)).thresholds[9:10]
    assert (row.threshold, row.dice) == (0.5, 1.0)
    assert row.volume_dice == pytest.approx(2 * 64 / (64 + 80))
    nothing = replace(case, wt_truth=np.zeros_like(case.wt_truth))
    (row,) = measure_case(nothing, "p", ensemble, brain, (2, 7)).thresholds[9:10]
    assert (row.n_slices, row.dice, row.volume_dice, row.truth_ml) == (0, None, 0.0, 0.0)


def test_masks_are_measured_at_every_threshold(case: Case) -> None:
    brain = np.ones(case.geometry.shape, bool)
    rows = measure_case(case, "p", members_of(case), brain, (2, 7)).thresholds
    assert [row.threshold for row in rows] == [round(0.05 * k, 2) for k in range(1, 20)]
    # The mean is 0.8 in one half of the tumour and 0.47 in the other.
    for row in rows:
        expected = 1.0 if row.threshold < 0.46 else 2 * 8 / 24 if row.threshold < 0.79 else 0.0
        if row.threshold != 0.8:
            assert row.dice == row.volume_dice == pytest.approx(expected), row.threshold
        assert (row.n_slices, row.truth_ml) == (4, pytest.approx(4 * 16 / 1000))
    assert rows[11].predicted_ml == pytest.approx(rows[11].truth_ml / 2)


def test_first_members_are_what_a_smaller_ensemble_is(case: Case) -> None:
    brain = np.zeros(case.geometry.shape, bool)
    brain[:, 8:16, 8:16] = True
    whole = members_of(case)
    rows = measure_case(case, "p", whole, brain, (2, 7)).members
    assert [(row.method, row.n_samples) for row in rows] == [
        (method, k) for method in ("probabilities", "masks") for k in (1, 2, 3)
    ]
    for k in (1, 2, 3):
        smaller = Ensemble.from_arrays(whole.members_uint8()[:k])
        result = measure_case(case, "p", smaller, brain, (2, 7))
        for method in ("probabilities", "masks"):
            (row,) = [r for r in rows if (r.method, r.n_samples) == (method, k)]
            (maps,) = [u for u in result.uncertainty if u.method == method]
            slices = [s for s in result.slices if s.method == method]
            assert row.n_slices == len(slices) == 4
            assert row.dice == pytest.approx(np.mean([s.dice for s in slices]))
            assert row.n_empty == sum(s.empty for s in slices)
            assert (row.ece, row.brier, row.error_auroc) == (
                maps.ece,
                maps.brier,
                maps.error_auroc,
            )
            assert row.diversity == pytest.approx(maps.diversity)
            assert row.confidence == pytest.approx(maps.confidence)
    first, second, third = rows[:3]
    assert (first.dice_with_before, first.monte_carlo_error) == (None, None)
    # Of one member the whole, of two the half, since (1 + 0) / 2 is not above 0.5.
    assert second.dice_with_before == pytest.approx(2 * 8 / 24)
    assert third.monte_carlo_error is not None


# ----------------------------------------------------------------------------- the whole command


def write_synthetic(folder: Path, name: str, seed: int, *, labels: bool = True) -> Path:
    case = synthetic_case(seed=seed)
    prior = [to_source_grid(volume, case.geometry) for volume in case.prior_image]
    images = dict(zip(("t1", "t1ce", "t2", "flair"), prior, strict=True))
    if labels:
        assert case.labels is not None
        images["seg"] = to_source_grid(case.labels, case.geometry)
    return write_case(folder / name, name, images=images, affine=case.geometry.source_affine)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model()
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    return save_checkpoint(path, model.network, model.preprocessing, model.card, {})


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    for seed, name in enumerate(("Case_1", "Case_2", "Case_3")):
        write_synthetic(tmp_path / "cases", name, seed)
    return tmp_path / "cases"


@pytest.fixture
def run(cases: Path, tmp_path: Path, checkpoint: Path):
    def evaluate(*arguments: str) -> int:
        fixed = ["--checkpoint", str(checkpoint), "--slices", SLICES, "--device", "cpu"]
        return main([str(cases), "--out", str(tmp_path / "out"), *fixed, *arguments])

    return evaluate


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], {}),
        (["--sampler", "ddim", "--eta", "0.5"], {"sampler": "ddim", "eta": 0.5}),
        (["--steps", "2", "--mirror"], {"n_steps": 2, "mirror": True}),
        (["--vary-contrast"], {"vary_contrast": True}),
    ],
)
def test_numbers_are_those_of_the_sampled_members(
    run, cases: Path, tmp_path: Path, checkpoint: Path, options: list[str], asked: dict
) -> None:
    from napari_diffseg.core.brats import load_case
    from napari_diffseg.core.checkpoint import load_checkpoint

    assert run("--samples", "2", "--seed", "3", *options) == 0
    case = load_case(cases / "Case_2")
    assert case.wt_truth is not None
    params = SegmentParams(n_samples=2, seed=3, device="cpu", **asked)
    members = run_case(case, load_checkpoint(checkpoint), params).ensemble.members_uint8()
    rows = [row for row in read_rows(tmp_path / "out", SliceRow) if row.case == "Case_2"]
    assert {row.slice for row in rows} == {4, 5, 6, 7, 8}
    for row in rows:
        if row.method == "run":
            assert row.member is not None
            z = case.geometry.from_source_slice(row.slice)
            dice = compute_dice(members[row.member, z] >= MASK_LEVEL, case.wt_truth[z])
            assert row.dice == pytest.approx(dice)
    assert not any(row.whole_volume for row in read_rows(tmp_path / "out", CaseRow))


def test_table_is_printed_and_made_again_from_the_csv_alone(run, tmp_path: Path, capsys) -> None:
    assert run("--samples", "2") == 0
    printed = capsys.readouterr().out
    for name in ("cases", "settings"):
        assert f"{name}.csv" in {path.name for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out" / "cases").iterdir():
        path.unlink()
    assert table_main([str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == printed
    assert "15 slices with tumour among slices 4-8; cases: 3, patients: 3." in printed
    for name in ("| 1 run ", "| 1 run, mean of 2 ", "| ensemble of 2, of probabilities "):
        assert name in printed
    assert "ddpm, 3 steps, seed 0" in printed


def test_all_slices_change_nothing_of_the_protocol(run, tmp_path: Path) -> None:
    assert run("--samples", "2") == 0
    before = (tmp_path / "out" / "slices.csv").read_bytes()
    assert run("--samples", "2", "--all-slices") == 0
    assert (tmp_path / "out" / "slices.csv").read_bytes() == before
    rows = read_rows(tmp_path / "out", CaseRow)
    assert {(row.whole_volume, row.first_slice, row.last_slice) for row in rows} == {
        (False, 4, 8),
        (True, 0, 11),
    }
    assert "3-D, whole volume" in make_report(tmp_path / "out")


def test_finished_cases_are_not_sampled_again(run, tmp_path: Path, monkeypatch) -> None:
    sampled = []
    real = evaluation.evaluate_case

    def count(files, *arguments):
        sampled.append(files.name)
        if files.name == "Case_3" and len(sampled) == 3:
            raise KeyboardInterrupt
        return real(files, *arguments)

    monkeypatch.setattr(evaluation, "evaluate_case", count)
    assert run("--samples", "1") == 130
    assert run("--samples", "1") == 0
    assert sampled == ["Case_1", "Case_2", "Case_3", "Case_3"]
    whole = (tmp_path / "out" / "slices.csv").read_bytes()
    assert run("--samples", "1") == 0
    assert len(sampled) == 4
    assert (tmp_path / "out" / "slices.csv").read_bytes() == whole
    assert run("--samples", "1", "--seed", "1") == 0
    assert len(sampled) == 7
    assert run("--samples", "1", "--seed", "1", "--fresh") == 0
    assert len(sampled) == 10


def test_shares_of_the_cases_are_put_together_by_a_last_call(
    run, cases: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "out"
    assert run("--samples", "1") == 0
    whole = (out / "slices.csv").read_bytes()
    shutil.rmtree(out)
    sampled = []
    real = evaluation.evaluate_case

    def count(files, *arguments):
        sampled.append(files.name)
        return real(files, *arguments)

    monkeypatch.setattr(evaluation, "evaluate_case", count)
    capsys.readouterr()
    assert run("--samples", "1", "--shard", "2/2") == 0
    assert capsys.readouterr().out.startswith("Measured: 1.")
    # On a cluster each node may have a copy of its own.
    shutil.copytree(cases, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(cases)
    (tmp_path / "copy").rename(cases)
    assert run("--samples", "1", "--shard", "1/2") == 0
    assert sampled == ["Case_2", "Case_1", "Case_3"]
    assert [path.name for path in out.iterdir()] == ["cases"]
    assert run("--samples", "1") == 0
    assert len(sampled) == 3
    assert (out / "slices.csv").read_bytes() == whole
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(SystemExit):
            run("--shard", wrong)


@pytest.mark.parametrize("option", ["--checkpoint", "--segmenter"])
def test_checkpoint_of_the_papers_code_is_evaluated_as_it_is(
    cases: Path, tmp_path: Path, capsys, option: str
) -> None:
    import torch

    path = tmp_path / "emasavedmodel_0.9999_060000.pt"
    torch.save(published_state(), path)
    options = ["--samples", "2", "--steps", "1", "--slices", "5:6", "--device", "cpu"]
    (cases / "Case_2").rename(tmp_path / "Case_2")
    (cases / "Case_3").rename(tmp_path / "Case_3")
    out = tmp_path / "out"
    assert main([str(cases), "--out", str(out), option, str(path), *options]) == 0
    assert "ddpm, 1 steps, seed 0" in capsys.readouterr().out
    settings = {row.name: row.value for row in read_rows(out, SettingRow)}
    assert settings["model"] == "emasavedmodel_0.9999_060000 (published format)"
    assert settings["sampler"] == "ddpm"
    assert len([row for row in read_rows(out, SliceRow) if row.method == "run"]) == 2

    path.write_bytes(path.read_bytes()[:-1000])
    assert main([str(cases), "--out", str(out), option, str(path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"training.evaluate: error: {path} is damaged")
    assert error.count("\n") == 1


def test_case_measured_with_another_model_is_measured_again(
    run, cases: Path, tmp_path: Path, monkeypatch
) -> None:
    assert run("--samples", "1") == 0
    before = (tmp_path / "out" / "slices.csv").read_bytes()
    other = tiny_model(seed=5)
    path = save_checkpoint(
        tmp_path / "other.safetensors", other.network, other.preprocessing, other.card, {}
    )
    assert run("--samples", "1", "--checkpoint", str(path)) == 0
    assert (tmp_path / "out" / "slices.csv").read_bytes() != before


def test_figures_keep_their_settings_until_there_are_others(
    run, tmp_path: Path, monkeypatch
) -> None:
    assert run("--samples", "1") == 0
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in out.glob("*.csv")}

    def stop(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate_case", stop)
    assert run("--samples", "2", "--seed", "7") == 130
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == before


def test_a_case_whose_file_was_changed_is_measured_again(
    run, cases: Path, tmp_path: Path, monkeypatch
) -> None:
    assert run("--samples", "1") == 0
    label = next((cases / "Case_2").glob("*seg*"))
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), label)
    sampled = []
    real = evaluation.evaluate_case
    monkeypatch.setattr(
        evaluation, "evaluate_case", lambda files, *a: sampled.append(files.name) or real(files, *a)
    )
    assert run("--samples", "1") == 0
    assert sampled == ["Case_2"]


def test_patients_of_the_training_are_told(run, tmp_path: Path, capsys) -> None:
    model = tiny_model()
    # Records of before have the whole name where a visit was not known by it.
    beginning = {"provenance": {"training_patients": ["Case_3_session_2"]}, "sha256": "0"}
    record = {"training_patients": ["Case_1", "Somebody"], "init": beginning}
    path = tmp_path / "trained.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, record)
    assert run("--samples", "1", "--checkpoint", str(path)) == 0
    assert "trained on 2 of these patients, the first is Case_1" in capsys.readouterr().err
    settings = {row.name: row.value for row in read_rows(tmp_path / "out", SettingRow)}
    assert settings["patients_trained_on"] == "2"
    warning = "trained on 2 of the patients that it is evaluated on"
    assert f"The model was {warning}" in make_report(tmp_path / "out")
    assert f"DDPM was {warning}" in make_comparison(tmp_path)


def test_the_bundled_model_is_known_to_have_seen_its_patients() -> None:
    trained_on = find_training_patients(load_checkpoint(bundled_checkpoint()).provenance)
    split = load_split(SPLITS / "shared58.json")
    assert {split.patients[name] for name in split.training} <= trained_on
    assert not {split.patients[name] for name in split.validation} & trained_on
    assert "Brats18_2013_2" in trained_on  # also under the name of another year


def test_damaged_record_of_a_case_is_replaced(run, tmp_path: Path) -> None:
    assert run("--samples", "1") == 0
    record = tmp_path / "out" / "cases" / "Case_2.json"
    good = record.read_bytes()
    record.write_bytes(good[:100])
    assert run("--samples", "1") == 0
    before, after = json.loads(good), json.loads(record.read_bytes())
    assert before["measurements"].pop("timing")["n_slices"] == 5
    assert after["measurements"].pop("timing")["seconds"] > 0
    assert after == before


def test_case_without_labels_is_reported_and_the_others_are_measured(
    run, cases: Path, tmp_path: Path, capsys
) -> None:
    write_synthetic(cases, "Case_4", seed=4, labels=False)
    assert run("--samples", "1") == 1
    printed = capsys.readouterr()
    assert "Case_4 failed: Case_4 has no expert labels" in printed.err
    assert "cases: 3, patients: 3" in printed.out


def test_split_chooses_cases_and_tells_patients(run, tmp_path: Path, capsys) -> None:
    split = {
        "training": ["Case_2"],
        "validation": ["Case_3", "Case_1"],
        "patient_key": {"Case_1": "Jane", "Case_3": "Jane", "Case_2": "Joe"},
    }
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    assert run("--samples", "1", "--split", str(tmp_path / "split.json")) == 0
    assert "cases: 2, patients: 1" in capsys.readouterr().out
    rows = read_rows(tmp_path / "out", SliceRow)
    assert {(row.case, row.patient) for row in rows} == {("Case_1", "Jane"), ("Case_3", "Jane")}
    split["validation"].append("Case_9")
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    assert run("--split", str(tmp_path / "split.json")) == 2
    assert "lacks 1 of the 3 validation cases" in capsys.readouterr().err


def test_two_cases_of_one_name_are_told_apart_by_the_user(
    run, cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(cases / "Case_2", cases / "resampled" / "Case_2")
    assert run("--samples", "1") == 2
    error = capsys.readouterr().err
    assert "2 cases are called Case_2" in error
    assert str(cases / "resampled" / "Case_2") in error


def test_nothing_to_evaluate(tmp_path: Path, checkpoint: Path, capsys) -> None:
    options = ["--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), *options]) == 2
    assert "holds no BraTS case" in capsys.readouterr().err
    assert table_main([str(tmp_path / "out")]) == 2
    assert "Run `python -m training.evaluate` into this folder first" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- the table


def slice_row(patient: str, number: int, method: str, dice: float, member: int | None = None):
    return SliceRow(
        case=f"case of {patient}",
        patient=patient,
        slice=number,
        method=method,
        member=member,
        n_samples=1 if method == "run" else 2,
        dice=dice,
        jaccard=dice / 2,
        hd95_mm=None if dice == 0 else 10 - dice,
        empty=dice == 0,
        predicted_mm2=0.0,
        truth_mm2=1.0,
    )


def case_row(patient: str, method: str, dice: float, error_ml: float, member: int | None = None):
    return CaseRow(
        case=f"case of {patient}",
        patient=patient,
        first_slice=80,
        last_slice=128,
        whole_volume=False,
        method=method,
        member=member,
        n_samples=1 if method == "run" else 2,
        dice=dice,
        jaccard=dice,
        hd95_mm=None if dice == 0 else 4.0,
        empty=dice == 0,
        predicted_ml=50 + error_ml,
        truth_ml=50.0,
        volume_error_ml=error_ml,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    slices = []
    for patient, number, dices in (
        ("A", 80, (0.5, 0.7, 0.8, 0.6)),
        ("A", 81, (0.0, 0.2, 0.3, 0.0)),
        ("B", 90, (0.7, 0.9, 1.0, 0.9)),
    ):
        methods = (("run", 0), ("run", 1), ("probabilities", None), ("masks", None))
        for (method, member), dice in zip(methods, dices, strict=True):
            slices.append(slice_row(patient, number, method, dice, member))
    cases = [
        case_row(patient, method, dice, error_ml, member)
        for patient, sign in (("A", 1), ("B", -1))
        for method, member, dice, error_ml in (
            ("run", 0, 0.6, 5.0 * sign),
            ("run", 1, 0.0, -50.0),
            ("probabilities", None, 0.8 + 0.1 * sign, 3.0 * sign),
            ("masks", None, 0.7, 4.0 * sign),
        )
    ]
    maps = [
        UncertaintyRow("c", "A", method, n, 100, 5, ece, 0.1, auroc, 0.5, 0.5, 0.2, 0.9, 0.3)
        for method, n, ece, auroc in (
            ("run", 1, 0.05, None),
            ("probabilities", 2, 0.01, 0.96),
            ("masks", 2, 0.02, 0.80),
        )
    ]
    # The two cases err in opposite directions: each is off, both together are not.
    curves = [
        CalibrationRow(patient, patient, "probabilities", 3, 10, 2.0, observed)
        for patient, observed in (("A", 1), ("B", 3))
    ]
    write_rows(tmp_path, SliceRow, slices)
    write_rows(tmp_path, CaseRow, cases)
    write_rows(tmp_path, UncertaintyRow, maps)
    write_rows(tmp_path, CalibrationRow, curves)
    write_rows(tmp_path, SettingRow, [SettingRow("steps", "8"), SettingRow("slices", "80-128")])
    return tmp_path


def cells(report: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split("|") for line in report.splitlines() if line.startswith("|")]
    return {line[0].strip(): [text.strip() for text in line[1:]] for line in lines}


def test_table_has_means_brackets_and_empty_predictions(folder: Path) -> None:
    table = cells(make_report(folder))
    dice, hd95, jaccard, empty = table["1 run"]
    assert dice.startswith("0.400 [0.600] (")  # (0.5 + 0 + 0.7) / 3, and without the empty one
    assert hd95.startswith("9.40 (")
    assert jaccard.startswith("0.200 [0.300] (")
    assert empty == "1"
    assert table["1 run, mean of 2"][0].startswith("0.500 [0.600]")
    assert table["1 run, mean of 2"][3] == "0.5"
    assert table["ensemble of 2, of probabilities"][0].startswith("0.700 [0.700]")
    assert table["ensemble of 2, of masks as in the paper"][3] == "1"
    assert table["of probabilities"][0].startswith("+0.300 (+0.300 to +0.300)")
    assert table["of masks"][1].startswith("+0.000 (")


def test_table_of_cases_and_of_maps(folder: Path) -> None:
    table = cells(make_report(folder))
    assert table["3-D, slices 80 to 128"][0] == "Dice, 1 run"
    assert table["case of A"] == ["0.600", "0.900", "0.700", "4.0", "50.0", "+3.0"]
    assert table["mean"] == ["0.600", "0.800", "0.700", "4.0", "50.0", "3.0 (absolute)"]
    assert table["2 probabilities"][:2] == ["0.0100", "0.0000"]
    assert table["2 probabilities"][3] == "0.9600"
    assert table["1 run, p and p(1 - p)"][3] == "-"


def test_rows_survive_the_csv_file(folder: Path) -> None:
    rows = read_rows(folder, SliceRow)
    write_rows(folder, SliceRow, rows)
    assert read_rows(folder, SliceRow) == rows
    assert {type(row.empty) for row in rows} == {bool}
    assert {row.member for row in rows} == {0, 1, None}
    with (folder / "slices.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert (first["empty"], first["hd95_mm"], first["dice"]) == ("0", "9.5", "0.5")


def test_csv_of_something_else_is_refused(folder: Path) -> None:
    (folder / "cases.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DiffsegError, match=r"cases\.csv is not what"):
        make_report(folder)


def test_interval_is_over_patients_and_repeatable() -> None:
    # Patient A has a hundred equal slices: they are one observation, not a hundred.
    values = [("A", 0.0)] * 100 + [("B", 1.0)] * 100
    assert bootstrap_interval(values) == (0.0, 1.0)
    assert bootstrap_interval([("A", 0.3), ("B", 0.3)]) == pytest.approx((0.3, 0.3))
    assert bootstrap_interval([("A", 0.1), ("A", 0.9)]) is None
    rng = np.random.default_rng(1)
    many = [(str(patient), float(rng.normal(0.8, 0.1))) for patient in range(100)]
    interval = bootstrap_interval(many)
    assert interval is not None
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * 0.1 / 10, rel=0.25)
    assert bootstrap_interval(many) == interval
