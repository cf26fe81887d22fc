"""Make the pictures in docs/images anew, by driving a real window on the sample case.

Run from a checkout: ``python scripts/make_screenshots.py [FOLDER]``; without a display under
``xvfb-run -a -s "-screen 0 1600x1000x24"``, as ``make screenshots`` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from napari.settings import get_settings

from napari_diffseg.demo import open_demo, save_screenshot, segment_and_wait, wait_until

REPOSITORY = Path(__file__).resolve().parents[1]
CLICK_THROUGH = "tests/plugin/test_click_through.py"
VARIANCE = 1  # entry of the overlay chooser


def main(folder: Path) -> None:
    """Make every picture."""
    get_settings().appearance.theme = "dark"
    viewer, widget = open_demo()
    segment_and_wait(widget)
    widget.ensemble.overlay.setCurrentIndex(VARIANCE)
    save_screenshot(viewer, folder / "overview.png")
    widget.ensemble.overlay.setCurrentIndex(0)
    widget.parameters.seed.setValue(7)
    widget.parameters.whole_volume.click()
    widget.run.button.click()
    wait_until(lambda: widget.run.progress.value() > widget.run.progress.maximum() // 12)
    save_screenshot(viewer, folder / "sampling.png", settle_s=0.3)
    viewer.close()
    subprocess.run(  # noqa: S603 (our own test)
        [sys.executable, "-m", "pytest", "-q", CLICK_THROUGH],
        cwd=REPOSITORY,
        env={**os.environ, "DIFFSEG_SCREENSHOT": str(folder.resolve() / "click_through.png")},
        check=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "images")
