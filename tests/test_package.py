"""The package as a user meets it: version, public names, what is shipped."""

from __future__ import annotations

import doctest
import re
from importlib.metadata import entry_points, metadata, version
from pathlib import Path
from typing import Any

import pytest

import napari_diffseg
from napari_diffseg.core.checkpoint import save_checkpoint
from tests.models import tiny_model
from tests.test_cli import write_synthetic

QT_BINDINGS = re.compile(r"^(pyqt|pyside)\d", re.IGNORECASE)


def test_version_is_the_same_everywhere(repository: Path) -> None:
    assert napari_diffseg.__version__ == version("napari-diffseg"), "install again: make setup"
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {napari_diffseg.__version__}\n" in citation
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    newest, *_ = re.findall(r"^## \[([^]]+)\].*\n+(?!\n|## )", changelog, re.MULTILINE)  # not empty
    release, _, is_developed = napari_diffseg.__version__.partition(".dev")
    assert newest == ("Unreleased" if is_developed else release)
    assert not is_developed or f"## [{release}]" not in changelog


@pytest.mark.parametrize("name", napari_diffseg.__all__)
def test_public_name_can_be_used_and_is_offered(name: str) -> None:
    assert getattr(napari_diffseg, name) is not None
    assert name in dir(napari_diffseg)


@pytest.fixture
def example_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the case of the examples into the current folder, and a quick model in the package."""
    write_synthetic(tmp_path, "BraTS2021_00006")
    model = tiny_model()
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    monkeypatch.setattr(napari_diffseg, "bundled_checkpoint", lambda: path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("example_case")
def test_example_of_the_readme_gives_maps_and_files(repository: Path, capsys) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["mask"].dtype == bool
    assert (names["mask"] == (names["mean"] > 0.5)).all()
    for name in ("mask", "mean", "variance", "disagreement"):
        assert names[name].shape == names["case"].geometry.shape
        assert names[name].any()
        assert Path("results", f"BraTS2021_00006_{name}.nii.gz").is_file()
    assert re.search(r"[\d.]+ mL in results.BraTS2021_00006_mask\.nii\.gz", capsys.readouterr().out)


@pytest.mark.usefixtures("example_case")
def test_example_of_the_package_gives_a_mask() -> None:
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(napari_diffseg.__doc__):
        exec(example.source, names)
    assert names["mask"].any()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = napari_diffseg.segmnt  # type: ignore[attr-defined]


def test_napari_and_the_shell_find_the_plugin() -> None:
    (manifest,) = entry_points(group="napari.manifest", name="napari-diffseg")
    assert manifest.value == "napari_diffseg:napari.yaml"
    (command,) = entry_points(group="console_scripts", name="napari-diffseg")
    assert callable(command.load())


def test_base_dependencies_bring_no_qt_binding() -> None:
    requirements = metadata("napari-diffseg").get_all("Requires-Dist") or []
    base = [line for line in requirements if "extra ==" not in line]
    assert any(line.startswith("napari>=") for line in base)
    assert not [line for line in base if QT_BINDINGS.match(line) or line.startswith("napari[")]


def test_types_and_manifest_are_beside_the_code() -> None:
    package = Path(napari_diffseg.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "napari.yaml").is_file()
