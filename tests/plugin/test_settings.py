"""What the Preferences say is what a new dock begins with; wrong values are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import npe2
import numpy as np
import pytest
from napari import settings as napari_settings

from napari_diffseg._settings import (
    COLOUR_MAPS,
    DEFAULTS,
    PLUGIN,
    parse_settings,
    read_settings,
)
from tests.models import tiny_model
from tests.plugin.conftest import Desk


@pytest.fixture
def preferences(plugins: npe2.PluginManager) -> Any:
    """Give the plugin's page, as it is on a new computer (see `own_preferences`)."""
    return napari_settings.get_plugin_settings(PLUGIN)


def test_the_page_and_the_record_have_the_same_names_and_defaults(
    plugins: npe2.PluginManager,
) -> None:
    pages = plugins.get_manifest(PLUGIN).contributions.configurations
    properties = {name: p for page in pages.values() for name, p in page.properties.items()}
    fields = {field.name for field in dataclasses.fields(DEFAULTS)} - {"problems"}
    assert set(properties) == fields
    assert all(p.description for p in properties.values())
    assert parse_settings({name: p.default for name, p in properties.items()}) == DEFAULTS
    assert tuple(properties["mean_map"].enum) == COLOUR_MAPS


def test_a_new_dock_begins_with_what_is_preferred(
    preferences: Any, make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    preferences.sampling.samples = 3
    preferences.sampling.steps = 4
    preferences.sampling.device = "cpu"
    preferences.display.threshold = 0.3
    preferences.display.mask_colour = "#ff0000"
    preferences.display.variance_map = "plasma"
    desk = make_desk()
    desk.open(case_folder)
    choices = desk.widget.parameters.choices()
    assert (choices.n_samples, choices.n_steps, choices.device) == (3, 4, "cpu")
    desk.segment()
    assert desk.layer("samples").data.shape[0] == 3
    np.testing.assert_array_equal(desk.layer("mask").data, desk.layer("mean").data > 0.3)
    np.testing.assert_allclose(desk.layer("mask").colormap.map(1), [1, 0, 0, 1])
    assert desk.layer("variance").colormap.name.startswith("plasma")


def test_memory_threads_and_order_are_those_of_the_next_run(
    preferences: Any, make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    desk = make_desk()
    case = desk.open(case_folder)
    desk.go_to(case, 8)
    desk.widget.parameters.whole_volume.click()
    preferences.sampling.visible_slice_first = False
    preferences.sampling.memory_budget_mb = 321
    seen = []
    start = desk.widget._runner._engine.segment

    def spy(*args: Any) -> Iterator[Any]:
        seen.append(args[2])
        return start(*args)

    desk.widget._runner._engine.segment = spy
    desk.segment()
    assert seen[0].memory_budget_mb == 321
    assert seen[0].priority_z == (case.geometry.shape[0] - 1) // 2


def test_wrong_values_are_named_and_replaced(tmp_path: Path) -> None:
    settings = parse_settings(
        {
            "device": "gpu",
            "threads": -1,
            "model": str(tmp_path / "no.safetensors"),
            "samples": "many",
            "mask_colour": "blue",
            "mean_map": "jet",
            "results_folder": "results",
        }
    )
    assert dataclasses.replace(settings, problems=()) == DEFAULTS
    named = ("Device", "CPU threads", "Model file", "Samples", "Colour of the mask")
    for title in (*named, "Colours of the mean", "Folder for results"):
        assert sum(f"Preferences, {title}: " in problem for problem in settings.problems) == 1
    assert "auto is used instead." in settings.problems[0]


def test_paths_that_cannot_be_looked_at_are_named_and_replaced(tmp_path: Path) -> None:
    nobody = "~no-such-user-of-diffseg/x"
    settings = parse_settings({"model": nobody, "results_folder": nobody})
    assert dataclasses.replace(settings, problems=()) == DEFAULTS
    assert [nobody in problem for problem in settings.problems] == [True, True]
    settings = parse_settings({"model": str(tmp_path / ("x" * 300))})
    assert settings.model is None
    assert "Preferences, Model file" in settings.problems[0]


def test_the_dock_says_which_preference_is_wrong(
    preferences: Any, make_desk: Callable[..., Desk]
) -> None:
    preferences.sampling.device = "gpu"
    desk = make_desk()
    assert "Preferences, Device: 'gpu'" in desk.widget.run.message.text()
    assert desk.widget.parameters.choices().device == "auto"


def test_a_preferred_model_is_chosen(
    preferences: Any, make_desk: Callable[..., Desk], tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    preferences.sampling.model = str(path)
    desk = make_desk(load_model=lambda _: tiny_model())
    assert desk.widget.model.path == path
    assert desk.widget.model.chooser.currentText() == "mine.safetensors"


def test_values_are_kept_for_the_next_time(preferences: Any) -> None:
    preferences.sampling.samples = 8
    napari_settings._clear_plugin_settings_cache()
    assert read_settings().samples == 8


def test_a_napari_that_does_not_know_the_plugin_gives_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(napari_settings, "_PLUGIN_SETTINGS", {"another": None})
    assert read_settings() == DEFAULTS
