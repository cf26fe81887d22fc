"""Between the opening of a case and the click, what a run waits for is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from napari_diffseg._widgets import warm_up
from napari_diffseg._widgets.engine import Engine
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.errors import CheckpointError
from napari_diffseg.core.segment import segment
from tests.models import tiny_model
from tests.plugin.conftest import Desk, write_synthetic


@dataclass
class Loader:
    """Loads the tiny model, and notes in which thread."""

    threads: list[int] = field(default_factory=list)
    may_go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _: Path | None) -> Any:
        self.threads.append(threading.get_ident())
        assert self.may_go.wait(60)
        return tiny_model()


@pytest.fixture
def loader() -> Iterator[Loader]:
    """Give a loader; at the end of the test it is let go."""
    loader = Loader()
    yield loader
    loader.may_go.set()


def wait_for_warm_up(desk: Desk) -> None:
    engine = desk.widget._runner.engine
    desk.wait(lambda: engine._prepared is not None)


def test_the_model_is_loaded_once_and_before_the_click(
    make_desk: Callable[..., Desk], case_folder: Path, loader: Loader
) -> None:
    desk = make_desk(load_model=loader)
    desk.open(case_folder)
    desk.wait(lambda: bool(loader.threads))
    assert loader.threads != [threading.get_ident()]
    assert desk.widget.run.state == "ready"
    desk.click(desk.widget.run.button)  # a run that begins meanwhile waits for it
    loader.may_go.set()
    desk.wait_until_ready()
    assert desk.layer("mean").data.any()
    assert len(loader.threads) == 1


def test_a_model_that_is_written_over_is_read_again(tmp_path: Path) -> None:
    loaded: list[Path | None] = []

    def load(path: Path | None) -> LoadedModel:
        loaded.append(path)
        return tiny_model()

    engine, path = Engine(load), tmp_path / "model.safetensors"
    path.write_bytes(b"first")
    os.utime(path, (1, 1))
    first = engine.load(path)
    assert engine.load(path) is first
    assert engine.peek(path) is first
    path.write_bytes(b"later")
    assert engine.peek(path) is None
    assert engine.load(path) is not first
    assert loaded == [path, path]


def test_a_run_takes_the_images_that_are_prepared(
    make_desk: Callable[..., Desk], case_folder: Path, loader: Loader
) -> None:
    loader.may_go.set()
    taken = []

    def spy(*args: Any) -> Iterator[Any]:
        taken.append(args[4])
        return segment(*args)

    desk = make_desk(spy, loader)
    desk.open(case_folder)
    wait_for_warm_up(desk)
    prepared = desk.widget._runner.engine._prepared[2]
    desk.segment()
    assert taken == [prepared]


def test_a_model_that_cannot_be_read_is_told_by_the_run_only(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    tried = threading.Event()

    def fail(path: Path | None) -> Any:
        tried.set()
        raise CheckpointError("broken.safetensors is damaged: download it again.")

    desk = make_desk(load_model=fail)
    desk.open(case_folder)
    desk.wait(tried.is_set)
    desk.qtbot.wait(50)
    assert not desk.widget.run.message.text()
    with desk.qtbot.capture_exceptions() as exceptions:
        desk.segment()
    assert "damaged" in desk.widget.run.message.text()
    assert not exceptions


def test_nothing_is_kept_of_a_case_that_is_closed_meanwhile(
    make_desk: Callable[..., Desk], case_folder: Path, loader: Loader
) -> None:
    desk = make_desk(load_model=loader)
    desk.open(case_folder)
    desk.wait(lambda: bool(loader.threads))
    desk.viewer.layers.clear()
    ended: list[object] = []
    desk.widget._warm_up._newest.done.connect(ended.append)  # called after the dock's own slot
    loader.may_go.set()
    desk.wait(lambda: bool(ended))
    assert desk.widget._runner.engine._prepared is None


def test_the_case_that_is_chosen_last_is_prepared(
    make_desk: Callable[..., Desk], case_folder: Path, tmp_path: Path, loader: Loader
) -> None:
    desk = make_desk(load_model=loader)
    desk.open(case_folder)
    desk.wait(lambda: bool(loader.threads))
    desk.open(write_synthetic(tmp_path, "Case_002", seed=1))
    desk.qtbot.wait(2 * warm_up.WAIT_MS)
    loader.may_go.set()

    def holds(case: Any) -> bool:
        kept = desk.widget._runner.engine._prepared
        return kept is not None and kept[0]() is case

    desk.wait(lambda: holds(desk.widget._desk.current))
    assert desk.widget._desk.current is not None
    assert desk.widget._desk.current.name == "Case_002"


def test_a_dock_that_is_closed_at_once_begins_nothing(
    make_desk: Callable[..., Desk], case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "WAIT_MS", 600_000)
    desk = make_desk()
    desk.open(case_folder)
    timer = desk.widget._warm_up._timer
    assert timer.isActive()
    desk.viewer.window.remove_dock_widget(desk.widget)
    assert not timer.isActive()
