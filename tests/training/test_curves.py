from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from training.curves import draw_curves, main
from training.figures import COLOURS

TRAIN = "step,loss,loss_mask,loss_prior,learning_rate\n"
VALIDATION = "step,dice_single,dice_ensemble,dice_prior,agreement\n"


def write_run(folder: Path, n_rows: int) -> None:
    folder.mkdir()
    rows = [f"{20 * i},{2 / i},{1 / i},{1 / i},0.001" for i in range(1, n_rows + 1)]
    (folder / "train.csv").write_text(TRAIN + "\n".join(rows) + "\n", encoding="utf-8")


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(path).iter() if element.tag.endswith("text")]


def find_lines(path: Path) -> list[list[tuple[float, float]]]:
    """Return the points of each curve; those of the legend and of the axes are not clipped."""
    colours = {colour.lower() for colour in COLOURS}
    lines = []
    for element in ET.parse(path).iter():
        stroke = re.search(r"fill: none; stroke: (#\w{6})", element.get("style", ""))
        if element.get("clip-path") and stroke and stroke[1] in colours:
            points = re.findall(r"[ML] ([\d.]+) ([\d.]+)", element.get("d", ""))
            lines.append([(float(x), float(y)) for x, y in points])
    return lines


def test_curves_show_losses_dice_and_rate(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 10)
    (tmp_path / "run" / "validation.csv").write_text(
        VALIDATION + "100,0.5,0.6,0.55,0.9\n200,0.6,0.72,,0.8\n", encoding="utf-8"
    )
    path = draw_curves(tmp_path / "run")
    assert path.name == "curves.svg"
    names = {"loss", "mask", "prior encoder", "ensemble", "1 run", "learning rate", "agreement"}
    assert names <= set(texts(path))
    assert "Validation Dice, best 0.7200 at step 200" in texts(path)
    # Three losses, three Dice curves, rate and agreement; the prior encoder has one point.
    assert sorted(map(len, find_lines(path))) == [1, 2, 2, 2, 10, 10, 10, 10]


def test_long_run_is_thinned_from_end_to_end(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 5000)
    loss = find_lines(draw_curves(tmp_path / "run"))[0]
    assert 100 <= len(loss) <= 200
    assert loss[-1][0] - loss[0][0] > 180  # of a panel of 270


def test_loss_of_one_term_is_one_curve(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.csv").write_text("step,loss,loss_mask,learning_rate\n20,1,1,0.1\n", "utf-8")
    assert "mask" not in texts(draw_curves(folder))


def test_command_draws_several_runs_and_names_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, 3)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.count("curves.svg") == 2
    assert main([str(tmp_path / "c")]) == 1
    assert "has no curves yet" in capsys.readouterr().err
