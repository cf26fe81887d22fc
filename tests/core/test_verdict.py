"""A result that is unsure says so, and where to look."""

from __future__ import annotations

import pytest

from napari_diffseg.core.verdict import goes_on_beyond, judge

NONE = {"n_with_tumour": 0, "n_samples": 3}
ALL = {"n_with_tumour": 3, "n_samples": 3}


@pytest.mark.parametrize(
    ("confidence", "text", "is_warning"),
    [
        (0.95, "The samples agree well (0.95).", False),
        (
            0.85,
            "The samples mostly agree (0.85). Look at slices 71, 66 and 70 first.",
            False,
        ),
        (
            0.72,
            "The samples disagree much (0.72): do not rely on this volume without looking at "
            "slices 71, 66 and 70.",
            True,
        ),
        (
            0.41,
            "The samples hardly agree (0.41): do not rely on this volume without looking at "
            "slices 71, 66 and 70.",
            True,
        ),
    ],
)
def test_the_less_the_samples_agree_the_graver_the_words(
    confidence: float, text: str, is_warning: bool
) -> None:
    verdict = judge(confidence, [71, 66, 70, 12], mask_ml=11.0, **ALL)
    assert verdict.text == text
    assert verdict.is_warning is is_warning


def test_few_slices_are_named_as_they_are() -> None:
    assert "at slice 71." in judge(0.5, [71], mask_ml=1, **ALL).text
    assert "at slices 71 and 66." in judge(0.5, [71, 66], mask_ml=1, **ALL).text
    assert judge(0.5, [], mask_ml=1, **ALL).text.endswith("rely on this volume.")


def test_one_sample_says_nothing() -> None:
    verdict = judge(None, [], mask_ml=11.0, n_with_tumour=1, n_samples=1)
    assert verdict.text == "One sample cannot tell how sure it is: draw more."
    assert not verdict.is_warning


def test_no_tumour_is_different_from_an_empty_mask() -> None:
    assert judge(1.0, [], mask_ml=0, **NONE).text == "No sample shows a tumour."
    verdict = judge(0.3, [40], mask_ml=0, n_with_tumour=1, n_samples=3)
    assert verdict.is_warning
    assert verdict.text == (
        "The mask is empty, but 1 of 3 samples show a tumour: do not take this for “no tumour” "
        "without looking at slice 40."
    )


@pytest.mark.parametrize(
    ("with_mask", "judged", "expected"),
    [
        ((4, 5), range(3, 7), False),
        ((3, 4), range(3, 7), True),
        ((6,), range(3, 7), True),
        ((0, 9), range(10), False),  # the ends of the scan
        ((), range(3, 7), False),
        ((2,), (1, 2, 3, 6), False),
    ],
)
def test_a_mask_that_goes_on_beyond_what_was_looked_at(with_mask, judged, expected) -> None:
    assert goes_on_beyond(with_mask, judged, 10) is expected
