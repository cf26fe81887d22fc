from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_diffseg.core.brats import load_case
from napari_diffseg.core.checkpoint import save_checkpoint
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.metrics import compute_dice
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.run import run_case
from tests.models import tiny_model
from tests.training.tiny import TRAINING, VALIDATION, TinyData
from training import sheet
from training.figures import COLOURS, Panel, draw_panels, write_figure
from training.results import SheetRow, read_rows
from training.sheet import choose_slices, main


@pytest.fixture
def arguments(tiny_data: TinyData, tmp_path: Path) -> list[str]:
    model = tiny_model(window=(48, 48))
    path = save_checkpoint(
        tmp_path / "m.safetensors", model.network, model.preprocessing, model.card, {}
    )
    places = ["--split", tiny_data.split, "--checkpoint", path, "--out", tmp_path / "out"]
    options = ["--slices", "0:12", "--slices-per-case", "2", "--device", "cpu"]
    return [str(tiny_data.cases), *map(str, places), *options]


def test_slices_are_spread_over_the_tumour(tiny_data: TinyData) -> None:
    case = load_case(tiny_data.cases / VALIDATION[0])
    assert case.wt_truth is not None
    tumour = np.flatnonzero(case.wt_truth.any(axis=(1, 2)))
    two = choose_slices(case, 2, (0, 12))
    assert set(two) < set(tumour)
    assert len(two) == 2
    assert min(two) > tumour[0]
    assert choose_slices(case, 100, (0, 12)) == tumour.tolist()
    assert choose_slices(case, 2, (0, 1)) == []
    with pytest.raises(CaseError, match="no expert labels"):
        choose_slices(replace(case, labels=None, wt_truth=None), 2, (0, 12))


def test_sheet_has_every_number_of_steps_and_members(
    arguments: list[str], tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--steps", "1:3,2:2"]) == 0
    rows = read_rows(tmp_path / "out", SheetRow)
    assert [(row.steps, row.n_samples) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    assert all(row.n_slices == 2 for row in rows)
    assert [row.diversity is None for row in rows] == [True, False, False, True, False]
    text = (tmp_path / "out" / "sheet.md").read_text("utf-8")
    assert capsys.readouterr().out == text
    for name in ("Dice", "HD95 (mm)", "ECE", "error AUROC", "diversity", "s per slice"):
        assert f"| {name}; members " in text
    (line,) = [line for line in text.split("| ECE;")[0].splitlines() if line.startswith("| 3 ")][:1]
    assert line.split("|")[3].strip() == "-"  # two steps have two members only
    ET.parse(tmp_path / "out" / "sheet.svg")

    # The numbers are those of an ordinary run of the same members.
    case = load_case(tiny_data.cases / VALIDATION[0])
    assert case.wt_truth is not None
    params = SegmentParams(n_samples=2, n_steps=2, device="cpu")
    masks = run_case(case, tiny_model(window=(48, 48)), params).ensemble.wt_mask()
    chosen = choose_slices(case, 2, (0, 12))
    dice = np.mean([compute_dice(masks[z], case.wt_truth[z]) for z in chosen])
    assert rows[-1].dice == pytest.approx(dice)


def test_interrupted_sheet_goes_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    real = sheet.measure_members

    def count(case, patient, segmenter, chosen):
        measured.append(segmenter.settings["steps"])
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(case, patient, segmenter, chosen)

    monkeypatch.setattr(sheet, "measure_members", count)
    plan = ["--steps", "1:2,2:2"]
    assert main([*arguments, *plan]) == 130
    assert main([*arguments, *plan]) == 0
    assert measured == [1, 2, 2]
    assert main([*arguments, *plan]) == 0
    assert len(measured) == 3
    # More members of one number of steps, in the same sheet.
    assert main([*arguments, "--steps", "1:3"]) == 0
    assert len(measured) == 4
    assert len(read_rows(tmp_path / "out", SheetRow)) == 3 + 2


def test_case_without_tumour_there_is_left_out(
    arguments: list[str],
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = [*TRAINING[:1], *VALIDATION[:1]]
    split = {"training": [], "validation": both}
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    real = sheet.load_case

    def load(files):
        case = real(files)
        healthy = np.zeros_like(case.wt_truth)
        return replace(case, wt_truth=healthy) if case.name == both[0] else case

    monkeypatch.setattr(sheet, "load_case", load)
    places = ["--split", str(tmp_path / "split.json")]
    assert main([*arguments, *places, "--steps", "1:1"]) == 0
    assert f"{both[0]}: no tumour in slices 0 to 11." in capsys.readouterr().err
    assert [row.case for row in read_rows(tmp_path / "out", SheetRow)] == [both[1]]


def test_sheet_of_other_settings_is_left_alone(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--steps", "1:1"]) == 0
    assert main([*arguments, "--steps", "1:1", "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--steps", "0:5"])


def test_sheet_of_labels_that_have_changed_is_left_alone(
    arguments: list[str], tiny_data: TinyData, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--steps", "1:1"]) == 0
    label = next((tiny_data.cases / VALIDATION[0]).glob("*seg*"))
    before = label.read_bytes()
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), label)
    try:
        assert main([*arguments, "--steps", "1:1"]) == 2
    finally:
        label.write_bytes(before)
    assert "other settings" in capsys.readouterr().err


SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: str) -> list[str]:
    return [(element.text or "").strip() for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_figure_has_a_line_for_each_curve_and_names_what_it_shows() -> None:
    curves = {"1 step": [(1.0, 0.5), (2.0, 0.75)], "a < b": [(1.0, 0.6), (2.0, 0.6)]}
    panels = [Panel("Dice", "members", curves), Panel("empty", "members", {})]
    text = draw_panels(panels)
    for colour in map(str.lower, COLOURS[:2]):
        # One line in the panel, one in the legend.
        lines = [e for e in ET.fromstring(text).iter(f"{SVG}path") if colour in e.get("style", "")]
        assert len([e for e in lines if "fill: none" in e.get("style", "")]) == 2
    words = words_of(text)
    assert {"Dice", "members", "1 step", "a < b", "nothing to show"} <= set(words)
    assert {"0.50", "0.75"} <= set(words)
    assert draw_panels(panels) == text


def test_figure_of_many_members_has_round_ticks(tmp_path: Path) -> None:
    curve = [(float(n), 1 - 1 / n) for n in range(1, 101)]
    panel = Panel("Dice", "members", {"ours": curve}, log_x=True)
    words = words_of(draw_panels([panel]))
    assert {"1", "2", "5", "10", "20", "50", "100"} <= set(words)
    few = Panel("Dice", "steps", {"ours": [(1.0, 0.1), (16.0, 0.2), (1000.0, 0.3)]}, log_x=True)
    assert {"1", "16", "1000"} <= set(words_of(draw_panels([few])))
    write_figure([panel], tmp_path / "figure")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "figure.svg"]
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 500


def test_figure_of_a_constant_has_axes() -> None:
    ET.fromstring(draw_panels([Panel("p", "x", {"c": [(1.0, 0.0)]})]))
