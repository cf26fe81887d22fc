"""The whole table from nothing, on tiny cases and networks: trained, evaluated, reported."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.training.tiny import TRAINING, TinyData, tiny_config
from training import evaluate, nnunet, paper_plan, sheet, sheet_report, train
from training import report as report_command
from training.config import find_config, format_config, load_config
from training.figures import write_figure
from training.paper_plan import System, parse_budget
from training.paper_table import main
from training.plots import summarise_members
from training.report import main as report_main
from training.results import MemberRow, SettingRow, SheetRow, SliceRow, read_rows
from training.state import STATE_NAME, read_record

SEGNET = """
[baseline]
sample_dropout = {dropout}
[baseline.segnet]
channels = [8, 8]
n_convolutions = [1, 1]
dropout = 0.5
[preprocessing]
window = [48, 48]
context_slices = {context}
stride = 16
[run]
batch_size = 4
precision = "float32"
"""


@pytest.fixture
def systems(tmp_path: Path) -> tuple[System, ...]:
    """Tiny networks in the place of those that take hours; one of them has two rows."""
    config = tiny_config()
    (tmp_path / "debug.toml").write_text(format_config(config), encoding="utf-8")
    context = list(config.preprocessing.context_slices)
    for name, dropout in (("bayesian", "true"), ("plain", "false")):
        text = SEGNET.format(dropout=dropout, context=context)
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    return (
        System("ddpm", str(tmp_path / "debug.toml"), (("ddpm", ()),), "--checkpoint"),
        System("segnet", str(tmp_path / "plain.toml"), (("segnet", ()),)),
        System("bayesian_segnet", str(tmp_path / "bayesian.toml"), (("bayesian_segnet", ()),)),
    )


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the seconds that drawing takes."""
    for module in (report_command, sheet_report):
        monkeypatch.setattr(module, "write_figure", lambda *_: None)


@pytest.fixture
def command(
    systems: tuple[System, ...],
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_tensorboard: None,
    no_figures: None,
):
    monkeypatch.setattr(nnunet, "is_installed", lambda: False)
    monkeypatch.setattr(paper_plan, "measure_step", lambda *_: 0.5)
    options = ["--split", tiny_data.split, "--work", tmp_path / "work", "--slices", "3:9"]
    options += ["--samples", 2, "--members", 3, "--steps", "1:2,2:2", "--workers", 1]

    def run(*more: str) -> int:
        budget = ["--budget", "9s", "--device", "cpu", "--threads", "1"]
        return main([str(tiny_data.cases), *map(str, options), *budget, *more], systems)

    return run


def test_everything_is_made_once(command, tmp_path: Path, monkeypatch, capsys) -> None:
    assert command() == 0
    work = tmp_path / "work"
    plan = json.loads((work / "plan.json").read_text("utf-8"))
    # 9 seconds, three systems, half a second a step.
    assert plan["total_steps"] == {"ddpm": 6, "segnet": 6, "bayesian_segnet": 6}
    for name in plan["total_steps"]:
        assert read_record(work / "runs" / name / STATE_NAME)["step"] == 6
    text = (work / "report.md").read_text("utf-8")
    for row in ("DDPM, 1 run", "DDPM, ensemble of 2", "SegNet, 1 run", "Bayesian SegNet, 2 runs"):
        assert f"| {row} " in text
    for heading in (
        "Segmentation",
        "In 3-D",
        "Against the ensemble",
        "Uncertainty",
        "Is n enough?",
        "Steps against members: sheet",
        "As published, not measured here",
    ):
        assert f"## {heading}\n" in text
    assert "`pip install nnunetv2`" in text
    settings = {r.name: r.value for r in read_rows(work / "systems" / "segnet", SettingRow)}
    assert settings["images_seen"] == str(6 * 4)

    # Again: nothing is trained or sampled, and the report is the same.
    for module, name in ((train, "main"), (evaluate, "evaluate_case"), (sheet, "measure_members")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("was done already"))
    assert command() == 0
    assert (work / "report.md").read_text("utf-8") == text

    # The data beside the report are enough to make it again, somewhere else.
    monkeypatch.setattr(report_command, "write_figure", write_figure)
    (tmp_path / "docs").mkdir()
    data = work / "report" / "data"
    assert report_main([str(data), "--out", str(tmp_path / "docs" / "results.md")]) == 0
    again = (tmp_path / "docs" / "results.md").read_text("utf-8")
    assert again == text.replace("report/", "results/")
    assert {p.suffix for p in data.rglob("*") if p.is_file()} == {".csv"}
    linked = [line.split("](")[-1].split(")")[0] for line in again.splitlines() if ".svg" in line]
    assert len(linked) >= 6
    for line in again.splitlines():
        if line.startswith("!["):
            ET.parse(tmp_path / "docs" / line.rsplit("(", 1)[1].rstrip(")"))
    with (tmp_path / "docs" / "results" / "tables" / "segmentation.csv").open("r") as file:
        rows = {row["system"]: row for row in csv.DictReader(file)}
    dice = [r.dice for r in read_rows(work / "systems" / "segnet", SliceRow) if r.member is None]
    assert 0 <= float(rows["SegNet, 1 run"]["Dice"]) <= 1
    assert float(rows["SegNet, 1 run"]["Dice"]) == pytest.approx(sum(dice) / len(dice))
    assert not any(row["Dice"] == "not run" for row in rows.values())  # most systems are: left out


def test_it_goes_on_where_it_was_stopped(command, tmp_path: Path, monkeypatch, capsys) -> None:
    real, ran = train.main, []

    def stopped(arguments):
        ran.append(Path(arguments[arguments.index("--run") + 1]).name)
        return 130 if len(ran) == 2 else real(arguments)

    monkeypatch.setattr(train, "main", stopped)
    assert command() == 130
    assert "training of segnet was stopped" in capsys.readouterr().err
    assert not (tmp_path / "work" / "report.md").exists()
    assert command() == 0
    assert ran == ["ddpm", "segnet", "segnet", "bayesian_segnet"]
    # What was trained for one budget is not continued for another.
    assert command("--budget", "90m") == 1
    assert "is for a budget of 9 s, not 5400 s" in capsys.readouterr().err


def test_another_split_needs_another_folder(command, tiny_data, tmp_path: Path, capsys) -> None:
    assert command("--split", str(tmp_path / "missing.json")) == 1
    assert "missing.json is not a split file" in capsys.readouterr().err
    assert not (tmp_path / "missing.json").exists()
    assert command() == 0
    values = json.loads(tiny_data.split.read_text("utf-8"))
    values["training"], values["validation"] = values["validation"], values["training"]
    (tmp_path / "other.json").write_text(json.dumps(values), "utf-8")
    assert command("--split", str(tmp_path / "other.json")) == 1
    assert "is for another split than" in capsys.readouterr().err


def test_what_would_fail_after_hours_is_told_at_once(command, tmp_path: Path, capsys) -> None:
    assert command("--members", "1") == 1
    assert "--members must be 2 or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("--steps", "abc")
    assert "is not like 1:20" in capsys.readouterr().err
    split = {"training": [*TRAINING], "validation": []}
    (tmp_path / "empty.json").write_text(json.dumps(split), "utf-8")
    assert command("--split", str(tmp_path / "empty.json")) == 1
    assert "empty.json has no validation cases" in capsys.readouterr().err
    assert not (tmp_path / "work" / "cache").exists()


def test_a_failure_ends_it(command, monkeypatch, capsys) -> None:
    monkeypatch.setattr(train, "main", lambda _: 1)
    assert command() == 1
    assert "training of ddpm failed with exit code 1, see above" in capsys.readouterr().err


def test_a_step_is_timed_and_leaves_nothing(
    systems: tuple[System, ...], tiny_data: TinyData, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(paper_plan, "_TRIAL_STEPS", (1, 2))
    arguments = argparse.Namespace(
        work=tmp_path / "work", cache=tiny_data.cache, device="cpu", set=[]
    )
    arguments.work.mkdir()
    seconds = paper_plan.measure_step(arguments, tiny_data.split, systems[1])
    assert 0 < seconds < 60
    assert [path.name for path in arguments.work.iterdir()] == []


def test_short_runs_do_not_warm_up_for_all_of_it() -> None:
    system = paper_plan.SYSTEMS[0]
    assert "optimiser.warmup_steps=5" in paper_plan.make_settings(system, 50)
    assert "optimiser.warmup_steps=100" in paper_plan.make_settings(system, 5000)
    assert "run.validate_every=13" in paper_plan.make_settings(system, 50)


def test_all_systems_of_the_table_see_the_same_slices() -> None:
    configs = [load_config(find_config(system.config)) for system in paper_plan.SYSTEMS]
    for name in ("preprocessing", "data", "augmentation"):
        assert len({getattr(config, name) for config in configs}) == 1, name
    assert len({config.run.batch_size for config in configs}) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("45min", 2700), ("1.5h", 5400), ("2d", 172800)],
)
def test_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds
    for wrong in ("", "2", "h", "0h", "2 weeks"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_budget(wrong)


# --------------------------------------------------------------------------------------- nnU-Net


def test_nnunet_gets_its_share(command, tmp_path: Path, monkeypatch, capsys) -> None:
    calls: list[list[str]] = []

    def run(arguments):
        calls.append(arguments)
        return 1 if arguments[0] == "predict" else 0

    monkeypatch.setattr(nnunet, "is_installed", lambda: True)
    monkeypatch.setattr(nnunet, "time_iteration", lambda *_: 0.025)
    monkeypatch.setattr(nnunet, "main", run)
    assert command("--folds", "0", "1", "--budget", "4s") == 1
    assert [call[0] for call in calls] == ["convert", "train", "predict"]
    # A quarter of 4 seconds, two folds, 0.025 s an iteration: 20 of them.
    plan = json.loads((tmp_path / "work" / "plan.json").read_text("utf-8"))
    assert plan["share_s"] == 1
    assert plan["total_steps"]["nnunet"] == 20
    train_call = " ".join(calls[1])
    assert "--epochs 20 --iterations 1 --folds 0 1 --device cpu" in train_call
    assert "prediction of nnU-Net failed" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- the report


def test_report_of_nothing_is_told(tmp_path: Path, capsys) -> None:
    assert report_main([str(tmp_path)]) == 2
    assert "holds no evaluation in systems/, members/ or sheets/" in capsys.readouterr().err
    assert report_main([str(tmp_path), "--out", str(tmp_path / "x.txt")]) == 2
    assert "must end with .md" in capsys.readouterr().err


def test_two_evaluations_that_could_not_be_told_apart_are_refused(tmp_path: Path, capsys) -> None:
    shipped = Path(__file__).parents[2] / "docs" / "results" / "data" / "members" / "ddpm"
    for name in ("a", "b"):
        shutil.copytree(shipped, tmp_path / "members" / name)
    assert report_main([str(tmp_path)]) == 2
    assert "there is another evaluation of DDPM, 2 steps" in capsys.readouterr().err


def member_row(case: str, n: int, n_slices: int, dice: float, n_empty: int = 0) -> MemberRow:
    return MemberRow(
        case, case, "masks", n, n_slices, dice, 2.0 * dice, n_empty, 0.1, 0.1, None, *[None] * 4
    )


def test_curves_against_members_are_the_tables_means() -> None:
    rows = [member_row("A", 1, 3, 0.8), member_row("B", 1, 1, 0.4), member_row("A", 2, 3, 0.9)]
    assert summarise_members(rows, "Dice", lambda row: row.dice) == pytest.approx(
        {1: (3 * 0.8 + 0.4) / 4, 2: 0.9}
    )
    assert summarise_members(rows, "ECE", lambda row: row.ece) == pytest.approx({1: 0.1, 2: 0.1})
    assert summarise_members(rows, "error AUROC", lambda row: row.error_auroc) == {}
    # An empty prediction has no HD95, and does not count in its mean.
    rows = [member_row("A", 1, 3, 1.0, n_empty=2), member_row("B", 1, 1, 2.0)]
    assert summarise_members(rows, "HD95 (mm)", lambda row: row.hd95_mm) == {1: (2 + 4) / 2}


def test_sheet_is_drawn_against_members_steps_and_time() -> None:
    rows = [
        SheetRow("A", "A", steps, n, 2, 0.5 + 0.01 * n, None, 0, 0.1, 0.9, None, 0.1 * steps * n)
        for steps in (1, 16)
        for n in (1, 2, 3)
    ]
    against_members, against_steps = sheet_report.plot_sheet(rows)
    dice = against_members.panels[0]
    assert dice.curves["16 steps"] == [(1, 0.51), (2, 0.52), (3, 0.53)]
    (time,) = [panel for panel in against_members.panels if panel.x_label.startswith("s per")]
    assert time.curves["16 steps"][0] == (pytest.approx(1.6), 0.51)
    dice = against_steps.panels[0]
    assert dice.curves == {
        "1 member": [(1, 0.51), (16, 0.51)],
        "2 members": [(1, 0.52), (16, 0.52)],
    }
