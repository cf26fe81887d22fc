"""What `make demo` shows: napari with the sample case open and the widget docked.

``python -m napari_diffseg.demo`` opens it; with ``--screenshot PATH`` the slice on screen is
segmented, the window is saved as a picture, and that is all: it works in a virtual display.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg._layers import activate_image, find_cases, slice_position_mm

if TYPE_CHECKING:
    from napari import Viewer

    from napari_diffseg._widgets import DiffsegWidget
    from napari_diffseg.core.brats import Case

PLUGIN = "napari-diffseg"
WINDOW_SIZE = (1366, 768)  # a small laptop's screen
TIMEOUT_S = 600.0  # a slow machine without a graphics card


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m napari_diffseg.demo", description=__doc__)
    parser.add_argument(
        "--screenshot",
        metavar="PATH",
        type=Path,
        help="segment the slice on screen, save a picture of the window, and quit",
    )
    path = parser.parse_args(argv).screenshot
    viewer, widget = open_demo()
    if path is None:
        import napari

        napari.run()
        return 0
    try:
        segment_and_wait(widget)
        save_screenshot(viewer, path)
        result = widget.run.status.full_text()
    finally:
        viewer.close()
    sys.stdout.write(f"{result} Screenshot: {path.resolve()}\n")
    return 0


def open_demo() -> tuple[Viewer, DiffsegWidget]:
    """Open a viewer with the sample case, at a slice with tumour, and the widget docked."""
    import napari

    viewer = napari.Viewer(title="napari-diffseg")
    viewer.window.resize(*WINDOW_SIZE)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Diffusion segmentation")
    viewer.open_sample(PLUGIN, "phantom")
    viewer.canvas.overlays.scale_bar.visible = True
    show_tumour(viewer, find_cases(viewer.layers)[0])
    return viewer, widget


def show_tumour(viewer: Viewer, case: Case) -> None:
    """Go to the slice on which the tumour is largest."""
    if case.wt_truth is None:
        return
    z = int(np.argmax(case.wt_truth.sum(axis=(1, 2))))
    viewer.dims.set_point(viewer.dims.ndim - 3, slice_position_mm(case.geometry, z))
    activate_image(viewer.layers, case)
    viewer.fit_to_view()


def segment_and_wait(widget: DiffsegWidget) -> None:
    """Click Segment and wait until the run has ended and all of it is on screen.

    Raises
    ------
    RuntimeError
        If the run fails; with its message.
    """
    widget.run.button.click()
    wait_until(lambda: widget.run.state == "ready" and not widget.stage.layers.is_busy)
    if widget.run.message.kind == "error" and widget.run.message.text():
        raise RuntimeError(widget.run.message.text())


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Let the window live until something is so.

    Raises
    ------
    TimeoutError
        If it does not become so in time.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain")
        live()
        time.sleep(0.01)


def live() -> None:
    """Let the window do what is due, and also throw away what it is done with.

    Qt does the second only in an event loop of its own. Without it napari does not notice that a
    file has been opened: its sign of activity turns for ever and draws the window each time.
    """
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def save_screenshot(viewer: Viewer, path: Path, settle_s: float = 1.0) -> None:
    """Save the whole window as PNG, once everything has been drawn."""
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > settle_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    viewer.screenshot(str(path), canvas_only=False, flash=False)


if __name__ == "__main__":
    sys.exit(main())
