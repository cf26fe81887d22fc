"""What the installed wheel must be: complete, light to import, without what is not for users."""

from __future__ import annotations

import sys
from importlib.metadata import files
from importlib.util import find_spec
from pathlib import Path

import napari_diffseg

HEAVY = {"torch", "napari", "qtpy", "PyQt6", "PySide6"}
loaded = HEAVY & sys.modules.keys()
assert not loaded, f"import napari_diffseg imports {loaded}"
assert "site-packages" in napari_diffseg.__file__, napari_diffseg.__file__
assert find_spec("training") is None, "training/ is in the wheel"

installed = [file.as_posix() for file in files("napari-diffseg") or []]
for needed in ("napari_diffseg/napari.yaml", "napari_diffseg/py.typed", "licenses/LICENSE"):
    assert any(name.endswith(needed) for name in installed), f"{needed} is not in the wheel"
models = {Path(name).suffix for name in installed if name.startswith("napari_diffseg/models/")}
assert {".safetensors", ".md"} <= models, f"the model or its card is not in the wheel: {models}"
sample = [name for name in installed if name.startswith("napari_diffseg/sample/")]
assert sum(name.endswith(".nii.gz") for name in sample) == 5, (
    f"not four images and labels: {sample}"
)
assert any("LICENSE" in name for name in sample), "the template's licence is not in the wheel"
assert not [name for name in installed if name.startswith("tests/")], "tests/ is in the wheel"
