"""Runs that are interrupted in every way at random moments, and what is left of them.

`test_endurance.py` does a few on small cases; ``python -m tests.plugin.endurance`` does ten on a
real one with the bundled model and prints what was found.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QApplication

from napari_diffseg import demo
from napari_diffseg._layers import find_layers

ACTIONS = ("cancel", "change case", "delete a layer", "close the dock", "close the viewer", "wait")
PASS_S, QUIET_S = 0.1, 1.5
TIMEOUT_S = 900.0  # a whole volume on a busy machine


@dataclass(frozen=True)
class Remains:
    """What a process holds."""

    widgets: int
    threads: frozenset[str]
    files: frozenset[str]
    memory_mb: float


def take_stock(folders: Sequence[Path]) -> Remains:
    """Return what is there once everything that ends has ended."""
    import psutil

    n_widgets, quiet_s = -1, 0.0
    while quiet_s < QUIET_S:  # what is still to be told may begin another task
        assert QThreadPool.globalInstance().waitForDone(int(1000 * TIMEOUT_S))
        live(PASS_S)
        gc.collect()
        before, n_widgets = n_widgets, len(QApplication.allWidgets())
        quiet_s = quiet_s + PASS_S if n_widgets == before else 0.0
    _give_memory_back()
    return Remains(
        widgets=n_widgets,
        threads=frozenset(thread.name for thread in threading.enumerate()),
        files=frozenset(str(p) for folder in folders for p in folder.rglob("*") if _is_ours(p)),
        memory_mb=psutil.Process().memory_info().rss / 2**20,
    )


def _is_ours(path: Path) -> bool:
    return any(word in path.name.lower() for word in ("diffseg", "case", "brats"))


def _give_memory_back() -> None:
    """Make the C library return what is free, which it would keep for later."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL("libc.so.6").malloc_trim(0)


def live(seconds: float) -> None:
    """Let the windows live for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        demo.live()
        time.sleep(0.002)


def live_until(condition: Callable[[], bool]) -> None:
    """Let the windows live until something is so."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        live(0.01)


def run_round(
    viewer: Any,
    widget: Any,
    cases: Sequence[Path],
    action: str,
    chance: random.Random,
    patience_s: float,
) -> bool:
    """Start a run, do something at a random moment of it, end it; return whether all is closed."""
    first, second = chance.sample(list(cases), 2)
    viewer.open(first, plugin="napari-diffseg")
    # A run that nobody stops is of the slice on screen: a whole volume may take half an hour.
    region = "this_slice" if action == "wait" else "whole_volume"
    getattr(widget.parameters, region).click()
    widget.parameters.n_samples.setValue(chance.randint(2, 5))
    widget.parameters.seed.setValue(chance.randint(0, 9999))
    widget.run.button.click()
    assert widget.run.state == "running"
    live(chance.uniform(0.0, patience_s))
    if action == "close the viewer":
        viewer.close()
        return True
    if action == "close the dock":
        viewer.window.remove_dock_widget(widget)
        viewer.close()
        return True
    if action == "change case":
        viewer.open(second, plugin="napari-diffseg")
        live(chance.uniform(0.0, 1.0))
    if action == "delete a layer":
        ours = find_layers(viewer.layers)
        viewer.layers.remove(chance.choice(ours))
    if action != "wait" and widget.run.state == "running":
        widget.run.button.click()
    live_until(lambda: widget.run.state != "running")
    live_until(lambda: widget.run.state in ("ready", "no case"))
    for slider in (widget.ensemble.threshold, widget.ensemble.members):
        slider.setValue(chance.randint(slider.minimum(), slider.maximum()))
    live(0.2)
    viewer.layers.clear()
    live(0.2)
    return False


def run_rounds(
    n_rounds: int,
    open_viewer: Callable[[], tuple[Any, Any]],
    cases: Sequence[Path],
    folders: Sequence[Path],
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    patience_s: float = 0.5,
) -> tuple[Remains, Remains]:
    """Do two rounds of each kind to warm up, then the rounds; return what there was and is.

    Everything is closed at both moments. What torch, OpenGL and the allocator keep for themselves
    grows during the first ten rounds or so, and then no more.
    """
    chance = random.Random(seed)
    actions = [ACTIONS[i % len(ACTIONS)] for i in range(n_rounds)]
    chance.shuffle(actions)
    warm_up = ACTIONS[:2] if n_rounds < len(ACTIONS) else ACTIONS * 2
    remains = []
    for part in (warm_up, actions):
        _do(part, open_viewer, cases, chance, say, patience_s)
        remains.append(take_stock(folders))
    before, after = remains
    return before, after


def _do(
    actions: Sequence[str],
    open_viewer: Callable[[], tuple[Any, Any]],
    cases: Sequence[Path],
    chance: random.Random,
    say: Callable[[str], None],
    patience_s: float,
) -> None:
    """Do these rounds, and close what is open: its own frame, so that nothing is held here."""
    viewer, widget, is_closed = None, None, True
    for number, action in enumerate(actions, start=1):
        if is_closed:
            viewer, widget = open_viewer()
        is_closed = run_round(viewer, widget, cases, action, chance, patience_s)
        say(f"{number}: {action}")
    if not is_closed and viewer is not None:
        viewer.close()


def main() -> int:
    """Do it in earnest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import napari

    from napari_diffseg._sample_data import phantom_folder

    data = Path(os.environ.get("DIFFSEG_DATA", "../shared/data"))
    cases = (data / "original" / "BraTS2021_00006", phantom_folder())

    def open_viewer() -> tuple[Any, Any]:
        viewer = napari.Viewer()
        _, widget = viewer.window.add_plugin_dock_widget("napari-diffseg", "Diffusion segmentation")
        return viewer, widget

    folders = (Path(tempfile.gettempdir()),)
    before, after = run_rounds(
        options.rounds, open_viewer, cases, folders, options.seed, print, patience_s=8.0
    )
    print(f"widgets {before.widgets} -> {after.widgets}")
    print(f"threads {len(before.threads)} -> {len(after.threads)}")
    print(f"files   {len(after.files - before.files)} new in {folders[0]}")
    print(f"memory  {before.memory_mb:.0f} -> {after.memory_mb:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
