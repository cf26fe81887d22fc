"""The whole story in a real window with a real mouse: what a stranger does in the first minute.

Case folder, Segment, first sample, both sliders, a second run that is cancelled. With the model and
the sample case of the package, as shipped. ``DIFFSEG_SCREENSHOT=path.png`` keeps the pictures that
were taken on the way, as one sheet.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.colormaps.standardize_color import transform_color
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QFileDialog

from napari_diffseg._layers import MASK_COLOUR, find_layers
from napari_diffseg._sample_data import phantom_folder
from napari_diffseg._widgets import DiffsegWidget
from napari_diffseg.core.checkpoint import bundled_checkpoint
from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.demo import WINDOW_SIZE, show_tumour

PLUGIN = "napari-diffseg"
FIRST_SAMPLE_MS, RUN_MS = 60_000, 120_000  # a busy machine; usually 2 s


@pytest.fixture
def has_model() -> None:
    """Skip where the weights are not there, for example in a checkout without large files."""
    try:
        bundled_checkpoint()
    except CheckpointError as error:
        pytest.skip(str(error))


def count_pixels(picture: np.ndarray, colour: str, tolerance: int = 12) -> int:
    """Count the pixels of a picture that have this colour."""
    wanted = transform_color(colour)[0, :3] * 255
    return int((np.abs(picture[..., :3] - wanted) <= tolerance).all(axis=-1).sum())


def make_sheet(pictures: list[np.ndarray], path: Path) -> None:
    """Save four pictures as one, two in a row, at half their size."""
    from PIL import Image

    height, width = (n // 2 for n in pictures[0].shape[:2])
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for index, picture in enumerate(pictures):
        small = Image.fromarray(picture[..., :3]).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (index % 2 * width, index // 2 * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def test_click_through(
    has_model: None, make_napari_viewer_proxy: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(*WINDOW_SIZE)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Diffusion segmentation")
    assert isinstance(widget, DiffsegWidget)
    left, pictures = Qt.MouseButton.LeftButton, []

    def take_picture(*, canvas_only: bool = False) -> np.ndarray:
        qtbot.wait(300)
        return viewer.screenshot(canvas_only=canvas_only, flash=False)

    def layer(role: Any) -> Any:
        (found,) = find_layers(viewer.layers, role=role)
        return found

    # Open the case's folder with the button.
    assert widget.run.status.full_text().startswith("Open a case")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(phantom_folder()))
    qtbot.mouseClick(widget.cases.open_button, left)
    qtbot.waitUntil(lambda: len(viewer.layers) == 5, timeout=RUN_MS)
    case = layer("truth").metadata["diffseg"]["source"]
    show_tumour(viewer, case)
    assert widget.cases.chooser.currentText() == case.name
    pictures.append(take_picture())
    without_mask = count_pixels(take_picture(canvas_only=True), MASK_COLOUR)

    # Segment the whole volume: the first sample is on the slice on screen.
    visible = int(viewer.dims.current_step[0])
    qtbot.mouseClick(widget.parameters.whole_volume, left, pos=QPoint(10, 8))
    assert widget.parameters.whole_volume.isChecked()
    qtbot.mouseClick(widget.run.button, left)
    assert widget.run.button.text() == "Cancel"
    qtbot.waitUntil(
        lambda: bool(find_layers(viewer.layers, role="mean")) and bool(layer("mean").data.any()),
        timeout=FIRST_SAMPLE_MS,
    )
    assert layer("mean").data[visible].any()
    assert layer("mask").data[visible].any()
    assert count_pixels(take_picture(canvas_only=True), MASK_COLOUR) > without_mask + 100
    pictures.append(take_picture())
    qtbot.mouseClick(widget.run.button, left)
    qtbot.waitUntil(lambda: widget.run.state == "ready", timeout=RUN_MS)
    assert "Dice 0." in widget.readout.dice.text().replace("<b>", "")

    # Move both sliders: nothing is drawn anew, the picture follows.
    samples = layer("samples").data.copy()
    mask, mean = layer("mask").data.copy(), layer("mean").data.copy()
    for slider, share in ((widget.ensemble.members, 0.25), (widget.ensemble.threshold, 0.85)):
        middle = slider.height() // 2
        span = slider.maximum() - slider.minimum()
        start = 8 + int((slider.width() - 16) * (slider.value() - slider.minimum()) / span)
        end = 8 + int((slider.width() - 16) * share)
        qtbot.mousePress(slider, left, pos=QPoint(start, middle))
        for x in np.linspace(start, end, 6).astype(int):
            qtbot.mouseMove(slider, QPoint(int(x), middle))
            qtbot.wait(20)
        qtbot.mouseRelease(slider, left, pos=QPoint(end, middle))
    k, threshold = widget.ensemble.view().k, widget.ensemble.view().threshold
    assert k < 5
    assert threshold > 0.7
    np.testing.assert_allclose(
        layer("mean").data[visible], samples[:k, visible].mean(axis=0) / 255, atol=1e-6
    )
    assert (layer("mean").data[visible] != mean[visible]).any()
    assert layer("mask").data[visible].sum() < mask[visible].sum()
    assert np.array_equal(layer("samples").data, samples)
    widget.ensemble.overlay.setCurrentIndex(1)
    pictures.append(take_picture())

    # A second run, with another seed, is cancelled.
    widget.parameters.seed.setValue(1)
    qtbot.mouseClick(widget.run.button, left)
    qtbot.waitUntil(lambda: layer("mean").metadata["diffseg"]["seed"] == 1, timeout=FIRST_SAMPLE_MS)
    qtbot.mouseClick(widget.run.button, left)
    qtbot.waitUntil(lambda: widget.run.state == "ready", timeout=RUN_MS)
    assert widget.run.status.full_text().startswith("Cancelled.")
    assert widget.run.button.text().startswith("Add ")  # what is missing
    pictures.append(take_picture())

    if path := os.environ.get("DIFFSEG_SCREENSHOT"):
        make_sheet(pictures, Path(path))
