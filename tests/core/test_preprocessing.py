"""Intensities, brain and window: what goes in comes back at the same place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_diffseg.core.errors import CaseError, ParameterError
from napari_diffseg.core.preprocessing import (
    PAPER_PREPROCESSING,
    PreprocessingConfig,
    find_context,
    find_window,
    normalise,
    prepare_arrays,
    prepare_case,
)
from tests.core.synthetic import synthetic_case

CONFIG = PreprocessingConfig(window=(32, 32), stride=16)


def brain_box(shape: tuple[int, int, int], y: slice, x: slice) -> np.ndarray:
    brain = np.zeros(shape, bool)
    brain[:, y, x] = True
    return brain


def test_percentiles_of_the_brain_become_0_and_1() -> None:
    prior = np.zeros((4, 1, 20, 20), np.float32)
    prior[:, 0, :10] = np.arange(1, 201, dtype=np.float32).reshape(10, 20)
    out = normalise(prior, prior[0] != 0, (1.0, 99.0))
    low, high = np.percentile(np.arange(1, 201), (1, 99))
    assert out[0, 0, 5, 5] == pytest.approx((prior[0, 0, 5, 5] - low) / (high - low))
    assert out.min() == 0.0
    assert out.max() == 1.0
    assert not out[:, 0, 10:].any()


def test_what_surrounds_the_brain_does_not_change_its_intensities() -> None:
    case = synthetic_case()
    padded = np.pad(case.prior_image, ((0, 0), (3, 3), (8, 8), (8, 8)))
    plain = prepare_arrays(case.prior_image, (1.0, 1.0, 1.0), CONFIG)
    moved = prepare_arrays(padded, (1.0, 1.0, 1.0), CONFIG)
    # Slice selection depends on the window, which is the same for both.
    np.testing.assert_array_equal(plain.slices, moved.slices)
    np.testing.assert_array_equal(plain.z_indices + 3, moved.z_indices)


def test_scaled_intensities_give_the_same_input() -> None:
    case = synthetic_case()
    plain = prepare_arrays(case.prior_image, (1.0, 1.0, 1.0), CONFIG)
    scaled = prepare_arrays(case.prior_image * np.float32(37), (1.0, 1.0, 1.0), CONFIG)
    np.testing.assert_allclose(plain.slices, scaled.slices, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 24), (40, 36), (100, 90)])
def test_cut_and_restore_return_every_voxel_of_the_brain(shape: tuple[int, int]) -> None:
    brain = brain_box((2, *shape), slice(3, 18), slice(2, 20))
    window = find_window(brain, (1.0, 1.0), CONFIG)
    image = np.where(brain, np.random.default_rng(0).random((2, *shape)), 0).astype(np.float32)
    np.testing.assert_array_equal(window.restore(window.cut(image)), image)


def test_a_large_brain_gets_a_larger_window() -> None:
    window = find_window(brain_box((1, 100, 100), slice(5, 95), slice(30, 60)), (1.0, 1.0), CONFIG)
    assert window.shape == (96, 32)
    assert window.start[0] <= 5
    assert window.start[0] + window.shape[0] >= 95


def test_the_published_crop_is_8_voxels_on_each_side() -> None:
    brain = brain_box((1, 240, 240), slice(60, 200), slice(50, 190))
    window = find_window(brain, (1.0, 1.0), PAPER_PREPROCESSING)
    assert window.shape == (224, 224)
    assert window.start == (8, 8)


def test_the_published_window_covers_other_sizes_too() -> None:
    for size in (100, 225, 400):
        brain = brain_box((1, size, size), slice(20, size - 20), slice(20, size - 20))
        window = find_window(brain, (1.0, 1.0), PAPER_PREPROCESSING)
        image = brain.astype(np.float32)
        np.testing.assert_array_equal(window.restore(window.cut(image)), image)
        assert all(n % 32 == 0 for n in window.shape)


def test_coarse_scans_are_resampled_and_come_back_in_place() -> None:
    brain = brain_box((1, 60, 50), slice(10, 50), slice(10, 40))
    window = find_window(brain, (2.0, 2.0), CONFIG)
    assert window.grid_shape == (120, 100)
    image = np.zeros((1, 60, 50), np.float32)
    image[0, 20:40, 15:35] = 1.0
    there = window.cut(image)
    assert there.sum() == pytest.approx(4 * image.sum(), rel=0.02)
    back = window.restore(there)
    assert ((back > 0.5) == (image > 0.5)).mean() > 0.995


def test_nearly_the_training_spacing_is_left_alone() -> None:
    window = find_window(brain_box((1, 60, 50), slice(10, 50), slice(10, 40)), (1.03, 0.98), CONFIG)
    assert window.grid_shape == window.source_shape


def test_slices_without_brain_are_left_out() -> None:
    prepared = prepare_case(synthetic_case(), CONFIG)
    assert prepared.slices.shape[1:] == (4, 32, 32)
    assert len(prepared.slices) == len(prepared.z_indices)
    assert 0 not in prepared.z_indices
    assert prepared.slices.min() >= 0.0
    assert prepared.slices.max() <= 1.0


def test_an_empty_case_is_explained() -> None:
    case = synthetic_case()
    empty = replace(case, prior_image=np.zeros_like(case.prior_image))
    with pytest.raises(CaseError, match="Synthetic_00001: no slice shows enough brain"):
        prepare_case(empty, CONFIG)


def test_neighbours_are_stacked_behind_the_slice_itself() -> None:
    config = replace(CONFIG, context_slices=(-2, 2))
    prepared = prepare_case(synthetic_case(), config)
    (image,) = prepared.prior_images([4])
    assert image.shape == (config.n_prior_channels, 32, 32)
    np.testing.assert_array_equal(image[:4], prepared.slices[4])
    np.testing.assert_array_equal(image[4:8], prepared.slices[2])
    np.testing.assert_array_equal(image[8:], prepared.slices[6])


def test_a_neighbour_that_is_not_there_is_replaced_by_the_slice_itself() -> None:
    rows = find_context(np.array([3, 4, 5, 9]), np.array([0, 1, 3]), (-1, 2))
    np.testing.assert_array_equal(rows, [[0, 0, 2], [1, 0, 1], [3, 3, 3]])


def test_a_case_of_one_slice_is_its_own_neighbour() -> None:
    config = replace(CONFIG, context_slices=(-2, 2))
    case = synthetic_case()
    prepared = prepare_arrays(case.prior_image[:, 5:6], (1.0, 1.0, 1.0), config)
    (image,) = prepared.prior_images([0])
    np.testing.assert_array_equal(image, np.tile(prepared.slices[0], (3, 1, 1)))


@pytest.mark.parametrize(("spacing_mm", "context"), [(1.0, (-2, 2)), (2.0, (-1, 1)), (5.0, (0, 0))])
def test_neighbours_are_a_distance_away_not_a_number(
    spacing_mm: float, context: tuple[int, ...]
) -> None:
    config = replace(CONFIG, context_slices=(-2, 2))
    prepared = prepare_arrays(synthetic_case().prior_image, (spacing_mm, 1.0, 1.0), config)
    assert prepared.context == context


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": (30, 32)}, "multiples of 16"),
        ({"percentiles": (99.0, 1.0)}, "percentiles"),
        ({"centre": "left"}, "centre"),
        ({"context_slices": (0, 1)}, "neighbours"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        PreprocessingConfig(**wrong)  # type: ignore[arg-type]
