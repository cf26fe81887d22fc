"""Every patient is segmented by networks that have not seen it, and all are in one report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.test_paper_table import SEGNET
from tests.training.tiny import TRAINING, VALIDATION, TinyData, tiny_config, write_tiny_case
from training import cross_validate, evaluate, paper_plan, train
from training import report as report_command
from training.baselines.opening import open_segmenter
from training.baselines.segmenter import DiffusionSegmenter
from training.config import find_config, format_config, load_config
from training.cross_validate import Recipe, main, pool_evaluations
from training.data import load_split
from training.make_split import make_folds
from training.paper_plan import DIFFUSION_ROWS, System
from training.results import FILES, SettingRow, SheetRow, SliceRow, read_rows, write_rows
from training.state import STATE_NAME, read_record


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Tiny networks in the place of those that take hours."""
    config = tiny_config()
    (tmp_path / "unet.toml").write_text(format_config(config), encoding="utf-8")
    segnet = SEGNET.format(dropout="true", context=list(config.preprocessing.context_slices))
    (tmp_path / "segnet.toml").write_text(segnet, encoding="utf-8")
    option = "--checkpoint"
    return Recipe(
        System("unet_and_denoiser", str(tmp_path / "unet.toml"), DIFFUSION_ROWS, option),
        System("bayesian_segnet", str(tmp_path / "segnet.toml"), (("bayesian_segnet", ()),)),
    )


@pytest.fixture
def command(
    recipe: Recipe,
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_tensorboard: None,
):
    monkeypatch.setattr(paper_plan, "measure_step", lambda *_: 0.5)
    monkeypatch.setattr(report_command, "write_figure", lambda *_: None)

    def run(*more: str) -> int:
        places = [tiny_data.cases, "--work", tmp_path / "work", "--slices", "3:9"]
        options = ["--split", tiny_data.split, "--folds", 3, "--samples", 2, "--workers", 1]
        options += ["--budget", "9s", "--device", "cpu", "--threads", 1]
        return main([*map(str, [*places, *options]), *more], recipe)

    return run


def test_each_patient_is_left_out_once(command, tmp_path: Path, monkeypatch) -> None:
    assert command() == 0
    work = tmp_path / "work"
    left_out: list[str] = []
    for number in range(3):
        fold = work / f"fold_{number}"
        split = load_split(fold / "split.json")
        assert sorted(split.training + split.validation) == sorted(TRAINING)
        left_out += split.validation
        # 9 seconds, two systems, three folds, half a second a step.
        for name in ("unet_and_denoiser", "bayesian_segnet"):
            assert read_record(fold / "runs" / name / STATE_NAME)["step"] == 3
            assert not (fold / "runs" / name / "validation.csv").exists()
        # Its members begin from both of this fold's networks, whose weights are as they were.
        segmenter = open_segmenter(fold / "models" / "both.safetensors")
        assert isinstance(segmenter, DiffusionSegmenter)
        origins = segmenter.model.provenance
        for origin, name in (
            ("init", "unet_and_denoiser"),
            ("init_second_encoder", "bayesian_segnet"),
        ):
            part = open_segmenter(fold / "models" / f"{name}.safetensors")
            assert origins[origin]["sha256"] == part.settings["model_sha256"]
        assert segmenter.settings["steps"] == 2
    assert sorted(left_out) == sorted(TRAINING)
    # The report has all of them, and nobody of the validation.
    for row in ("ddpm", "encoders", "bayesian_segnet"):
        cases = {r.case for r in read_rows(work / "systems" / row, SliceRow)}
        assert cases == set(TRAINING)
        assert not cases & set(VALIDATION)
    text = (work / "report.md").read_text("utf-8")
    assert "| DDPM, ensemble of 2 " in text
    assert "| DDPM's encoders without diffusion, mean of 2 " in text
    assert "| Bayesian SegNet, 2 runs " in text
    assert "## Threshold" in text

    # Again: nothing is trained or sampled, and the report is the same.
    for module, name in ((train, "main"), (evaluate, "evaluate_case")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("was done already"))
    assert command() == 0
    assert (work / "report.md").read_text("utf-8") == text


def test_it_goes_on_where_it_was_stopped(command, monkeypatch, capsys) -> None:
    real, ran = train.main, []

    def stopped(arguments):
        run = Path(arguments[arguments.index("--run") + 1])
        ran.append((run.parent.parent.name, run.name))
        return 130 if len(ran) == 2 else real(arguments)

    monkeypatch.setattr(train, "main", stopped)
    assert command() == 130
    assert "training of bayesian_segnet was stopped" in capsys.readouterr().err
    assert command() == 0
    parts = ["unet_and_denoiser", "bayesian_segnet"]
    again = [("fold_0", "bayesian_segnet")]
    assert ran[:3] == [("fold_0", name) for name in parts] + again
    assert ran[3:] == [(f"fold_{k}", name) for k in (1, 2) for name in parts]


@pytest.fixture
def only_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folds and the plan, and nothing else."""
    monkeypatch.setattr(cross_validate, "run_fold", lambda *_: None)
    monkeypatch.setattr(cross_validate, "pool_evaluations", lambda *_: None)
    monkeypatch.setattr(report_command, "main", lambda _: 0)


def read_folds(work: Path) -> list[tuple[str, ...]]:
    return [load_split(path).validation for path in sorted(work.glob("fold_*/split.json"))]


def test_folds_that_were_trained_by_are_kept(
    command, tiny_data: TinyData, only_folds: None, tmp_path: Path, capsys
) -> None:
    assert command() == 0
    before = read_folds(tmp_path / "work")
    assert command("--seed", "1") == 1
    assert "3 folds of 3 cases by seed 0: another seed needs another --work" in (
        capsys.readouterr().err
    )
    for folds in ("2", "4"):
        assert command("--folds", folds) == 1
        assert "another folds needs another --work" in capsys.readouterr().err
    other = {"training": [*TRAINING[:2], *VALIDATION], "validation": [TRAINING[2]]}
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    assert command("--split", str(tmp_path / "other.json")) == 1
    assert "another cases needs another --work" in capsys.readouterr().err
    split = json.loads(tiny_data.split.read_text(encoding="utf-8"))
    split["patient_key"] = {TRAINING[0]: "Jane", TRAINING[1]: "Joe", TRAINING[2]: "John"}
    (tmp_path / "keys.json").write_text(json.dumps(split), encoding="utf-8")
    assert command("--split", str(tmp_path / "keys.json")) == 1
    assert "says otherwise who is one patient" in capsys.readouterr().err
    assert read_folds(tmp_path / "work") == before


def test_other_settings_than_the_folds_before_are_refused(
    command, only_folds: None, capsys
) -> None:
    assert command("--set", "optimiser.weight_decay=0.1") == 0
    assert command() == 1
    said = capsys.readouterr().err
    assert "is for other settings, and networks are trained by it" in said
    assert "bayesian_segnet.optimiser.weight_decay: 0.1 -> 0.01" in said
    for setting in ("run.total_steps=5", "run.validate_every=2", "run.stop_after=1"):
        assert command("--set", setting) == 1
        assert f"--set {setting}: this command decides" in capsys.readouterr().err


def test_what_cannot_work_is_told_before_anything_is_prepared(
    command, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(cross_validate.prepare, "main", lambda _: pytest.fail("was begun"))
    (tmp_path / "split.json").write_text("{", encoding="utf-8")
    assert command("--split", str(tmp_path / "split.json")) == 1
    assert "is not a split file" in capsys.readouterr().err
    assert command("--samples", "0") == 1
    assert "--samples must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("--slices", "80-129")
    assert "'80-129' is not a range like 80:129" in capsys.readouterr().err


def test_without_a_split_all_cases_are_divided(
    recipe: Recipe, only_folds: None, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(paper_plan, "measure_step", lambda *_: 0.5)
    names = [*TRAINING, *VALIDATION]
    for seed, name in enumerate(names):
        write_tiny_case(tmp_path / "cases", name, seed)
    work = tmp_path / "work"
    options = ["--work", str(work), "--folds", "2", "--workers", "1", "--device", "cpu"]
    # A case that cannot be used must not be missing from the result without a word.
    bad = tmp_path / "cases" / names[0] / f"{names[0]}_t2.nii.gz"
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    assert main([str(tmp_path / "cases"), *options], recipe) == 1
    assert "name the others in a split file" in capsys.readouterr().err
    bad.write_bytes(good)
    assert main([str(tmp_path / "cases"), *options], recipe) == 0
    folds = read_folds(work)
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    # A case that is added later is in no fold, and changes none.
    write_tiny_case(tmp_path / "cases", "BraTS20_Training_005", 5)
    assert main([str(tmp_path / "cases"), *options], recipe) == 0
    assert read_folds(work) == folds
    # A folder that is not there is not taken for cases that could not be used.
    assert main([str(tmp_path / "nowhere"), *options], recipe) == 1
    assert "preparation failed with exit code 2" in capsys.readouterr().err


def test_the_recipe_is_that_of_a_model_of_two_encoders() -> None:
    recipe = Recipe()
    model, segnet = (
        load_config(find_config(system.config), system.settings) for system in recipe.systems
    )
    both = load_config(find_config("two_encoders")).model
    assert model.model == replace(both, second_encoder=None)
    assert segnet.baseline is not None
    assert segnet.baseline.segnet == both.second_encoder
    assert segnet.preprocessing == model.preprocessing


def test_scans_of_one_patient_are_in_one_fold() -> None:
    names = [f"BraTS-GLI-{k:05}-{visit:03}" for k in range(7) for visit in (0, 1)]
    folds = make_folds([*names, "other"], 4, 0, {"other": "BraTS-GLI-00002"})
    assert sorted(case for fold in folds for case in fold["validation"]) == sorted(
        [*names, "other"]
    )
    for fold in folds:
        patients = {
            name: {fold["patient_key"][c] for c in fold[name]}
            for name in fold
            if name != "patient_key"
        }
        assert not patients["training"] & patients["validation"]
        assert len(patients["validation"]) in (1, 2)
        assert ("other" in fold["validation"]) == ("BraTS-GLI-00002-000" in fold["validation"])


def test_pooled_settings_say_where_folds_differ(tmp_path: Path) -> None:
    for number, values in enumerate(
        (
            {"model_sha256": "a", "training_hours": "0.50"},
            {"model_sha256": "b", "training_hours": "0.75"},
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for cls in FILES:
            if cls is not SheetRow:
                write_rows(folder, cls, [])
        settings = {"system": "ddpm", "images_seen": "80", **values}
        write_rows(folder, SettingRow, [SettingRow(*item) for item in settings.items()])
    pool_evaluations([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    pooled = {row.name: row.value for row in read_rows(tmp_path / "out", SettingRow)}
    assert pooled == {
        "system": "ddpm",
        "images_seen": "80",
        "model_sha256": "2 different",
        "training_hours": "0.62",
        "folds": "2",
    }
