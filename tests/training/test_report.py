"""The report as a page: its title, its rows, and how it says what is very small."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.training.test_comparison import rows_of, write_system
from training import report
from training.comparison import make_comparison
from training.report import main
from training.results import TimingRow, write_rows


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write_figure", lambda *_: None)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name, system in (("ours", "ddpm"), ("theirs", "segnet")):
        folder = tmp_path / "work" / "systems" / name
        write_system(folder, system, {"A": 0.9, "B": 0.8})
        write_rows(folder, TimingRow, [])
    return tmp_path / "work"


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_title_and_introduction_stay_with_the_numbers(work: Path, tmp_path: Path) -> None:
    assert main([str(work)]) == 0
    assert read_text(work / "report.md").startswith("# Results\n\nMade by ")
    intro = "Two systems.\n\nMore is *elsewhere*."
    assert main([str(work), "--title", "Two of six", "--intro", intro]) == 0
    start = f"# Two of six\n\n{intro}\n\nMade by "
    assert read_text(work / "report.md").startswith(start)
    # The same command once more, and the data alone, somewhere else and in their own place.
    assert main([str(work)]) == 0
    assert read_text(work / "report.md").startswith(start)
    page = tmp_path / "page.md"
    assert main([str(work / "report" / "data"), "--out", str(page)]) == 0
    assert read_text(page).startswith(start)
    assert main([str(page.with_suffix("") / "data"), "--out", str(page), "--title", "New"]) == 0
    assert main([str(page.with_suffix("") / "data"), "--out", str(page)]) == 0
    assert read_text(page).startswith(f"# New\n\n{intro}\n\nMade by ")


def test_systems_that_were_not_run_have_rows_unless_they_are_most(work: Path) -> None:
    def systems_of(name: str) -> set[str]:
        with (work / "report" / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
            return {next(iter(row.values())) for row in csv.DictReader(file)}

    ours = {"DDPM, 1 run", "DDPM, ensemble of 5", "DDPM, ensemble of 5, of masks as in the paper"}
    assert main([str(work)]) == 0
    assert "not run" not in read_text(work / "report.md")
    assert systems_of("segmentation") == ours | {"SegNet, 1 run"}
    assert systems_of("paired") < ours | {"SegNet, 1 run"}
    for name, system in (("unet", "unet"), ("mc", "mc_dropout_unet")):
        write_system(work / "systems" / name, system, {"A": 0.9, "B": 0.8})
    assert main([str(work)]) == 0
    assert "nnU-Net, ensemble of n" in systems_of("segmentation")
    assert "not run" in read_text(work / "report.md")


def test_no_p_is_printed_as_nothing(tmp_path: Path) -> None:
    ours = {f"P{i:02}": 0.9 + 0.001 * i for i in range(40)}
    theirs = {patient: dice - 0.1 - 0.1 * dice**2 for patient, dice in ours.items()}
    write_system(tmp_path / "ours", "ddpm", ours)
    write_system(tmp_path / "theirs", "segnet", theirs)
    row = rows_of(make_comparison(tmp_path), "Against the ensemble")["SegNet, 1 run"]
    assert row[2].endswith("), p < 0.001")
    assert row[-1] == "< 0.001"
