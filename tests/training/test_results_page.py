"""What docs/results.md says is what its committed numbers say."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import report
from training.report import main

DOCS = Path(__file__).parents[2] / "docs"
DATA = DOCS / "results" / "data"


@pytest.mark.skipif(not DATA.exists(), reason="no results are committed (docs/results/data)")
def test_page_is_made_of_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(report, "write_figure", lambda _panels, path, *_: drawn.append(path.name))
    assert main([str(DATA), "--out", str(tmp_path / "results.md")]) == 0
    # `make results` makes it anew.
    made = (tmp_path / "results.md").read_text("utf-8")
    assert (DOCS / "results.md").read_text("utf-8") == made
    tables = {path.name for path in (tmp_path / "results" / "tables").iterdir()}
    for name in tables:
        old = (DOCS / "results" / "tables" / name).read_text("utf-8")
        assert old == (tmp_path / "results" / "tables" / name).read_text("utf-8")
    figures = {path.name for path in (DOCS / "results" / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in drawn for kind in ("svg", "png")}


@pytest.mark.skipif(not DATA.exists(), reason="no results are committed (docs/results/data)")
def test_committed_data_are_numbers() -> None:
    assert {path.suffix for path in DATA.rglob("*") if path.is_file()} == {".csv"}
