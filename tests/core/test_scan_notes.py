"""Odd images are told, each with its own words; ordinary ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_diffseg.core.brats import Case, load_case
from napari_diffseg.core.geometry import Geometry
from napari_diffseg.core.scan_notes import find_scan_notes
from tests.core.synthetic import synthetic_case


def with_image(case: Case, channel: int, image: np.ndarray) -> Case:
    prior = case.prior_image.copy()
    prior[channel] = image
    return replace(case, prior_image=prior)


def with_spacing(spacing_xyz: tuple[float, float, float]) -> Case:
    case = synthetic_case()
    affine = np.diag([-spacing_xyz[0], -spacing_xyz[1], spacing_xyz[2], 1.0])
    return replace(case, geometry=Geometry.from_affine(case.geometry.source_shape, affine))


def test_an_ordinary_case_has_no_note() -> None:
    assert find_scan_notes(synthetic_case()) == ()


def test_the_sample_case_has_no_note() -> None:
    from napari_diffseg._sample_data import phantom_folder

    assert find_scan_notes(load_case(phantom_folder())) == ()


def test_intensities_that_are_scaled_shifted_or_negative_within_the_brain_are_no_matter() -> None:
    case = synthetic_case()
    t1 = case.prior_image[0]
    normalised = np.where(t1 != 0, (t1 - 110) / 30, 0)
    assert find_scan_notes(with_image(case, 0, normalised)) == ()


def test_two_equal_images_are_told() -> None:
    case = synthetic_case()
    (note,) = find_scan_notes(with_image(case, 1, case.prior_image[0]))
    assert note.startswith("T1 and T1ce are the same image")


def test_images_that_differ_on_one_slice_only_are_not_equal() -> None:
    case = synthetic_case()
    image = case.prior_image[0].copy()
    image[3] *= 2
    assert find_scan_notes(with_image(case, 1, image)) == ()


def test_a_mask_in_the_place_of_an_image_is_told() -> None:
    case = synthetic_case()
    brain = case.prior_image[0] != 0
    mask = brain + 1.0 * (case.prior_image[2] > 150)
    (note,) = find_scan_notes(with_image(case, 2, mask))
    assert note == "T2 has 2 different values only: it looks like a mask, not like an MRI."


def test_a_background_that_is_not_0_is_told_once_for_all_images() -> None:
    case = synthetic_case()
    prior = (case.prior_image - 100) / 30
    (note,) = find_scan_notes(replace(case, prior_image=prior.astype(np.float32)))
    assert note.startswith("The background is not 0 in T1 (-3.33")
    assert "FLAIR (-3.33" in note


def test_an_inverted_image_is_told() -> None:
    case = synthetic_case()
    (note,) = find_scan_notes(with_image(case, 3, 255 - case.prior_image[3]))
    assert note.startswith("FLAIR looks inverted: the background (255)")
    assert "has not seen such data" in note


def test_a_head_with_its_skull_is_told() -> None:
    case = synthetic_case()
    noise = np.random.default_rng(1).uniform(1, 50, case.prior_image.shape)
    head = np.where(case.prior_image == 0, noise, case.prior_image).astype(np.float32)
    (note,) = find_scan_notes(replace(case, prior_image=head))
    assert note == (
        "100% of all voxels differ from 0: the images do not look skull-stripped, as BraTS is and "
        "the model expects."
    )


def test_an_image_of_another_brain_is_told() -> None:
    case = synthetic_case()
    (note,) = find_scan_notes(with_image(case, 2, np.roll(case.prior_image[2], 12, axis=1)))
    assert note.startswith("T2 does not cover the same brain as the others (overlap 0.")


@pytest.mark.parametrize(
    ("spacing_xyz", "words"),
    [
        ((1.0, 1.0, 4.0), "Slices are 4.0 mm apart, not 1 mm"),
        ((0.45, 0.45, 1.0), "Pixels are 0.45 x 0.45 mm"),
        ((2.0, 1.0, 1.0), "Pixels are 2 x 1 mm"),
    ],
)
def test_another_grid_than_that_of_brats_is_told(
    spacing_xyz: tuple[float, float, float], words: str
) -> None:
    (note,) = find_scan_notes(with_spacing(spacing_xyz))
    assert note.startswith(words)


@pytest.mark.parametrize("spacing_xyz", [(0.9, 0.9, 1.0), (1.2, 1.2, 2.0)])
def test_small_differences_of_the_grid_are_not_told(
    spacing_xyz: tuple[float, float, float],
) -> None:
    assert find_scan_notes(with_spacing(spacing_xyz)) == ()


def test_an_oblique_scan_is_told() -> None:
    case = synthetic_case()
    angle = np.deg2rad(15)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1:3, 1:3] = [[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = replace(case, geometry=Geometry.from_affine(case.geometry.source_shape, affine))
    (note,) = find_scan_notes(oblique)
    assert note.startswith("The scan is oblique (15.0 degrees)")
