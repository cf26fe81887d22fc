"""Other systems go through the same protocol, and the table has a row for each of them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from napari_diffseg.core.brats import load_case
from napari_diffseg.core.checkpoint import load_checkpoint, save_checkpoint
from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import DiffsegError, ParameterError
from napari_diffseg.core.model import DiffusionModel, ModelConfig
from napari_diffseg.core.preprocessing import PreprocessingConfig, prepare_case
from napari_diffseg.core.segnet import SegNetConfig
from napari_diffseg.core.unet import UNetConfig
from tests.models import tiny_model
from tests.training.tiny import VALIDATION, TinyData
from training.baseline_config import BaselineConfig
from training.baselines.checkpoint import save_baseline
from training.baselines.encoders import EncoderSegmenter
from training.baselines.networks import make_network
from training.baselines.opening import open_segmenter
from training.baselines.segmenter import BaselineSegmenter, describe_effort
from training.bootstrap import bootstrap_statistic, sign_flip_p_value, wilcoxon_p_value
from training.comparison import make_comparison, make_sections
from training.evaluate import main
from training.ranking import compute_partial, compute_spearman, make_ranking_table
from training.results import (
    SettingRow,
    SliceRow,
    ThresholdRow,
    TimingRow,
    UncertaintyRow,
    read_rows,
    write_rows,
)
from training.systems import LINES, find_evaluations
from training.table import main as table_main
from training.thresholds import choose_without_patient, find_best, mean_dice

PREPROCESSING = PreprocessingConfig(window=(48, 48), context_slices=(-2, 2))


@pytest.fixture(scope="module")
def bayesian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a Bayesian SegNet with random weights."""
    config = BaselineConfig(segnet=SegNetConfig((8,), (1,), dropout=0.5), sample_dropout=True)
    torch.manual_seed(0)
    network = make_network(config, 12)
    path = tmp_path_factory.mktemp("b") / "bayesian.safetensors"
    effort = {"training_s": 7200, "images_seen": 1000}
    return save_baseline(path, network, config, PREPROCESSING, "tiny", effort)


def open_baseline(path: Path, **options: object) -> BaselineSegmenter:
    segmenter = open_segmenter(path, **options)  # type: ignore[arg-type]
    assert isinstance(segmenter, BaselineSegmenter)
    return segmenter


def test_members_are_on_the_cases_grid_and_inside_the_brain(
    bayesian: Path, tiny_data: TinyData
) -> None:
    case = load_case(tiny_data.cases / VALIDATION[0])
    prepared = prepare_case(case, PREPROCESSING)
    ensemble = open_baseline(bayesian, n_samples=3).segment(case, prepared, (4, 7))
    assert ensemble.shape == case.geometry.shape
    assert ensemble.n_samples()[4:7].tolist() == [3, 3, 3]
    members = ensemble.members_uint8()
    assert not members[:, ~prepared.brain].any()
    assert members[:, 4:7][:, prepared.brain[4:7]].any()
    assert not np.array_equal(members[0], members[1])
    # One slice alone, with fewer members and the same seed, is the same.
    alone = open_baseline(bayesian, n_samples=2).segment(case, prepared, (5, 6))
    assert np.array_equal(alone.members_uint8()[:, 5], members[:2, 5])


def test_dropout_decides_which_system_it_is(bayesian: Path) -> None:
    assert open_baseline(bayesian).system == "bayesian_segnet"
    plain = open_baseline(bayesian, sample_dropout=False)
    assert (plain.system, plain.n_members) == ("segnet", 1)
    with pytest.raises(ParameterError, match="no diffusion model"):
        open_segmenter(bayesian, n_steps=5)
    with pytest.raises(ParameterError, match="is for SegNet and U-Net"):
        open_segmenter(None, sample_dropout=True)


@pytest.fixture(scope="module")
def two_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a diffusion model with two encoders and random weights."""
    model = tiny_model(0, (48, 48), (-2, 2), SegNetConfig((8,), (1,), dropout=0.5))
    path = tmp_path_factory.mktemp("two") / "two.safetensors"
    return save_checkpoint(path, model.network, model.preprocessing, model.card, {})


def test_without_diffusion_members_are_the_encoders_own_answers(
    two_encoders: Path, tiny_data: TinyData
) -> None:
    case = load_case(tiny_data.cases / VALIDATION[0])
    prepared = prepare_case(case, PREPROCESSING)
    segmenter = open_segmenter(two_encoders, without_diffusion=True)
    members = segmenter.segment(case, prepared, (5, 6)).members_uint8()
    network = load_checkpoint(two_encoders).network
    assert network.prior_encoder is not None
    assert network.second_encoder is not None
    (row,) = np.flatnonzero(prepared.z_indices == 5)
    images = torch.from_numpy(prepared.prior_images([int(row)]))
    for member, encoder in enumerate((network.prior_encoder, network.second_encoder)):
        with torch.inference_mode():
            answer = prepared.window.restore(torch.sigmoid(encoder(images))[0].numpy())[0]
        inside = prepared.brain[5]
        assert inside.any()
        assert np.abs(members[member, 5][inside] / 255 - answer[inside]).max() < 0.005
    assert segmenter.settings["samples"] == 2
    n_denoiser = sum(p.numel() for p in network.denoiser.parameters())
    n_all = sum(p.numel() for p in network.parameters())
    assert segmenter.settings["parameters"] == n_all - n_denoiser


def test_without_diffusion_is_for_models_that_have_encoders(
    two_encoders: Path, bayesian: Path
) -> None:
    for path, options in ((bayesian, {}), (two_encoders, {"n_steps": 3})):
        with pytest.raises(ParameterError, match="--without-diffusion is for a diffusion model"):
            open_segmenter(path, without_diffusion=True, **options)
    published = load_checkpoint(two_encoders)
    no_encoder = DiffusionModel(
        ModelConfig(UNetConfig(in_channels=5, base_channels=32, channel_multipliers=(1,))),
        DiffusionConfig(),
    )
    with pytest.raises(ParameterError, match="has no encoder"):
        EncoderSegmenter(replace(published, network=no_encoder))


def test_effort_includes_the_model_that_a_run_began_from() -> None:
    first = {"training_s": 3600, "images_seen": 100}
    second = {"training_s": 1800, "images_seen": 50, "init": {"provenance": first}}
    network = torch.nn.Linear(2, 1)
    assert describe_effort(network, second) == {
        "parameters": 3,
        "training_hours": "1.50",
        "images_seen": 150,
    }
    assert describe_effort(network, {})["images_seen"] == ""


def test_effort_counts_a_model_once_that_two_others_began_from() -> None:
    first = {"sha256": "a", "provenance": {"training_s": 3600, "images_seen": 100}}
    unet = {"training_s": 720, "images_seen": 20, "init": first}
    whole = {
        "training_s": 360,
        "images_seen": 10,
        "init": first,
        "init_encoder": {"sha256": "b", "provenance": unet},
    }
    effort = describe_effort(torch.nn.Linear(2, 1), whole)
    assert (effort["training_hours"], effort["images_seen"]) == ("1.30", 130)


def test_baselines_go_through_the_whole_protocol(
    bayesian: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = [str(tiny_data.cases), "--segmenter", str(bayesian), "--slices", "4:9"]
    for name, option in (("b", "--sample-dropout"), ("s", "--no-sample-dropout")):
        out = str(tmp_path / "systems" / name)
        assert main([*fixed, "--samples", "2", option, "--out", out]) == 0
    members = {row.n_samples for row in read_rows(tmp_path / "systems" / "b", SliceRow)}
    assert members == {1, 2}
    timings = read_rows(tmp_path / "systems" / "b", TimingRow)
    assert [(row.n_slices, row.n_samples) for row in timings] == [(5, 2)] * 4
    capsys.readouterr()
    assert table_main([str(tmp_path / "systems")]) == 0
    printed = capsys.readouterr().out
    (row,) = [r for r in printed.splitlines() if r.startswith("| Bayesian SegNet, 2 runs ")][:1]
    assert row.split("|")[-3].strip() == "2.00"
    assert row.split("|")[-2].strip() == "1,000"
    assert "| SegNet, 1 run " in printed
    maps = rows_of(printed, "Uncertainty")
    assert all(text != "-" for text in maps["Bayesian SegNet, 2 runs"])
    assert maps["SegNet, 1 run"].count("-") == 2  # one run has no diversity and no GED
    assert "| nnU-Net, ensemble of n " in printed


def test_cases_without_tumour_in_the_protocols_slices_are_no_failure(
    bayesian: Path, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--segmenter", str(bayesian), "--slices", "1:2", "--samples", "2"]
    assert main([str(tiny_data.cases), *options, "--out", str(out)]) == 0
    assert "No slice has tumour: no table." in capsys.readouterr().out
    assert read_rows(out, SliceRow) == []
    assert len(read_rows(out, TimingRow)) == 4


# --- the table ------------------------------------------------------------------------------------


def write_system(folder: Path, system: str, dices: dict[str, float]) -> None:
    folder.mkdir(parents=True)
    n = 5 if system == "ddpm" else 1
    methods = (("run", 0, 1), ("probabilities", None, n), ("masks", None, n))
    rows = [
        SliceRow(
            case=patient,
            patient=patient,
            slice=90,
            method=method,
            member=member,
            n_samples=k,
            dice=dice - (0.1 if method == "run" and n > 1 else 0.0),
            jaccard=dice / 2,
            hd95_mm=2.0,
            empty=False,
            predicted_mm2=1.0,
            truth_mm2=1.0,
        )
        for patient, dice in dices.items()
        for method, member, k in methods
    ]
    maps = [
        UncertaintyRow("c", p, method, k, 100, 5, 0.01, 0.1, 0.9, 0.5, 0.5, 0.2, 0.9, 0.3)
        for p in dices
        for method, _, k in methods
    ]
    write_rows(folder, SliceRow, rows)
    write_rows(folder, UncertaintyRow, maps)
    write_rows(folder, TimingRow, [TimingRow(p, p, 10, n, 20.0) for p in dices])
    write_rows(folder, SettingRow, [SettingRow("system", system), SettingRow("parameters", "1234")])


def rows_of(report: str, heading: str) -> dict[str, list[str]]:
    part = report.split(f"## {heading}")[1].split("\n## ", maxsplit=1)[0]
    lines = [line.strip("| ").split("|") for line in part.splitlines() if line.startswith("|")]
    return {line[0].strip(): [text.strip() for text in line[1:]] for line in lines}


@pytest.fixture
def systems(tmp_path: Path) -> Path:
    write_system(tmp_path / "ours", "ddpm", {"A": 0.9, "B": 0.8})
    write_system(tmp_path / "theirs", "segnet", {"A": 0.8, "B": 0.6})
    return tmp_path


def test_every_system_has_a_row_and_none_is_taken_from_the_paper(systems: Path) -> None:
    report = make_comparison(systems)
    table = rows_of(report, "Segmentation")
    assert table["DDPM, 1 run"][0].startswith("0.750 [0.750]")
    assert table["DDPM, ensemble of 5"][0].startswith("0.850 [0.850]")
    assert table["DDPM, ensemble of 5"][4:7] == ["1,234", "?", "?"]
    for name in ("nnU-Net, ensemble of n", "Bayesian SegNet, n runs", "U-Net, 1 run"):
        assert table[name][0] == "not run"
    assert len(table) == 2 + len(LINES)  # and the head
    assert "0.866" not in report.split("## As published, not measured here")[0]
    assert "copied from the paper" in report


def threshold_row(patient: str, threshold: float, n_slices: int, dice: float) -> ThresholdRow:
    return ThresholdRow(
        patient, patient, threshold, n_slices, dice, 0.5, 3.0 * (1 - threshold), 2.0
    )


def test_a_patients_threshold_is_chosen_without_the_patient(systems: Path) -> None:
    dice = {
        "A": {0.3: 0.9, 0.5: 0.5, 0.7: 0.5},
        "B": {0.3: 0.5, 0.5: 0.8, 0.7: 0.7},
        "C": {0.3: 0.5, 0.5: 0.6, 0.7: 0.9},
    }
    n_slices = {"A": 1, "B": 2, "C": 2}
    rows = [
        threshold_row(patient, threshold, n_slices[patient], value)
        for patient, values in dice.items()
        for threshold, value in values.items()
    ]
    # All: 0.3 has 2.9 / 5, 0.5 has 3.3 / 5, 0.7 has 3.7 / 5. Without C: 1.9, 2.1 and 1.9 of 3.
    assert mean_dice(rows) == pytest.approx({0.3: 0.58, 0.5: 0.66, 0.7: 0.74})
    assert find_best(rows) == 0.7
    chosen = {row.patient: row.threshold for row in choose_without_patient(rows)}
    assert chosen == {"A": 0.7, "B": 0.7, "C": 0.5}
    assert find_best([threshold_row("A", t, 1, 0.5) for t in (0.3, 0.5, 0.7)]) == 0.5
    # Without a measurement there is no table, with one a row for each system.
    assert "## Threshold" not in make_comparison(systems)
    write_rows(systems / "theirs", ThresholdRow, rows)
    table = rows_of(make_comparison(systems), "Threshold")
    best, there, others, with_it, ratio = table["SegNet, 1 run"][1:]
    assert (best, there[:5], others, with_it[:5]) == ("0.70", "0.740", "0.50 to 0.70", "0.620")
    assert ratio == "0.55"  # (0.9 + 0.9 + 1.5) / 6
    assert table["DDPM, ensemble of 5"][0] == "not measured"
    assert table["nnU-Net, ensemble of n"][0] == "not run"


def test_every_system_is_compared_with_the_ensemble(systems: Path) -> None:
    table = rows_of(make_comparison(systems), "Against the ensemble")
    assert "DDPM, ensemble of 5" not in table
    n_patients, n_slices, dice, hd95, *_, swapped = table["SegNet, 1 run"]
    assert (n_patients, n_slices) == ("2", "2")
    assert dice == "-0.150 (-0.200 to -0.100), p 0.500"  # two patients: four patterns, two as far
    assert hd95 == "+0.00 (+0.00 to +0.00), p 1.000"
    assert swapped == "0.500"
    assert table["DDPM, 1 run"][2].startswith("-0.100 (-0.100 to -0.100)")
    assert table["U-Net, 1 run"][0] == "not run"
    assert "With 2 patients no p can be less than 0.500" in make_comparison(systems)


def test_without_the_ensemble_nothing_is_compared(tmp_path: Path) -> None:
    write_system(tmp_path / "theirs", "segnet", {"A": 0.8, "B": 0.6})
    assert "Against the ensemble" not in make_comparison(tmp_path)


def test_slices_are_ranked_by_how_sure_the_members_are(tmp_path: Path) -> None:
    # The more the members agree the better; the entropy says the opposite.
    values = {"A": (0.9, 0.95), "B": (0.8, 0.9), "C": (0.5, 0.7), "D": (0.2, 0.4)}
    write_system(
        tmp_path / "ours", "ddpm", {patient: dice for patient, (dice, _) in values.items()}
    )
    rows = [
        replace(r, confidence=values[r.patient][1], mean_entropy=values[r.patient][1])
        for r in read_rows(tmp_path / "ours", SliceRow)
    ]
    write_rows(tmp_path / "ours", SliceRow, rows)
    table = rows_of(make_comparison(tmp_path), "Which slices, and which cases, need a human?")
    # Cases come below slices and have no Dice in 3-D here, so the first table is looked at alone.
    found = find_evaluations(tmp_path)
    ranking = make_ranking_table(found, of_slices=True)
    (ours,) = [line for line in ranking.lines if str(line[0]) == "DDPM, ensemble of 5"]
    n, best, chance, agreement, soft, entropy, rho, *_ = map(str, ours[1:])
    risks = [0.1, 0.2, 0.5, 0.8]
    assert n == "4"
    assert best == f"{np.mean(np.cumsum(risks) / [1, 2, 3, 4]):.4f}"
    assert agreement.startswith(f"{best} (")
    assert float(chance) == pytest.approx(np.mean(risks))
    assert entropy.startswith(f"{np.mean(np.cumsum(risks[::-1]) / [1, 2, 3, 4]):.4f}")
    assert (soft, rho) == ("-", "1.00")
    assert table["SegNet, 1 run"][0] == "not run"


def test_correlation_at_equal_size_takes_the_size_out() -> None:
    size = np.arange(8.0)
    noise = np.array([0, 1, 0, 1, 1, 0, 1, 0]) * 0.1
    assert compute_spearman(size + noise, size - noise) == pytest.approx(1)
    partial = compute_partial(size, size + 10 * noise, size)
    assert partial is None  # the size itself: nothing is left
    rng = np.random.default_rng(0)
    size = rng.normal(size=500)
    a, b = (size + 0.5 * rng.normal(size=500) for _ in range(2))
    together, alone = compute_spearman(a, b), compute_partial(a, b, size)
    assert together is not None
    assert alone is not None
    assert together > 0.7
    assert abs(alone) < 0.12
    assert compute_spearman(a[:3], b[:3]) is None
    assert compute_spearman(np.ones(9), a[:9]) is None


def test_tables_can_be_read_by_a_program(systems: Path) -> None:
    sections = make_sections(find_evaluations(systems))
    tables = {table.name: table for _, group in sections for table in group}

    def read(name: str) -> dict[str, dict[str, str]]:
        lines = csv.DictReader(io.StringIO(tables[name].to_csv()))
        return {line[tables[name].head[0]]: line for line in lines}

    rows = read("segmentation")
    ours = rows["DDPM, ensemble of 5"]
    assert float(ours["Dice"]) == pytest.approx(0.85)
    assert float(ours["Dice low"]) == pytest.approx(0.8)
    assert float(ours["Dice non-empty"]) == pytest.approx(0.85)
    assert (ours["parameters"], ours["training (h)"]) == ("1234", "?")
    assert rows["nnU-Net, ensemble of n"]["Dice"] == "not run"
    theirs = read("paired")["SegNet, 1 run"]
    assert float(theirs["Dice p"]) == 0.5
    assert float(theirs["Dice high"]) == pytest.approx(-0.1)


def test_uncertainty_table_has_measures_and_seconds(systems: Path) -> None:
    table = rows_of(make_comparison(systems), "Uncertainty")
    assert table["DDPM, ensemble of 5"][1].startswith("0.0100")
    assert table["DDPM, ensemble of 5"][-1] == "2.000"
    assert table["DDPM, 1 run"][-1] == "0.400"
    assert table["MC-dropout U-Net, n runs"][0] == "not run"


def test_systems_on_other_slices_are_told(systems: Path) -> None:
    write_system(systems / "more", "unet", {"A": 0.8, "B": 0.6, "C": 0.7})
    assert "more were measured of U-Net." in make_comparison(systems)


def test_one_row_cannot_have_two_evaluations(systems: Path) -> None:
    write_system(systems / "again", "segnet", {"A": 0.8})
    with pytest.raises(DiffsegError, match="both of SegNet"):
        make_comparison(systems)


def test_wilcoxon_is_of_patients_and_scipys() -> None:
    differences = [0.3, -0.1, 0.2, 0.5, 0.4, 0.6]
    values = [(str(i), d + noise) for i, d in enumerate(differences) for noise in (-0.01, 0.01)]
    assert wilcoxon_p_value(values) == pytest.approx(wilcoxon(differences).pvalue)
    many = np.random.default_rng(0).normal(0.2, 1, 40)
    expected = wilcoxon(many).pvalue
    assert wilcoxon_p_value([(str(i), d) for i, d in enumerate(many)]) == pytest.approx(expected)
    # Ties are counted exactly: of three equal ones all eight patterns, two as far.
    assert wilcoxon_p_value([(name, 0.1) for name in "ABC"]) == pytest.approx(2 / 8)
    assert wilcoxon_p_value([("A", 0.0), ("B", 0.0)]) == 1
    assert wilcoxon_p_value([("A", 0.1), ("A", 0.2)]) is None


def test_interval_of_any_statistic_is_over_patients() -> None:
    values = [("A", 0.0)] * 9 + [("B", 1.0)] * 9
    assert bootstrap_statistic(values, max) == (0.0, 1.0)
    assert bootstrap_statistic(values[:9], max) is None
    assert bootstrap_statistic(values, lambda _: None) is None


def test_p_value_is_of_patients() -> None:
    six = [(str(patient), 0.1) for patient in range(6) for _ in range(20)]
    assert sign_flip_p_value(six) == pytest.approx(2 / 2**6)
    assert sign_flip_p_value([("A", 0.1), ("B", -0.1)]) == 1.0
    assert sign_flip_p_value([("A", 0.1)] * 9) is None
    many = sign_flip_p_value([(str(patient), 0.1) for patient in range(40)])
    assert many == pytest.approx(1 / 10_001)
