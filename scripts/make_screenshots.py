"""Make the pictures in docs/images anew, by driving a real window on the sample case.

Run from a checkout: ``python scripts/make_screenshots.py [FOLDER]``; without a display under
``xvfb-run -a -s "-screen 0 1600x1000x24"``, as ``make screenshots`` does. With ``--case CASE`` the
pictures of the review are made of that case instead, for looking at them: real cases are not ours
to publish.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from napari.settings import get_settings

from napari_diffseg._layers import find_cases
from napari_diffseg._widgets.convergence_panel import ConvergencePanel
from napari_diffseg._widgets.form import Column
from napari_diffseg._widgets.lesions_panel import LesionsPanel
from napari_diffseg._widgets.members_panel import MembersPanel
from napari_diffseg._widgets.profile_panel import ProfilePanel
from napari_diffseg._widgets.truth_panel import TruthPanel
from napari_diffseg._widgets.work_list_panel import WorkListPanel
from napari_diffseg.cli import main as run_command
from napari_diffseg.demo import (
    PLUGIN,
    open_demo,
    save_screenshot,
    segment_and_wait,
    show_tumour,
    wait_until,
)

if TYPE_CHECKING:
    from napari import Viewer

    from napari_diffseg._widgets import DiffsegWidget
    from napari_diffseg._widgets.panel import Panel

REPOSITORY = Path(__file__).resolve().parents[1]
CLICK_THROUGH = "tests/plugin/test_click_through.py"
OVERLAYS = {"mean": 0, "variance": 1, "disagreement": 2, "none": 3}  # entries of the chooser
SLICES = (62, 98)  # in the file's numbers: most of the phantom's tumour, and its end
REPORT_SIZE = "900,1500"


def main() -> None:
    """Make every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY / "docs" / "images")
    parser.add_argument("--case", type=Path, help="make the pictures of the review of this case")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    get_settings().appearance.theme = "dark"
    viewer, widget = open_demo()
    if options.case is None:
        show_segmenting(viewer, widget, folder)
    else:
        viewer.open(options.case, plugin=PLUGIN)
        show_tumour(viewer, find_cases(viewer.layers)[-1])
    show_review(viewer, widget, folder)
    viewer.close()
    if options.case is None:
        show_report(folder)
        show_click_through(folder)


def show_segmenting(viewer: Viewer, widget: DiffsegWidget, folder: Path) -> None:
    """Show one slice that is done, and a whole volume that is being sampled."""
    segment_and_wait(widget)
    widget.ensemble.overlay.setCurrentIndex(OVERLAYS["variance"])
    save_screenshot(viewer, folder / "overview.png")
    widget.ensemble.overlay.setCurrentIndex(OVERLAYS["mean"])
    widget.parameters.seed.setValue(7)
    widget.parameters.whole_volume.click()
    widget.run.button.click()
    wait_until(lambda: widget.run.progress.value() > widget.run.progress.maximum() // 12)
    save_screenshot(viewer, folder / "sampling.png", settle_s=0.3)
    widget.run.button.click()
    wait_until(lambda: widget.run.state == "ready")
    widget.parameters.seed.setValue(0)


def show_review(viewer: Viewer, widget: DiffsegWidget, folder: Path) -> None:
    """Show what can be asked of a result."""
    widget.parameters.slice_range.click()
    widget.parameters.first.setValue(SLICES[0])
    widget.parameters.last.setValue(SLICES[1])
    widget.parameters.n_samples.setValue(8)
    segment_and_wait(widget)
    widget.set_up.set_open(False)
    widget.ensemble.overlay.setCurrentIndex(OVERLAYS["variance"])
    unfold(widget, ProfilePanel, WorkListPanel)
    (work_list,) = (panel for panel in widget.panels if isinstance(panel, WorkListPanel))
    work_list.next.click()
    save_screenshot(viewer, folder / "review_where.png", settle_s=2.0)

    widget.ensemble.overlay.setCurrentIndex(OVERLAYS["none"])
    unfold(widget, MembersPanel, LesionsPanel)
    (members,) = (panel for panel in widget.panels if isinstance(panel, MembersPanel))
    members.agreement.click()
    save_screenshot(viewer, folder / "review_samples.png", settle_s=2.0)
    members.agreement.click()

    unfold(widget, ConvergencePanel, TruthPanel)
    (truth,) = (panel for panel in widget.panels if isinstance(panel, TruthPanel))
    if truth.errors.isEnabled():
        truth.errors.click()
    save_screenshot(viewer, folder / "review_truth.png", settle_s=3.0)


def unfold(widget: DiffsegWidget, *kinds: type[Panel]) -> None:
    """Unfold these parts of the review, fold the others, and scroll down to them."""
    for panel in widget.panels:
        panel.set_open(isinstance(panel, kinds))
    column = widget.findChild(Column)
    shown = next(panel for panel in widget.panels if isinstance(panel, kinds))
    rest(0.5)
    top = shown.mapTo(column.widget(), shown.rect().topLeft()).y()
    column.verticalScrollBar().setValue(max(0, top - 40))


def rest(seconds: float) -> None:
    """Let the window lay itself out."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end)


def show_report(folder: Path) -> None:
    """Show the HTML report of the sample, as a browser does; without one, say so."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("There is no Chromium: the picture of the report stays as it is.")
        return
    with tempfile.TemporaryDirectory() as name:
        first, last = SLICES
        sample = REPOSITORY / "src" / "napari_diffseg" / "sample" / "Phantom_00001"
        where = ("--slices", f"{first}:{last + 1}", "--samples", "8", "--out", name)
        if run_command(["segment", str(sample), *where, "--report"]):
            raise RuntimeError("the sample case cannot be segmented")
        report = Path(name) / "Phantom_00001_report.html"
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        picture = f"--screenshot={folder.resolve() / 'report.png'}"
        size = f"--window-size={REPORT_SIZE}"
        subprocess.run([*command, picture, size, report.as_uri()], check=True, capture_output=True)  # noqa: S603 (our own file)


def show_click_through(folder: Path) -> None:
    """Let the test of the same name record itself."""
    subprocess.run(  # noqa: S603 (our own test)
        [sys.executable, "-m", "pytest", "-q", CLICK_THROUGH],
        cwd=REPOSITORY,
        env={**os.environ, "DIFFSEG_SCREENSHOT": str(folder.resolve() / "click_through.png")},
        check=True,
    )


if __name__ == "__main__":
    main()
