"""The package as a user meets it: version, public names, what is shipped."""

from __future__ import annotations

import re
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import pytest

import napari_diffseg

QT_BINDINGS = re.compile(r"^(pyqt|pyside)\d", re.IGNORECASE)


def test_version_is_the_same_everywhere(repository: Path) -> None:
    assert napari_diffseg.__version__ == version("napari-diffseg")
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {napari_diffseg.__version__}\n" in citation
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{napari_diffseg.__version__}] - " in changelog


@pytest.mark.parametrize("name", napari_diffseg.__all__)
def test_public_name_can_be_used_and_is_offered(name: str) -> None:
    assert getattr(napari_diffseg, name) is not None
    assert name in dir(napari_diffseg)


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
