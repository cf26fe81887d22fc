"""The table of many results says what their records say."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_diffseg.cli import main
from napari_diffseg.core.brats import load_case
from napari_diffseg.core.describe import describe_result
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import save_result
from napari_diffseg.core.findings import describe_edit
from napari_diffseg.core.record import ResultRecord
from napari_diffseg.core.summary import (
    COLUMNS,
    compute_mean_disagreement_mm,
    read_summaries,
    save_table,
)
from tests.core.case_files import NAMES_2017, write_case
from tests.core.test_reopen import RUN


def save(folder: Path, name: str, n_members: int = 2, *, edited: bool = False) -> ResultRecord:
    """Save a result of random members; with `edited` of an empty mask that somebody painted."""
    case = load_case(write_case(folder / "in" / name, name, NAMES_2017))
    rng = np.random.default_rng(n_members)
    ensemble = Ensemble(n_members, case.geometry.shape)
    for member in range(n_members):
        for z in range(case.geometry.shape[0]):
            ensemble.add(member, z, rng.integers(0, 256, case.geometry.shape[1:], np.uint8))
    record = describe_result(case, ensemble, RUN, threshold=0.4)
    painted = None
    if edited:
        painted = np.zeros(case.geometry.shape, bool)
        mask = ensemble.wt_mask(0.4)
        edit = describe_edit(mask, painted, mask, case.geometry, "a run")
        record = replace(record, edited=edit)
    save_result(folder / "out", case, ensemble, record, edited=painted)
    return record


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_says_what_the_records_say(tmp_path: Path) -> None:
    records = {
        "Case_10": save(tmp_path, "Case_10", edited=True),
        "Case_9": save(tmp_path, "Case_9", 3),
        "Case_2": save(tmp_path, "Case_2", 1),
    }
    summaries, problems = read_summaries(tmp_path / "out")
    assert not problems
    rows = read_csv(save_table(tmp_path / "table.csv", summaries))
    assert [row["case"] for row in rows] == ["Case_2", "Case_9", "Case_10"]
    for row in rows:
        record = records[row["case"]]
        assert tuple(row) == COLUMNS
        assert float(row["mask_ml"]) == pytest.approx(record.volume.mask_ml, abs=1e-4)
        volume = record.volume
        for name in ("low_ml", "high_ml", "likely_low_ml", "likely_high_ml"):
            cell, bound = row[name], getattr(volume, name)
            expected = "" if bound is None else pytest.approx(bound, abs=1e-4)
            assert (float(cell) if cell else cell) == expected
        assert int(row["n_samples"]) == record.maps.n_members
        assert (row["threshold"], row["seed"], row["model"]) == ("0.4", "7", "tiny")
        assert record.verdict is not None
        assert row["verdict"] == record.verdict.text
        assert row["warning"] == str(record.verdict.is_warning)
        assert row["files"].split("; ")[0] == f"{row['case']}_diffseg.json"
        scores, run = record.scores, record.run
        assert scores is not None  # there are labels
        numbers = {
            "expected_ml": volume.expected_ml,
            "dice": scores.dice,
            "hd95_mm": scores.hd95_mm,
            "truth_ml": scores.truth_ml,
        }
        for name, expected in numbers.items():
            assert float(row[name]) == pytest.approx(expected, abs=1e-4), name
        texts = {
            "interval": volume.interval or "",
            "consensus": record.maps.consensus,
            "whole_volume": str(record.maps.whole_volume),
            "model_sha256": run.model.sha256,
            "sampler": run.sampler,
            "n_steps": str(run.n_steps),
        }
        assert {name: row[name] for name in texts} == texts
    assert rows[0]["likely_low_ml"] == "" != rows[1]["likely_low_ml"]
    assert rows[0]["confidence"] == rows[0]["mean_disagreement_mm"] == ""
    assert float(rows[1]["confidence"]) == pytest.approx(records["Case_9"].confidence, abs=1e-4)
    assert [(row["edited"], row["edited_ml"]) for row in rows[1:]] == [
        ("False", ""),
        ("True", "0.0"),
    ]
    assert "Case_10_edited.nii.gz" in rows[2]["files"]


def test_the_mean_disagreement_is_over_the_slices_with_tumour(tmp_path: Path) -> None:
    record = save(tmp_path, "Case_1")
    work_list = record.work_list
    with_mask = [entry for entry in record.slices if entry.mask_mm2 > 0]
    assert len(with_mask) == len(work_list)
    mean_mm = sum(entry.disagreement_mm for entry in work_list) / len(work_list)
    assert compute_mean_disagreement_mm(record) == pytest.approx(mean_mm)
    # Of a slice on which the samples agree the distance is 0.
    fewer = replace(record, work_list=work_list[:1])
    mean_mm = work_list[0].disagreement_mm / len(with_mask)
    assert compute_mean_disagreement_mm(fewer) == pytest.approx(mean_mm)
    assert compute_mean_disagreement_mm(replace(record, work_list=())) is None
    assert compute_mean_disagreement_mm(replace(record, work_list=(), confidence=1.0)) == 0


def test_a_damaged_record_is_named_and_the_others_make_the_table(tmp_path: Path) -> None:
    save(tmp_path, "Case_1")
    save(tmp_path, "Case_2")
    (tmp_path / "out" / "Case_1_diffseg.json").write_text("{", encoding="utf-8")
    summaries, problems = read_summaries(tmp_path / "out")
    assert [summary.case for summary in summaries] == ["Case_2"]
    assert len(problems) == 1
    assert "Case_1_diffseg.json is not a JSON file" in problems[0]
    assert not read_summaries(tmp_path / "out", ["Case_3"])[0]
    with pytest.raises(DiffsegError, match="nowhere cannot be read"):
        read_summaries(tmp_path / "nowhere")


def test_what_macos_writes_beside_a_record_is_no_record(tmp_path: Path) -> None:
    save(tmp_path, "Case_1")
    (tmp_path / "out" / "._Case_1_diffseg.json").write_bytes(b"\x00\x05\x16\x07")
    summaries, problems = read_summaries(tmp_path / "out")
    assert [summary.case for summary in summaries] == ["Case_1"]
    assert problems == ()


def test_nothing_but_a_table_is_replaced_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "Case_1")
    mean = tmp_path / "out" / "Case_1_mean.nii.gz"
    before = mean.read_bytes()
    assert main(["table", str(tmp_path / "out"), "--out", str(mean)]) == 2
    assert f"{mean} is no table of napari-diffseg" in capsys.readouterr().err
    assert mean.read_bytes() == before
    table = tmp_path / "table.csv"
    for _ in range(2):
        assert main(["table", str(tmp_path / "out"), "--out", str(table)]) == 0
    assert "Case_1" in table.read_text(encoding="utf-8")
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text(f"{lines[0]},comment\n{lines[1]},exclude\n", encoding="utf-8")
    assert main(["table", str(tmp_path / "out"), "--out", str(table)]) == 2
    assert "somebody has added columns" in capsys.readouterr().err
    assert "exclude" in table.read_text(encoding="utf-8")
    table.write_text("case,mask_ml\nCase_1,2\n", encoding="utf-8")  # of an earlier version
    assert main(["table", str(tmp_path / "out"), "--out", str(table)]) == 0


def test_a_table_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, "Case_1")
    summaries, _ = read_summaries(tmp_path / "out")
    folder = tmp_path / "table.csv"
    folder.mkdir()
    for path in (folder, tmp_path / "out" / "Case_1_mask.nii.gz" / "table.csv"):
        with pytest.raises(DiffsegError, match=r"table.csv cannot be written"):
            save_table(path, summaries)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "table.csv"]
