"""What the pages of results say is what their committed numbers say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training import report
from training.about import ABOUT, read_about
from training.report import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.parent.name for path in DOCS.glob("results*/data"))


@pytest.mark.parametrize("name", PAGES)
def test_page_is_made_of_its_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(report, "write_figure", lambda _panels, path, *_: drawn.append(path.name))
    assert main([str(DOCS / name / "data"), "--out", str(tmp_path / f"{name}.md")]) == 0
    # `make results` makes it anew.
    made = (tmp_path / f"{name}.md").read_text("utf-8")
    assert (DOCS / f"{name}.md").read_text("utf-8") == made
    tables = {path.name for path in (tmp_path / name / "tables").iterdir()}
    for table in tables:
        old = (DOCS / name / "tables" / table).read_text("utf-8")
        assert old == (tmp_path / name / "tables" / table).read_text("utf-8")
    figures = {path.name for path in (DOCS / name / "figures").iterdir()}
    assert figures == {f"{figure}.{kind}" for figure in drawn for kind in ("svg", "png")}


@pytest.mark.parametrize("name", PAGES)
def test_committed_data_are_numbers(name: str) -> None:
    files = [path for path in (DOCS / name / "data").rglob("*") if path.is_file()]
    files.remove(DOCS / name / "data" / ABOUT)
    assert {path.suffix for path in files} == {".csv"}


def test_pages_say_what_sets_them_apart() -> None:
    abouts = [read_about(DOCS / name / "data") for name in PAGES]
    assert len({about.title for about in abouts}) == len(PAGES)
    assert all("**DDPM " in about.intro for about in abouts)
    for about in abouts:
        linked = re.findall(r"\]\(([^)]+)\)", about.intro)
        assert linked
        assert all((DOCS / link).is_file() for link in linked)
