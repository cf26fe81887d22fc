"""Configurations survive JSON, and a wrong one is named by its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.model import ModelConfig, fast_model_config
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.serialisation import from_dict, to_dict


@pytest.mark.parametrize(
    "record",
    [
        ModelConfig(),
        fast_model_config(),
        DiffusionConfig(signal=(-0.2, 0.2), clip=(-0.3, 0.3)),
        PreprocessingConfig(window=(64, 48)),
    ],
)
def test_a_round_trip_through_json_changes_nothing(record: Any) -> None:
    assert from_dict(type(record), json.loads(json.dumps(to_dict(record)))) == record


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"windows": [32, 32]}, "Unknown setting prep.windows. Known here: window"),
        ({"window": 32}, "prep.window must be a list"),
        ({"window": [32]}, "prep.window must have 2 values"),
        ({"window": [32, 32.5]}, r"prep.window\[1\] must be int"),
        ({"stride": True}, "prep.stride must be int"),
        ({"centre": "left"}, "prep.centre must be one of"),
        ([1], "prep: expected a table"),
    ],
)
def test_the_wrong_field_is_named(values: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        from_dict(PreprocessingConfig, values, "prep")


def test_whole_numbers_are_numbers() -> None:
    assert from_dict(PreprocessingConfig, {"spacing_mm": 2}).spacing_mm == 2.0
