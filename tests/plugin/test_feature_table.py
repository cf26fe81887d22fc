"""The table at the end of CONTRIBUTING.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

N_FEATURES = 17  # what users of segmentation plugins ask for


def read_rows(repository: Path) -> dict[str, list[tuple[str, str]]]:
    """Return of each feature the files and names of the tests that show it."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## What is expected, and what shows it")[1]
    rows = {}
    for line in re.findall(r"^\| (?!feature)(.*) \|$", table, flags=re.MULTILINE):
        feature, _, tests = line.split(" | ")
        rows[feature] = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    return rows


def test_every_feature_is_shown_by_tests_that_exist(repository: Path) -> None:
    rows = read_rows(repository)
    assert len(rows) == N_FEATURES
    for feature, tests in rows.items():
        assert tests, feature
        for name, function in tests:
            path = repository / (name if "/" in name else f"tests/plugin/{name}")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in functions, f"{feature}: {name}::{function}"
