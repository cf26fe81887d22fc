"""What each further member changes, and the rule that says when it is enough."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.convergence import (
    MIN_MEMBERS,
    ConvergenceMeter,
    compute_convergence,
    is_stable,
    plan_rounds,
)
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.metrics import compute_dice
from napari_diffseg.core.uncertainty import compute_monte_carlo_error


def make_members(n: int = 7, seed: int = 0) -> np.ndarray:
    """Noisy members around one blob, with air that no member ever touches."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in (4, 20, 24)), indexing="ij")
    blob = 200 * np.exp(-4 * (z**2 + y**2 + x**2))
    noise = rng.normal(0, 40, (n, 4, 20, 24))
    return np.where(np.abs(x) > 0.8, 0, np.clip(blob + noise, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("of", ["probabilities", "masks"])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_the_curve_is_that_of_the_maps_of_the_first_n_members(of, threshold) -> None:
    members = make_members()
    additions = compute_convergence(members, threshold, of)
    assert [addition.n_members for addition in additions] == [2, 3, 4, 5, 6, 7]
    ensemble = Ensemble.from_arrays(members)
    for addition in additions:
        masks = [
            ensemble.wt_mask(threshold, k, of) for k in (addition.n_members - 1, addition.n_members)
        ]
        assert addition.dice == pytest.approx(compute_dice(*masks))
    values = members if of == "probabilities" else members >= 128
    region = values.any(axis=0)
    for addition in additions:
        expected = compute_monte_carlo_error(values[: addition.n_members], region)
        assert addition.monte_carlo_error == pytest.approx(expected)


def test_slices_may_come_in_any_order() -> None:
    members = make_members()
    meter = ConvergenceMeter(range(4))
    for z in (2, 0, 3, 1):
        for member in members:
            meter.add(z, member[z])
    assert meter.additions == compute_convergence(members)


def test_a_member_counts_when_it_has_every_slice() -> None:
    members = make_members()
    meter = ConvergenceMeter([0, 1])
    for z, m in ((0, 0), (1, 0), (0, 1)):
        meter.add(z, members[m, z])
    assert meter.n_members == 1
    assert meter.dices == ()
    meter.add(1, members[1, 1])
    assert meter.n_members == 2
    assert meter.dices == pytest.approx([compute_convergence(members[:2, :2])[0].dice])
    with pytest.raises(IndexError):
        meter.add(2, members[0, 2])


def test_equal_members_change_nothing_and_no_tumour_is_stable() -> None:
    one = make_members(1)
    for members in (np.repeat(one, 4, axis=0), np.zeros((4, 2, 5, 5), np.uint8)):
        for addition in compute_convergence(members):
            assert addition.dice == 1
            assert addition.monte_carlo_error == pytest.approx(0, abs=1e-9)
    assert compute_convergence(one) == ()


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ([], False),
        ([1.0], False),  # two members may agree by chance
        ([1.0, 1.0], True),
        ([0.9, 0.996], False),  # only the last one was quiet
        ([0.9, 0.996, 0.995], True),  # the tolerance itself is within
        ([0.996, 0.996, 0.99], False),
        ([1.0, 1.0, 0.9, 1.0], False),
    ],
)
def test_stable_is_two_quiet_additions(dices: list[float], expected: bool) -> None:
    assert is_stable(dices, 0.005) is expected


def test_rounds_bring_what_the_rule_needs_and_then_one_each() -> None:
    assert list(plan_rounds(20, None)) == [20]
    assert list(plan_rounds(6, 0.01)) == [MIN_MEMBERS, 4, 5, 6]
    assert list(plan_rounds(2, 0.01)) == [2]
    assert list(plan_rounds(7, 0.01, n_there=5)) == [5, 6, 7]
    assert list(plan_rounds(5, 0.01, n_there=9)) == [5]
