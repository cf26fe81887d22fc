"""The two rules of docs/architecture.md, and that what the documents promise exists."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_diffseg.cli import _make_parser

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "napari_diffseg"
CORE_MODULES = sorted(path.stem for path in (PACKAGE / "core").glob("[!_]*.py"))
PLUGIN_MODULES = sorted(f"napari_diffseg.{path.stem}" for path in PACKAGE.glob("_[!_]*"))
GUI = {"IPython", "PyQt6", "PySide6", "magicgui", "napari", "qtpy", "superqt", "vispy"}
QT = {"PyQt6", "PySide6", "qtpy", "superqt"}


def modules_loaded_by(statement: str) -> set[str]:
    """Top-level names in ``sys.modules`` of a fresh interpreter after ``statement``."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_imports_neither_torch_nor_a_gui() -> None:
    assert not modules_loaded_by("import napari_diffseg") & (GUI | {"torch"})


def test_core_runs_without_any_gui() -> None:
    imports = ", ".join(f"napari_diffseg.core.{module}" for module in CORE_MODULES)
    loaded = modules_loaded_by(f"import {imports}")
    assert "torch" in loaded  # it did import the heavy modules
    assert not loaded & GUI


def test_the_plugin_opens_without_waiting_for_torch() -> None:
    loaded = modules_loaded_by(f"import {', '.join(PLUGIN_MODULES)}")
    assert "qtpy" in loaded  # it did import the widgets
    assert "torch" not in loaded


def test_layers_and_command_line_need_no_qt() -> None:
    assert not modules_loaded_by("import napari_diffseg._layers, napari_diffseg.cli") & QT


def test_only_the_worker_knows_napari_threads() -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and node.module == "napari.qt.threading")
        or (isinstance(node, ast.Import) and any("napari.qt" in a.name for a in node.names))
    }
    assert importers == {"_worker.py"}


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


FORBIDDEN_LINES = {
    "core/errors.py": ("import napari", "core knows no GUI BROKEN"),
    "core/volume.py": ("import napari_diffseg.core.segment", "core: one direction BROKEN"),
    "_layers.py": ("import napari_diffseg._widgets", "BROKEN"),
    "cli.py": ("import training.config", "the package never imports training BROKEN"),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of the code and its contracts, to be spoilt."""
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.nii.gz", "*.npz")
    shutil.copytree(PACKAGE, tmp_path / "src" / "napari_diffseg", ignore=ignore)
    shutil.copytree(REPOSITORY / "training", tmp_path / "training", ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_import_contracts_are_kept(checkout: Path) -> None:
    run = lint_imports(checkout)
    assert run.returncode == 0, run.stdout
    contracts = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    n_contracts = len(contracts["tool"]["importlinter"]["contracts"])
    assert f"{n_contracts} kept, 0 broken" in run.stdout


@pytest.mark.parametrize("module", FORBIDDEN_LINES)
def test_import_contracts_bite(checkout: Path, module: str) -> None:
    line, complaint = FORBIDDEN_LINES[module]
    path = checkout / "src" / "napari_diffseg" / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    run = lint_imports(checkout)
    assert run.returncode == 1
    assert complaint in run.stdout


def test_root_manifest_is_the_package_manifest() -> None:
    root = REPOSITORY / "napari.yaml"
    target = "src/napari_diffseg/napari.yaml"
    if root.is_symlink():
        assert root.readlink().as_posix() == target
        assert root.samefile(REPOSITORY / target)
    else:  # a checkout on Windows writes the target's name into an ordinary file
        assert root.read_text(encoding="utf-8").strip() == target


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_commands_of_the_document_exist(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=[`\s])", code_of(text))) <= targets
    for module in re.findall(r"python -m (training[\w.]*)", text):
        path = REPOSITORY.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def command_lines() -> Iterator[str]:
    """The lines of our own command in the documents, without options in brackets and comments."""
    for document in ("README.md", "docs/review.md", "training/README.md"):
        text = (REPOSITORY / document).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^napari-diffseg (.*)$", text, flags=re.MULTILINE):
            yield re.sub(r"[\[\]]|\.\.\.", " ", line)


@pytest.mark.parametrize("line", [*command_lines()])
def test_command_lines_of_the_documents_are_understood(line: str) -> None:
    arguments = shlex.split(line, comments=True)
    assert _make_parser().parse_args(arguments).command


def test_readme_opens_with_the_two_commands() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\bmake (\w+)", code_of(text))[:2] == ["demo", "test"]


def code_of(markdown: str) -> str:
    """Everything between back-ticks: commands, not English ("make sure")."""
    blocks = re.findall(r"```.*?```", markdown, flags=re.DOTALL)
    rest = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", rest)])


def test_files_named_in_the_map_exist() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((?!https?:)([^)#]+)", text))
    assert named
    missing = [name for name in named if not (REPOSITORY / "docs" / name).exists()]
    assert not missing
