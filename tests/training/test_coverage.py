"""How often an interval holds the true volume is counted, and what the dock tells was counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_diffseg.core import uncertainty
from tests.training.test_comparison import rows_of, write_system
from training.comparison import make_comparison, make_sections
from training.coverage import (
    HEAD,
    Coverage,
    count_in_likely,
    count_in_range,
    describe_coverage,
    find_likely_width,
)
from training.results import CaseRow, ThresholdRow, write_rows
from training.systems import find_evaluations, read_evaluation
from training.table import make_report

DOCS = Path(__file__).parents[2] / "docs"
FOLDS = DOCS / "results-cross-validation" / "data" / "systems" / "ddpm"

TRUTH_ML = {"A": 20.0, "B": 30.0, "C": 0.0}
MEMBERS_ML = {"A": (18.0, 25.0), "B": (20.0, 29.0), "C": (0.0, 2.0)}
"""The truth of B is larger than any member."""
LIKELY_ML = {"A": (15.0, 30.0), "B": (10.0, 30.0), "C": (1.0, 4.0)}
"""The truth of C is smaller than what is sure, that of B just possible."""

METHODS = ("probabilities", "masks")
MASK_ML = {"A": 10.0, "B": 40.0, "C": 0.0}


def case_row(case: str, method: str, member: int | None, predicted_ml: float) -> CaseRow:
    truth_ml = TRUTH_ML[case]
    n_samples = 1 if method == "run" else 2
    where = (80, 128, False, method, member, n_samples)
    scores = (0.5, 0.4, 3.0, False)
    volumes = (predicted_ml, truth_ml, predicted_ml - truth_ml)
    return CaseRow(case, case, *where, *scores, *volumes)


@pytest.fixture
def systems(tmp_path: Path) -> Path:
    """Give the ensemble with all that it takes, and a SegNet of one run without thresholds."""
    for system in ("ddpm", "segnet"):
        folder = tmp_path / system
        write_system(folder, system, dict.fromkeys(TRUTH_ML, 0.5))
        rows = [case_row(case, method, None, 9.0) for case in TRUTH_ML for method in METHODS]
        for case, volumes in MEMBERS_ML.items():
            of_runs = volumes if system == "ddpm" else volumes[:1]
            rows += [case_row(case, "run", member, ml) for member, ml in enumerate(of_runs)]
        # What is of the whole volume counts nowhere: here no member would have it right.
        rows += [
            CaseRow(**{**vars(row), "whole_volume": True, "predicted_ml": 99.0}) for row in rows
        ]
        write_rows(folder, CaseRow, rows)
    rows_of_masks = [
        ThresholdRow(case, case, threshold, 1, 0.5, 0.5, ml, TRUTH_ML[case])
        for case, (low, high) in LIKELY_ML.items()
        for threshold, ml in ((0.1, high), (0.5, MASK_ML[case]), (0.9, low))
    ]
    write_rows(tmp_path / "ddpm", ThresholdRow, rows_of_masks)
    return tmp_path


def test_the_table_tells_how_often_the_truth_is_in_either_interval(systems: Path) -> None:
    report = make_comparison(systems)
    table = rows_of(report, "In 3-D")
    assert table["system"][-3:] == list(HEAD)
    # 15 of 10, 20 of 40; C has no mask
    assert table["DDPM, ensemble of 5"][-3:] == ["2 of 3", "2 of 3", "1.00"]
    nothing = ["-"] * 3
    assert table["DDPM, 1 run"][-3:] == nothing
    assert table["DDPM, ensemble of 5, of masks as in the paper"][-3:] == nothing
    assert table["SegNet, 1 run"][-3:] == nothing  # one member, and no threshold was measured
    assert table["U-Net, 1 run"] == ["not run", *["-"] * 7]
    assert "above 0.9 and above 0.1" in report.split("## In 3-D")[1].split("\n## ")[0]


def test_the_tables_of_one_evaluation_tell_it_in_a_sentence(systems: Path) -> None:
    assert describe_coverage(read_evaluation(systems / "ddpm")) == (
        "The true volume lies in the likely volume of 2 of 3 cases (as wide as 1.00 of the mask's "
        "volume, median), in the members' own range of 2 of 3."
    )
    assert describe_coverage(read_evaluation(systems / "segnet")) == ""
    report = make_report(FOLDS)
    before, after = report.split("The true volume lies in the likely volume of 46 of 58 cases")
    assert "3-D, slices 80 to 128" in before
    assert "19 of 58." in after


def test_each_interval_has_the_cases_that_it_holds(systems: Path) -> None:
    evaluation = read_evaluation(systems / "ddpm")
    for case, in_range, in_likely in (("A", 1, 1), ("B", 0, 1), ("C", 1, 0)):
        for rows in (evaluation.cases, evaluation.thresholds):
            rows[:] = [row for row in rows if row.case == case]
        assert count_in_range(evaluation) == Coverage(in_range, 1)
        assert count_in_likely(evaluation) == Coverage(in_likely, 1)
        evaluation = read_evaluation(systems / "ddpm")


def test_the_csv_file_has_both_numbers(systems: Path) -> None:
    tables = {
        table.name: table
        for _, section in make_sections(find_evaluations(systems))
        for table in section
    }
    head, _, ensemble, *_ = tables["volumes"].to_csv().splitlines()
    counts, width = HEAD[:2], HEAD[2]
    assert head.endswith(",".join([*(f"{name},{name} of" for name in counts), width]))
    assert ensemble.endswith(",2,3,2,3,1")


def test_what_the_dock_tells_is_what_was_counted() -> None:
    evaluation = read_evaluation(FOLDS)
    n_cases = uncertainty.N_MEASURED
    assert count_in_range(evaluation) == Coverage(uncertainty.N_RANGE_HELD, n_cases)
    assert count_in_likely(evaluation) == Coverage(uncertainty.N_LIKELY_HELD, n_cases)
    assert find_likely_width(evaluation) == pytest.approx(1.01, abs=0.005)
    validation = read_evaluation(DOCS / "results" / "data" / "systems" / "ddpm")
    assert count_in_likely(validation) == Coverage(5, 6)
    assert count_in_range(validation) == Coverage(2, 6)
