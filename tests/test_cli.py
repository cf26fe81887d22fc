"""The command line as a user meets it: files in, files out, messages and exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg import __version__
from napari_diffseg._commands import common
from napari_diffseg._commands import segment as command
from napari_diffseg._terminal import ProgressLine
from napari_diffseg.cli import main
from napari_diffseg.core import batch
from napari_diffseg.core.checkpoint import BUNDLED_NAME, save_checkpoint
from napari_diffseg.core.consensus import ConsensusKind
from napari_diffseg.core.events import Started
from napari_diffseg.core.geometry import to_source_grid
from napari_diffseg.core.levels import MapKind
from napari_diffseg.core.metrics import compute_dice
from tests.core.case_files import NAMES_2017, NAMES_2023, write_case
from tests.core.synthetic import synthetic_case
from tests.models import TINY_SEGNET, tiny_model

AFFINE = np.array([[-1.0, 0, 0, 3], [0, -1, 0, 17], [0, 0, 1, 5], [0, 0, 0, 1]])


def write_synthetic(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    names: dict[str, str] = NAMES_2017,
    labels: bool = True,
    shape: tuple[int, int, int] = (12, 40, 36),
) -> Path:
    case = synthetic_case(shape, seed)
    prior = [to_source_grid(volume, case.geometry) for volume in case.prior_image]
    images = dict(zip(("t1", "t1ce", "t2", "flair"), prior, strict=True))
    if labels:
        assert case.labels is not None
        images["seg"] = to_source_grid(case.labels, case.geometry)
    return write_case(folder / name, name, names, images=images, affine=AFFINE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model()
    return save_checkpoint(
        tmp_path_factory.mktemp("model") / "tiny.safetensors",
        model.network,
        model.preprocessing,
        model.card,
        {"steps_trained": 12},
    )


@pytest.fixture
def segment(checkpoint: Path, tmp_path: Path):
    def run(*arguments: object, out: Path = tmp_path / "out") -> int:
        fixed = ["--out", str(out), "--checkpoint", str(checkpoint), "--device", "cpu"]
        return main(["segment", *map(str, arguments), *fixed])

    return run


def load(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_writes_the_maps_on_the_source_grid(segment, tmp_path: Path, capsys) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, "--samples", 3, "--seed", 7, "--save-samples") == 0
    out = tmp_path / "out"
    source = nib.load(case / "Case_1_t1.nii.gz")
    for name in ("mask", "mean", "variance", "disagreement", "samples"):
        image = nib.load(out / f"Case_1_{name}.nii.gz")
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.shape[:3] == source.shape
    mean = load(out / "Case_1_mean.nii.gz")
    samples = nib.load(out / "Case_1_samples.nii.gz").get_fdata()
    assert samples.shape == (*source.shape, 3)
    np.testing.assert_allclose(samples.mean(axis=-1), mean, atol=1e-6)
    assert 0.05 < mean.max() <= 1
    np.testing.assert_array_equal(load(out / "Case_1_mask.nii.gz"), mean > 0.5)
    np.testing.assert_allclose(load(out / "Case_1_variance.nii.gz"), mean * (1 - mean), atol=1e-6)
    between = load(out / "Case_1_disagreement.nii.gz")
    np.testing.assert_allclose(between, samples.var(axis=-1), atol=1e-6)
    assert between.any()
    assert not mean[load(case / "Case_1_t1.nii.gz") == 0].any()
    printed = capsys.readouterr()
    assert printed.out.startswith("Case_1: ")
    assert re.search(
        r" mL, likely [\d.]+ to [\d.]+ \(3 samples: [\d.]+ to [\d.]+\), confidence 0\.",
        printed.out,
    )
    assert f"{out / 'Case_1_mask.nii.gz'}, _mean.nii.gz, _variance.nii.gz, _dis" in printed.out
    verdict = read_json(out / "Case_1_diffseg.json")["verdict"]
    assert verdict["is_warning"]  # the tiny model's samples hardly agree
    assert f"[1/1] Case_1 note: {verdict['text']}" in printed.err
    assert "[1/1] Case_1: " in printed.err
    assert " slices x 3 samples x 3 steps on cpu" in printed.err


def test_samples_see_mirrored_slices_and_other_contrasts_if_asked(segment, tmp_path: Path) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    plain, varied = tmp_path / "plain", tmp_path / "varied"
    assert segment(case, "--save-samples", out=plain) == 0
    ways = ("--mirror", "--vary-contrast", "--report", "--save-samples")
    assert segment(case, *ways, out=varied) == 0
    for out, asked in ((plain, False), (varied, True)):
        run = read_json(out / "Case_1_diffseg.json")["run"]
        assert (run["mirror"], run["vary_contrast"]) == (asked, asked)
    page = (varied / "Case_1_report.html").read_text(encoding="utf-8")
    assert re.search(r"Contrast varied between samples\W+\w+\W+\w*\W*yes", page)
    before, after = (load(out / "Case_1_samples.nii.gz") for out in (plain, varied))
    np.testing.assert_array_equal(after[..., 0], before[..., 0])
    assert not np.array_equal(after[..., 2], before[..., 2])


def test_json_tells_how_and_how_good(segment, tmp_path: Path) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, "--samples", 4, "--seed", 7, "--steps", 2, "--sampler", "ddim") == 0
    record = read_json(tmp_path / "out" / "Case_1_diffseg.json")
    mask = load(tmp_path / "out" / "Case_1_mask.nii.gz")
    truth = load(case / "Case_1_seg.nii.gz") > 0
    assert record["schema_version"] == 3
    assert record["software"]["napari-diffseg"] == __version__
    assert record["run"]["seed"] == 7
    assert (record["run"]["sampler"], record["run"]["n_steps"]) == ("ddim", 2)
    assert record["run"]["eta"] == 0.0
    assert record["run"]["model"]["provenance"] == {"steps_trained": 12}
    assert len(record["run"]["model"]["sha256"]) == 64
    assert record["run"]["model"]["encoders"] == ["U-Net"]
    assert record["scores"]["dice"] == pytest.approx(compute_dice(mask, truth))
    assert record["scores"]["truth_ml"] == pytest.approx(truth.sum() / 1000)
    assert record["volume"]["mask_ml"] == pytest.approx(mask.sum() / 1000)
    assert len(record["volume"]["members_ml"]) == 4
    low, high = record["volume"]["low_ml"], record["volume"]["high_ml"]
    assert low <= record["volume"]["median_ml"] <= high
    assert 0 < record["confidence"] < 1
    for entry in record["slices"]:
        number = entry["slice"]
        assert entry["dice"] == pytest.approx(compute_dice(mask[..., number], truth[..., number]))
        assert 0 <= entry["disagreement"] <= 1
    sampled = [entry["slice"] for entry in record["slices"]]
    assert sampled == sorted(sampled)
    assert record["maps"]["n_sampled_slices"] == len(sampled)


def test_stops_when_stable_and_says_so(segment, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "MAX_TOLERANCE", 1.0)  # the masks of the tiny model are arbitrary
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, "--samples", 6, "--until-stable", 0.9, "--save-samples") == 0
    assert "stable after 3 of 6 samples" in capsys.readouterr().out
    record = read_json(tmp_path / "out" / "Case_1_diffseg.json")
    assert record["maps"]["n_members"] == 3
    stopping = record["run"]["stopping"]
    assert (stopping["tolerance"], stopping["max_samples"], stopping["stable_with"]) == (0.9, 6, 3)
    assert stopping["dice"] >= 0.1
    assert load(tmp_path / "out" / "Case_1_samples.nii.gz").shape[-1] == 3

    assert segment(case, "--samples", 4, "--until-stable", 0) == 0
    assert "not stable after 4 samples" in capsys.readouterr().out
    stopping = read_json(tmp_path / "out" / "Case_1_diffseg.json")["run"]["stopping"]
    assert (stopping["max_samples"], stopping["stable_with"]) == (4, None)


@pytest.mark.parametrize("tolerance", ["0.5", "-0.1", "nan", "a"])
def test_tolerance_that_is_none_is_refused_with_the_unit(tolerance: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["segment", "case", "--out", "o", "--until-stable", tolerance])
    assert exit_.value.code == common.CANNOT_RUN
    told = capsys.readouterr().err
    assert f"'{tolerance}' is not a number from 0 to 0.2: 0.005 is half a per cent" in told


def test_report_is_written_and_carries_the_record(segment, tmp_path: Path, capsys) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, "--samples", 2, "--slices", "4:6", "--report") == 0
    html = (tmp_path / "out" / "Case_1_report.html").read_text(encoding="utf-8")
    data = html.partition('id="record">')[2].partition("</script>")[0]
    saved = json.loads((tmp_path / "out" / "Case_1_diffseg.json").read_text(encoding="utf-8"))
    assert json.loads(data) == {**saved, "files": {}}
    assert "_report.html" in capsys.readouterr().out


def test_same_seed_same_bytes_and_another_seed_not(segment, tmp_path: Path) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    for seed, out in ((1, "a"), (1, "b"), (2, "c")):
        arguments = (case, "--seed", seed, "--samples", 2, "--memory-budget", 1 + ord(out))
        assert segment(*arguments, out=tmp_path / out) == 0
    a, b, c = ((tmp_path / out / "Case_1_mean.nii.gz").read_bytes() for out in "abc")
    assert a == b
    assert a != c


def test_slices_are_those_of_the_file_and_the_end_is_excluded(segment, tmp_path: Path) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, "--samples", 2, out=tmp_path / "all") == 0
    assert segment(case, "--samples", 2, "--slices", "3:5", out=tmp_path / "part") == 0
    whole = load(tmp_path / "all" / "Case_1_mean.nii.gz")
    part = load(tmp_path / "part" / "Case_1_mean.nii.gz")
    assert np.flatnonzero(part.any(axis=(0, 1))).tolist() == [3, 4]
    np.testing.assert_array_equal(part[..., 3:5], whole[..., 3:5])
    record = read_json(tmp_path / "part" / "Case_1_diffseg.json")
    assert [entry["slice"] for entry in record["slices"]] == [3, 4]
    truth = load(case / "Case_1_seg.nii.gz")[..., 3:5] > 0
    assert record["scores"]["dice"] == pytest.approx(compute_dice(part[..., 3:5] > 0.5, truth))


def test_a_part_of_the_tumour_is_called_that(segment, tmp_path: Path, capsys) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    for slices, where in (("4:7", "slices 4 to 6"), ("5", "slice 5")):
        assert segment(case, "--samples", 2, "--slices", slices) == 0
        assert f" in {where} (a part of the tumour), confidence " in capsys.readouterr().out
    for whole in ((), ("--slices", "0:12")):
        assert segment(case, "--samples", 2, *whole) == 0
        assert "part of the tumour" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [("60:90", (60, 90)), ("60:", (60, None)), (":90", (None, 90)), ("71", (71, 72))],
)
def test_slice_range_is_read_as_python_would(text: str, expected: object) -> None:
    assert command.parse_slices(text) == expected


def test_maps_of_masks_as_in_the_paper(segment, tmp_path: Path) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, "--samples", 2, "--of", "masks", "--threshold", 0.4) == 0
    mean = load(tmp_path / "out" / "Case_1_mean.nii.gz")
    assert set(np.unique(mean)) <= {0, 0.5, 1}
    np.testing.assert_array_equal(load(tmp_path / "out" / "Case_1_mask.nii.gz"), mean >= 0.5)
    assert read_json(tmp_path / "out" / "Case_1_diffseg.json")["maps"]["of"] == "masks"


def test_bad_case_is_reported_and_the_others_go_on(segment, tmp_path: Path, capsys) -> None:
    good = write_synthetic(tmp_path / "in", "Good_1", labels=False)
    incomplete = write_synthetic(tmp_path / "in", "Bad_2")
    (incomplete / "Bad_2_t2.nii.gz").unlink()
    damaged = write_synthetic(tmp_path / "in", "Bad_3")
    whole = (damaged / "Bad_3_flair.nii.gz").read_bytes()
    (damaged / "Bad_3_flair.nii.gz").write_bytes(whole[: len(whole) // 2])
    last = write_synthetic(tmp_path / "in", "BraTS-GLI-00004-000", names=NAMES_2023)
    missing = tmp_path / "in" / "nothing here"
    assert segment(incomplete, good, damaged, missing, last, "--samples", 1) == 1
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines() if line[0] != " "] == [
        "Good_1",
        "BraTS-GLI-00004-000",
    ]
    failed = [line for line in printed.err.splitlines() if " failed: " in line]
    assert [line[:5] for line in failed] == ["[1/5]", "[3/5]", "[4/5]"]
    assert "t2" in failed[0]
    assert "Bad_3_flair.nii.gz" in failed[1]
    assert f"{missing} does not exist" in failed[2]
    assert "3 of 5 cases failed." in printed.err
    assert "Traceback" not in printed.err
    results = set((tmp_path / "out").iterdir()) - {tmp_path / "out" / "summary.csv"}
    assert {path.name.rpartition("_")[0] for path in results} == {"Good_1", "BraTS-GLI-00004-000"}


def test_defect_in_one_case_is_no_traceback(segment, tmp_path: Path, capsys, monkeypatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("napari_diffseg.core.batch.describe_result", explode)
    assert segment(write_synthetic(tmp_path / "in", "Case_1"), "--samples", 1) == 1
    assert "unexpected ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_folder_of_cases_stands_for_all_of_them(segment, tmp_path: Path) -> None:
    for name in ("Case_1", "Case_2"):
        write_synthetic(tmp_path / "in", name)
    (tmp_path / "in" / "notes.txt").write_text("a stray file", encoding="utf-8")
    assert segment(tmp_path / "in", "--samples", 1) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {
        "Case_1_diffseg.json",
        "Case_2_diffseg.json",
    }


def test_several_cases_get_a_table(segment, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    for name in ("Case_1", "Case_2"):
        write_synthetic(tmp_path / "in", name)
    assert segment(tmp_path / "in" / "Case_1", "--samples", 2) == 0
    assert not (out / "summary.csv").exists()
    assert segment(tmp_path / "in", "--samples", 2) == 0
    assert f"{out / 'summary.csv'}: 2 cases" in capsys.readouterr().err
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        record = read_json(out / f"{row['case']}_diffseg.json")
        assert float(row["dice"]) == pytest.approx(record["scores"]["dice"], abs=1e-4)

    (out / "Case_1_diffseg.json").write_text("{}", encoding="utf-8")
    table = tmp_path / "table.csv"
    assert main(["table", str(out), "--out", str(table)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{table}: 1 case\n"
    assert "Case_1_diffseg.json is not the record" in printed.err
    assert main(["table", str(tmp_path / "in")]) == 2
    assert "holds no result" in capsys.readouterr().err

    (out / "summary.csv").write_text("somebody's own", encoding="utf-8")
    assert segment(tmp_path / "in", "--samples", 1) == 1
    assert "summary.csv is no table of napari-diffseg" in capsys.readouterr().err
    assert (out / "summary.csv").read_text(encoding="utf-8") == "somebody's own"


def test_files_of_one_case_are_one_case(segment, tmp_path: Path, capsys) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(*sorted(case.iterdir()), case, case, "--samples", 1) == 0
    assert capsys.readouterr().out.count("Case_1: ") == 1


def test_second_case_of_the_same_name_does_not_replace_the_first(
    segment, tmp_path: Path, capsys
) -> None:
    first = write_synthetic(tmp_path / "a", "Case_1", seed=1)
    second = write_synthetic(tmp_path / "b", "Case_1", seed=2)
    assert segment(first, second, "--samples", 1) == 1
    assert "another case is called Case_1" in capsys.readouterr().err
    record = read_json(tmp_path / "out" / "Case_1_diffseg.json")
    assert record["case"]["files"]["t1"] == str(first / "Case_1_t1.nii.gz")


def test_rerun_beside_the_images_replaces_results_and_nothing_else(segment, tmp_path: Path) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    before = {path: path.read_bytes() for path in case.iterdir()}
    assert segment(case, "--samples", 1, out=case) == 0
    assert segment(case, "--samples", 2, out=case) == 0
    assert read_json(case / "Case_1_diffseg.json")["maps"]["n_members"] == 2
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(case.iterdir())) == len(before) + 5


def test_single_slice_case(segment, tmp_path: Path) -> None:
    case = synthetic_case()
    images = {
        name: to_source_grid(volume, case.geometry)[..., 6]
        for name, volume in zip(("t1", "t1ce", "t2", "flair"), case.prior_image, strict=True)
    }
    write_case(tmp_path / "in", "Slice_1", images=images, affine=AFFINE)
    assert segment(tmp_path / "in", "--samples", 2) == 0
    assert nib.load(tmp_path / "out" / "Slice_1_mean.nii.gz").shape == (36, 40)
    assert nib.load(tmp_path / "out" / "Slice_1_mask.nii.gz").get_fdata().any()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--samples", "0"], "At least 1 sample is needed"),
        (["--steps", "0"], "At least 1 step is needed"),
        (["--threshold", "1"], "The threshold must be at least 0 and below 1"),
        (["--threshold", "nan"], "The threshold must be"),
        (["--eta", "2"], "eta must be between 0 and 1"),
        (["--seed", str(2**31)], "The seed must be between 0 and 2147483647"),
        (["--device", "toaster"], "Unknown device 'toaster'"),
        (["--checkpoint", "nothing.safetensors"], "nothing.safetensors: there is no such"),
    ],
)
def test_command_that_cannot_run_says_why(
    arguments: list[str], complaint: str, checkpoint: Path, tmp_path: Path, capsys
) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    fixed = ["--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    assert main(["segment", str(case), *fixed, *arguments]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["segment"],
        ["segment", "case"],
        ["segment", "case", "--out", "o", "--slices", "a:b"],
        ["segment", "case", "--out", "o", "--slices", "9:9"],
        ["segment", "case", "--out", "o", "--slices", "-3:9"],
        ["segment", "case", "--out", "o", "--slices", ":"],
        ["segment", "case", "--out", "o", "--threads", "0"],
        ["segment", "case", "--out", "o", "--sampler", "euler"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: napari-diffseg" in capsys.readouterr().err


def test_range_outside_of_a_case_fails_that_case(segment, tmp_path: Path, capsys) -> None:
    short = write_synthetic(tmp_path / "in", "Short_1", shape=(8, 40, 36))
    tall = write_synthetic(tmp_path / "in", "Tall_2", shape=(16, 40, 36))
    assert segment(short, tall, "--samples", 1, "--slices", "9:12") == 1
    message = "There is no slice in 9:12: the case has slices 0 to 7."
    assert f"[1/2] Short_1 failed: {message}" in capsys.readouterr().err
    assert (tmp_path / "out" / "Tall_2_mask.nii.gz").is_file()
    assert segment(short, "--samples", 1, "--slices", "9") == 1
    assert "There is no slice in 9: the case has" in capsys.readouterr().err


def test_options_that_change_nothing_are_named(segment, tmp_path: Path, capsys) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    idle = ("--sampler", "ddpm", "--eta", 0.7, "--consensus", "majority", "--threshold", 0.9)
    assert segment(case, "--samples", 2, *idle) == 0
    told = capsys.readouterr().err
    assert "note: --eta has no effect on ddpm" in told
    assert "note: --threshold has no effect on --consensus majority" in told
    assert segment(case, "--samples", 2, "--sampler", "ddim", "--eta", 0.7, "--threshold", 0.9) == 0
    assert "no effect" not in capsys.readouterr().err


def test_the_current_folder_is_named_by_its_path(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    (case / "Case_1_t1ce.nii.gz").unlink()
    monkeypatch.chdir(case)
    assert main(["segment", ".", "--out", str(tmp_path / "out")]) == 1
    assert f"t1ce is missing in {case}." in capsys.readouterr().err


def test_output_folder_that_is_a_file(segment, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    case = write_synthetic(tmp_path / "in", "Case_1")
    assert segment(case, out=tmp_path / "file") == 2
    assert "file cannot be made" in capsys.readouterr().err


def test_info_tells_versions_and_models(checkpoint: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("napari_diffseg.core.checkpoint.bundled_checkpoint", lambda: checkpoint)
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    record = dict(line.split(maxsplit=1) for line in printed.splitlines() if line.strip())
    assert record["napari-diffseg"] == __version__
    assert "thread" in record["devices"] or "GB" in record["devices"]
    assert record["sha256"] == tiny_hash(checkpoint)
    assert record["steps_trained"] == "12"
    assert record["encoders"] == "U-Net, run once per slice"


def test_info_tells_of_a_second_encoder(tmp_path: Path, capsys) -> None:
    model = tiny_model(second_encoder=TINY_SEGNET)
    path = tmp_path / "two.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    assert main(["info", "--checkpoint", str(path)]) == 0
    assert "U-Net and, for every second sample, SegNet" in capsys.readouterr().out
    case = write_synthetic(tmp_path / "in", "Case_1")
    options = ["--checkpoint", path, "--out", tmp_path / "out", "--samples", 2, "--report"]
    assert main(["segment", *map(str, [case, *options])]) == 0
    record = read_json(tmp_path / "out" / "Case_1_diffseg.json")
    assert record["run"]["model"]["encoders"] == ["U-Net", "SegNet"]
    page = (tmp_path / "out" / "Case_1_report.html").read_text(encoding="utf-8")
    assert re.search(r"Samples begin from\W+\w+\W+\w*\W*U-Net and SegNet", page)


def test_info_tells_of_all_training_and_not_of_the_last_run_alone(tmp_path: Path, capsys) -> None:
    model = tiny_model()
    first = {"sha256": "a", "provenance": {"training_s": 3600, "images_seen": 147000}}
    unet = {"training_s": 720, "images_seen": 984, "init": first}
    last = {
        "training_s": 3,
        "images_seen": 16,
        "init": first,
        "init_encoder": {"sha256": "b", "provenance": unet},
    }
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, last)
    assert main(["info", "--checkpoint", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (told,) = (place for place, line in enumerate(lines) if "148,000 images in 1.20 h" in line)
    assert lines[told].endswith("the last run alone:")
    assert [line.split() for line in lines[told + 1 :]] == [
        ["images_seen", "16"],
        ["training_s", "3"],
    ]


def test_info_reads_a_record_of_any_kind(tmp_path: Path, capsys) -> None:
    model = tiny_model()
    path = tmp_path / "model.safetensors"
    strange = {"images_seen": "many", "init": "a model", "init_encoder": {"provenance": {"a": 1}}}
    save_checkpoint(path, model.network, model.preprocessing, model.card, strange)
    assert main(["info", "--checkpoint", str(path)]) == 0
    assert re.search(r"images_seen +many", capsys.readouterr().out)


def test_info_without_the_bundled_model_still_describes_another(
    checkpoint: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("napari_diffseg.core.checkpoint.BUNDLED_NAME", f"no {BUNDLED_NAME}")
    assert main(["info", "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "none: The bundled model is missing" in printed
    assert tiny_hash(checkpoint) in printed
    assert main(["info", "--checkpoint", str(tmp_path / "nothing.safetensors")]) == 2


def tiny_hash(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_help_waits_for_no_heavy_library() -> None:
    code = (
        "import sys, napari_diffseg.cli as cli\n"
        "try: cli.main(['segment', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'numpy', 'nibabel', 'scipy'} & set(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "set()"
    assert "CASE_diffseg.json" in run.stdout


def test_choices_of_the_parser_are_those_of_the_core() -> None:
    assert get_args(MapKind) == command.MAP_KINDS
    assert get_args(ConsensusKind) == command.CONSENSUS_KINDS


def test_every_option_arrives(segment, tmp_path: Path, monkeypatch) -> None:
    """What a machine has and a run needs: neither shows in the maps of a small case."""
    import torch

    case = write_synthetic(tmp_path / "in", "Case_1")
    seen = []
    threads = []
    real = batch.segment_to_files

    def spy(files, model, options, *rest, **names):
        seen.append(options)
        return real(files, model, options, *rest, **names)

    monkeypatch.setattr(batch, "segment_to_files", spy)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    asked = ("--memory-budget", 77, "--threads", 3, "--sampler", "ddim", "--eta", 0.5)
    assert segment(case, *asked, "--device", "cpu") == 0
    (options,) = seen
    assert options.params.memory_budget_mb == 77
    assert options.params.device == "cpu"
    assert (options.params.sampler, options.params.eta) == ("ddim", 0.5)
    assert threads == [3]
    asked = ["segment", str(case), "--out", str(tmp_path / "out"), "--device", "cuda:7"]
    assert main(asked) == 2


def test_staple_without_simpleitk_is_told_before_anything_is_sampled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch, "has_staple", lambda: False)
    code = main(["segment", str(tmp_path), "--out", str(tmp_path), "--consensus", "staple"])
    assert code == common.CANNOT_RUN
    assert "pip install 'napari-diffseg[staple]'" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals to a process group are different there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_partial_files(
    checkpoint: Path, tmp_path: Path, number: signal.Signals
) -> None:
    case = write_synthetic(tmp_path / "in", "Case_1")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "napari_diffseg", "segment", case, "--out", out]
    options = ["--checkpoint", checkpoint, "--samples", "2000", "--device", "cpu"]
    # A shell starts what runs in the background with Ctrl-C ignored, and so would this child be.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stderr is not None
        assert any("x 2000 samples" in line for line in process.stderr)  # libraries may warn before
        time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert ("Interrupted. What was finished is kept" in errors) is (number == signal.SIGINT)
    assert not list(out.iterdir())


def test_progress_line_is_redrawn_on_a_terminal_and_gone_afterwards() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with ProgressLine("[1/1] Case_1", terminal) as line:
        line._drawn_at = -1.0
        line.update(Started((0, 1), (0, 1, 2, 3, 4), 4, "cpu", 5, 40))
    text = terminal.getvalue()
    assert "\n" not in text
    assert "[1/1] Case_1  preparing" in text
    assert "0/10 slice samples" in text
    assert text.endswith("\r\x1b[K")
