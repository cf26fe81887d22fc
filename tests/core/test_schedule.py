"""Noise schedules against loops, Bayes' rule and numbers that a hand can check."""

from __future__ import annotations

import numpy as np
import pytest

from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.schedule import NoiseSchedule, make_schedule, trailing_rows
from tests import reference


def test_linear_schedule_is_the_published_one():
    schedule = make_schedule("linear", 1000)
    np.testing.assert_allclose(schedule.betas, reference.linear_betas(), rtol=1e-9)
    np.testing.assert_allclose(
        schedule.alphas_cumprod, reference.cumulate(reference.linear_betas()), rtol=1e-12
    )
    assert schedule.alphas_cumprod[0] == pytest.approx(0.9999)
    assert schedule.alphas_cumprod[-1] == pytest.approx(4.0358e-5, rel=1e-4)


def test_linear_schedule_of_another_length_ends_at_about_the_same_noise():
    short, full = make_schedule("linear", 250), make_schedule("linear", 1000)
    np.testing.assert_allclose(short.betas, reference.linear_betas(250), rtol=1e-9)
    np.testing.assert_allclose(
        np.log(short.alphas_cumprod[-1]), np.log(full.alphas_cumprod[-1]), rtol=0.03
    )


def test_cosine_schedule_by_hand():
    schedule = make_schedule("cosine", 3)  # u = 1/4, 1/2, 3/4
    half = np.sqrt(0.5) / 2
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.5 + half, 0.5, 0.5 - half], rtol=1e-14)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("n_steps", [1, 2, 7, 1000])
def test_tables_of_a_respaced_schedule_follow_from_bayes_rule(name, n_steps):
    schedule = make_schedule(name, 1000).respaced(n_steps)
    of_x_0, of_x_t = schedule.posterior_mean_coefficients
    assert len(schedule) == len(schedule.timesteps) == n_steps
    assert schedule.timesteps[-1] == 999
    np.testing.assert_allclose(np.cumprod(1 - schedule.betas), schedule.alphas_cumprod, rtol=1e-9)

    # The first row leads to the clean mask: no noise is left, and the mean is x_0 itself.
    assert schedule.posterior_variance[0] == 0.0
    assert (of_x_0[0], of_x_t[0]) == (1.0, 0.0)
    for row in {1, n_steps // 2, n_steps - 1} & set(range(1, n_steps)):
        alpha_bars = schedule.alphas_cumprod[row], schedule.alphas_cumprod[row - 1]
        mean, variance = reference.posterior(0.7, -0.4, *alpha_bars)
        assert of_x_0[row] * 0.7 + of_x_t[row] * -0.4 == pytest.approx(mean, rel=1e-9)
        assert schedule.posterior_variance[row] == pytest.approx(variance, rel=1e-9)
        assert schedule.posterior_log_variance[row] == pytest.approx(np.log(variance), rel=1e-9)


def test_first_log_variance_repeats_the_second():
    # The published code does so, because the first variance is 0.
    schedule = make_schedule("linear", 1000)
    assert schedule.posterior_log_variance[0] == schedule.posterior_log_variance[1]
    assert np.isfinite(make_schedule("linear", 1000).respaced(1).posterior_log_variance).all()


@pytest.mark.parametrize(
    ("n_rows", "n_steps", "rows"),
    [
        (10, 1, [9]),
        (10, 2, [4, 9]),
        (10, 3, [2, 6, 9]),
        (10, 5, [1, 3, 5, 7, 9]),
        (4, 4, [0, 1, 2, 3]),
        (1, 1, [0]),
    ],
)
def test_trailing_rows_by_hand(n_rows, n_steps, rows):
    assert trailing_rows(n_rows, n_steps).tolist() == rows


@pytest.mark.parametrize("n_rows", [1, 2, 31, 64, 1000])
def test_every_number_of_steps_has_that_many_rows_and_starts_from_pure_noise(n_rows):
    for n_steps in range(1, n_rows + 1):
        rows = trailing_rows(n_rows, n_steps)
        assert len(rows) == n_steps
        assert rows[-1] == n_rows - 1
        assert rows[0] >= 0
        assert (np.diff(rows) > 0).all()


def test_respacing_keeps_what_the_network_is_told():
    schedule = make_schedule("cosine", 100).respaced(20).respaced(4)
    assert schedule.timesteps.tolist() == [24, 49, 74, 99]
    full = make_schedule("cosine", 100)
    np.testing.assert_array_equal(schedule.alphas_cumprod, full.alphas_cumprod[[24, 49, 74, 99]])


@pytest.mark.parametrize("n_steps", [0, -1, 11])
def test_impossible_numbers_of_steps_say_what_is_possible(n_steps):
    with pytest.raises(ParameterError, match="between 1 and 10"):
        make_schedule("linear", 1000).respaced(10).respaced(n_steps)


def test_impossible_schedules_are_refused():
    with pytest.raises(ParameterError, match="'linear' or 'cosine'"):
        make_schedule("sigmoid", 10)
    with pytest.raises(ParameterError, match="positive"):
        make_schedule("cosine", 0)
    with pytest.raises(ParameterError, match="more than 20"):
        make_schedule("linear", 20)


def test_the_start_of_a_schedule_is_that_process_stopped_early():
    schedule = make_schedule("linear", 1000)
    start = NoiseSchedule(schedule.alphas_cumprod[:10], schedule.timesteps[:10])
    np.testing.assert_allclose(start.betas, schedule.betas[:10], rtol=1e-12)
    np.testing.assert_allclose(
        start.posterior_variance, schedule.posterior_variance[:10], rtol=1e-12
    )
