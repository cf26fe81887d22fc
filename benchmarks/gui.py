"""How the window feels: what a user waits for, measured in a real window on a real case.

python benchmarks/gui.py [CASE]     (without a display: xvfb-run -a -s "-screen 0 1600x1000x24" ...)

CASE is a folder of a BraTS case; by default BraTS2021_00006 of the data beside the checkout, or
the sample case. Prints, with the limits that we set ourselves: the time from the click to the first
sample on screen (first run of the process, then with the model loaded), the gaps between ticks of
the GUI's thread while a whole volume is being sampled, and the time that a slider's tick takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_diffseg._layers import find_cases
from napari_diffseg._sample_data import phantom_folder
from napari_diffseg.demo import PLUGIN, WINDOW_SIZE, live, show_tumour, wait_until

if TYPE_CHECKING:
    from napari_diffseg._widgets import DiffsegWidget

REPOSITORY = Path(__file__).resolve().parents[1]
TICK_MS = 2
SAMPLING_S = 20.0
LOOK_S = 2.0  # nobody clicks again before he has seen the result


class Ticks(QObject):
    """Counts the time between ticks of the GUI's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps_ms: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin to count."""
        self.gaps_ms.clear()
        self._last = time.perf_counter()
        self._timer.start(TICK_MS)

    def stop(self) -> str:
        """Stop, and return what was found."""
        self._timer.stop()
        gaps = sorted(self.gaps_ms)
        p95 = gaps[int(0.95 * (len(gaps) - 1))]
        return (
            f"p50 {statistics.median(gaps):5.1f} ms   p95 {p95:5.1f} ms   worst {gaps[-1]:6.1f} ms"
        )

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps_ms.append(1e3 * (now - self._last))
        self._last = now


def default_case() -> Path:
    """Return the real case if it is here, or else the sample."""
    named = os.environ.get("DIFFSEG_DATA")
    data = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    real = data / "original" / "BraTS2021_00006"
    return real if real.is_dir() else phantom_folder()


def live_until(condition: Callable[[], bool]) -> None:
    """Let the window live, without the naps of `wait_until`, until something is so."""
    while not condition():
        live()
        time.sleep(0.0005)


def rest(seconds: float) -> None:
    """Let the window live for a while."""
    end = time.perf_counter() + seconds
    live_until(lambda: time.perf_counter() > end)


def time_first_sample(widget: DiffsegWidget, ticks: Ticks) -> float:
    """Click Segment; return the seconds until the first sample is in the maps and drawn.

    Ticks are counted from the first step on, and still are.
    """
    before = widget.stage.run
    began = time.perf_counter()
    widget.run.button.click()
    live_until(lambda: widget.run.progress.value() > 0)
    ticks.start()
    # A run takes the stage with its first sample, which is of the visible slice.
    live_until(lambda: widget.stage.run is not before and has_layers(widget))
    live()
    return time.perf_counter() - began


def has_layers(widget: DiffsegWidget) -> bool:
    """Whether all layers of the run on the stage have come."""
    run = widget.stage.run
    return run is not None and len(widget.stage.layers.of_run(run)) == 4


def time_slider(widget: DiffsegWidget, values: range) -> tuple[list[float], list[float]]:
    """Move the threshold; return the ms until the layers have changed, and until it is drawn."""
    changed_ms, drawn_ms = [], []
    for value in values:
        began = time.perf_counter()
        widget.ensemble.threshold.setValue(value)
        changed_ms.append(1e3 * (time.perf_counter() - began))
        live()
        drawn_ms.append(1e3 * (time.perf_counter() - began))
        rest(0.05)
    return changed_ms, drawn_ms


def describe(times_ms: list[float]) -> str:
    """Return median, 95th percentile and worst."""
    times_ms = sorted(times_ms)
    p95 = times_ms[int(0.95 * (len(times_ms) - 1))]
    p50 = statistics.median(times_ms)
    return f"p50 {p50:5.1f}   p95 {p95:5.1f}   worst {times_ms[-1]:6.1f} ms"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", type=Path, default=default_case())
    folder = parser.parse_args().case
    import napari

    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW_SIZE)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Diffusion segmentation")
    viewer.open(folder, plugin=PLUGIN)
    (case,) = find_cases(viewer.layers)
    show_tumour(viewer, case)
    size = " x ".join(map(str, case.geometry.shape))
    print(f"{case.name}, {size}, {os.cpu_count()} cores, {os.getloadavg()[0]:.1f} busy before")
    live()  # the case is on screen
    ticks = Ticks()
    seconds = time_first_sample(widget, ticks)
    print(f"first sample, cold start      {seconds:6.2f} s    (limit 4)")
    live_until(lambda: widget.run.state == "ready")
    print(f"tick gaps in the first run    {ticks.stop()}   (limits: p95 50, worst 200)")
    ticks.start()
    rest(LOOK_S)
    print(f"tick gaps after it            {ticks.stop()}   (colour bars, plots)")
    widget.parameters.seed.setValue(1)
    seconds = time_first_sample(widget, ticks)
    ticks.stop()
    print(f"first sample, model loaded    {seconds:6.2f} s    (limit 1)")
    wait_until(lambda: widget.run.state == "ready")

    widget.parameters.seed.setValue(2)
    widget.parameters.whole_volume.click()
    widget.run.button.click()
    live_until(lambda: widget.run.progress.value() > 0)
    end = time.monotonic() + SAMPLING_S
    ticks.start()
    live_until(lambda: time.monotonic() > end or widget.run.state == "ready")
    print(f"tick gaps while sampling      {ticks.stop()}   (limits: p95 50, worst 200)")
    wait_until(lambda: widget.run.state == "ready")

    changed_ms, drawn_ms = time_slider(widget, range(20, 60))
    print(f"threshold: layers changed     {describe(changed_ms)}   (limit: a frame, 16)")
    print(f"threshold: drawn              {describe(drawn_ms)}   (most of it is OpenGL)")
    ticks.start()
    for value in range(60, 90):
        widget.ensemble.threshold.setValue(value)
        rest(0.05)
    print(f"tick gaps while sliding       {ticks.stop()}")
    viewer.close()


if __name__ == "__main__":
    main()
