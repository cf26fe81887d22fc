"""Samplers against a distribution with a known answer, and against diffusers step by step."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch

from napari_diffseg.core.diffusion import Denoised, DiffusionConfig, decode_output, gather
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.params import SAMPLERS
from napari_diffseg.core.sampling import (
    SamplerStep,
    iter_ddim,
    iter_ddpm,
    iter_dpmpp_2m,
    iter_dpmpp_2m_sde,
    iter_sample,
)
from napari_diffseg.core.schedule import NoiseSchedule, make_schedule
from tests.reference import GaussianTarget

TARGET = GaussianTarget(mean=0.3, std=0.5)
# Every sampler, and DDIM from deterministic to ancestral.
VARIANTS = [
    ("ddpm", 0.0),
    ("ddim", 0.0),
    ("ddim", 0.5),
    ("ddim", 1.0),
    ("dpmpp-2m", 0.0),
    ("dpmpp-2m-sde", 0.0),
]


def perfect_denoiser(x_t, row, schedule):
    """A network that knows x_0 ~ N(0.3, 0.5^2) and has nothing else to learn."""
    return Denoised(TARGET.denoise(x_t, gather(schedule.alphas_cumprod, row, x_t)))


def curved_denoiser(x_t, row, schedule):
    """Not linear, different at each step, elementwise."""
    phase = gather(np.sin(schedule.timesteps / 130.0), row, x_t)
    return Denoised(torch.tanh(1.7 * x_t + phase))


def member_noise(members):
    """One generator per element of the batch, as an ensemble has them."""
    generators = [torch.Generator().manual_seed(100 + member) for member in members]

    def draw(like):
        shape = like.shape[1:]
        return torch.stack([torch.randn(shape, generator=g, dtype=like.dtype) for g in generators])

    return draw


def no_noise(like):
    raise AssertionError("a deterministic sampler asked for noise")


# --- the closed-form Gaussian --------------------------------------------------------------------


def exact_moments(name, schedule, eta):
    """Mean and standard deviation of what a sampler returns, without drawing anything.

    With a linear denoiser the sample is affine in all of its independent noises. Element 0 of the
    batch gets none of them and shows the mean; element k gets a 1 in the k-th and shows its weight.
    """
    x_T = torch.zeros(len(schedule) + 1, 1, 1, 1, dtype=torch.float64)
    x_T[1] = 1.0
    n_draws = 0

    def draw(like):
        nonlocal n_draws
        n_draws += 1
        noise = torch.zeros_like(like)
        noise[1 + n_draws] = 1.0
        return noise

    *_, last = iter_sample(name, perfect_denoiser, schedule, x_T, draw, eta)
    sample = last.x_t.flatten()
    return float(sample[0]), float((sample[1:] - sample[0]).square().sum().sqrt())


@pytest.mark.parametrize("schedule_name", ["linear", "cosine"])
@pytest.mark.parametrize(("name", "eta"), VARIANTS)
def test_every_sampler_converges_to_the_gaussian(name, eta, schedule_name):
    full = make_schedule(schedule_name, 1000)
    errors = []
    for n_steps in (5, 20, 80, 320):
        mean, std = exact_moments(name, full.respaced(n_steps), eta)
        # No bias, but for the bit of mean that standard normal noise at the start does not have.
        assert mean == pytest.approx(TARGET.mean, abs=1e-3)
        errors.append(abs(std - TARGET.std))
    assert errors[-1] < 0.012
    # Four times the steps: a quarter of the error (first order), as soon as steps are small.
    assert errors[1] < 0.55 * errors[0]
    assert errors[3] < 0.33 * errors[2]
    if name.startswith("dpmpp"):
        assert errors[-1] < 0.002


@pytest.mark.parametrize(("schedule_name", "tolerance"), [("linear", 0.004), ("cosine", 0.002)])
def test_all_1000_ancestral_steps_return_the_gaussian(schedule_name, tolerance):
    mean, std = exact_moments("ddpm", make_schedule(schedule_name, 1000), 0.0)
    assert mean == pytest.approx(TARGET.mean, abs=1e-5)
    assert std == pytest.approx(TARGET.std, abs=tolerance)


@pytest.mark.parametrize(("name", "eta"), VARIANTS)
def test_samples_that_are_really_drawn_have_these_moments(name, eta):
    n = 40_000
    schedule = make_schedule("cosine", 1000).respaced(16)
    generator = torch.Generator().manual_seed(5)

    def draw(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    x_T = draw(torch.empty(n, 1, 1, 1, dtype=torch.float64))
    *_, last = iter_sample(name, perfect_denoiser, schedule, x_T, draw, eta)
    mean, std = exact_moments(name, schedule, eta)
    assert float(last.x_t.mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(n))
    assert float(last.x_t.std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * n))


@pytest.mark.parametrize(("iter_solver", "order"), [(iter_ddim, 1), (iter_dpmpp_2m, 2)])
def test_ode_solvers_have_their_order_of_convergence(iter_solver, order):
    # Steps that are equal in lambda, and the state before the jump to zero noise: here nothing but
    # the solver's own error is left.
    x_T = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    errors = []
    for n_steps in (41, 81, 161):
        lambdas = np.linspace(2.0, -2.0, n_steps)
        alphas_cumprod = 1.0 / (1.0 + np.exp(-2.0 * lambdas))
        schedule = NoiseSchedule(alphas_cumprod, np.arange(n_steps))
        noise = () if iter_solver is iter_dpmpp_2m else (no_noise,)
        *_, before_last, _ = iter_solver(perfect_denoiser, schedule, x_T, *noise)
        x_0 = TARGET.solve_ode(x_T, alphas_cumprod[-1])
        standardised = (x_0 - TARGET.mean) / TARGET.std
        exact = alphas_cumprod[0] ** 0.5 * TARGET.mean
        exact = exact + TARGET.std_at(alphas_cumprod[0]) * standardised
        errors.append(float((before_last.x_t - exact).abs().max()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


# --- relations between samplers ------------------------------------------------------------------


def run(iterator) -> list[SamplerStep]:
    return list(iterator)


def assert_same_states(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.x_t, b.x_t, **tolerance)


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    schedule = make_schedule("linear", 1000).respaced(12)
    x_T = member_noise([7])(torch.empty(1, 1, 6, 6, dtype=torch.float64))
    ddpm = run(iter_ddpm(curved_denoiser, schedule, x_T, member_noise([1])))
    ddim = run(iter_ddim(curved_denoiser, schedule, x_T, member_noise([1]), eta=1.0))
    assert_same_states(ddpm, ddim, rtol=1e-9, atol=1e-10)


def test_two_steps_of_dpm_solver_are_its_first_order_forms():
    # The first step has no predecessor, the last one leads to zero noise.
    schedule = make_schedule("cosine", 1000).respaced(2)
    x_T = member_noise([7])(torch.empty(1, 1, 6, 6, dtype=torch.float64))
    ode = run(iter_dpmpp_2m(curved_denoiser, schedule, x_T))
    ddim = run(iter_ddim(curved_denoiser, schedule, x_T, no_noise))
    assert_same_states(ode, ddim, rtol=1e-9, atol=1e-10)
    sde = run(iter_dpmpp_2m_sde(curved_denoiser, schedule, x_T, member_noise([1])))
    ddpm = run(iter_ddpm(curved_denoiser, schedule, x_T, member_noise([1])))
    assert_same_states(sde, ddpm, rtol=1e-9, atol=1e-10)


# --- what callers rely on ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "eta"), VARIANTS)
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_steps_are_counted_and_the_last_state_is_the_estimate(name, eta, n_steps):
    schedule = make_schedule("cosine", 1000).respaced(n_steps)
    x_T = torch.ones(2, 1, 3, 3)
    seen = []

    def denoiser(x_t, row, schedule):
        assert torch.is_inference_mode_enabled()
        seen.append(schedule.timesteps[row].tolist())
        return curved_denoiser(x_t, row, schedule)

    steps = []
    for step in iter_sample(name, denoiser, schedule, x_T, member_noise([0, 1]), eta):
        assert not torch.is_inference_mode_enabled()
        steps.append(step)
    assert [s.step for s in steps] == list(range(1, n_steps + 1))
    assert {s.n_steps for s in steps} == {n_steps}
    assert seen == [[t, t] for t in schedule.timesteps[::-1]]
    torch.testing.assert_close(steps[-1].x_t, steps[-1].x_0_hat, rtol=0, atol=0)
    torch.testing.assert_close(x_T, torch.ones(2, 1, 3, 3))  # the caller's noise is untouched


@pytest.mark.parametrize(("name", "eta"), VARIANTS)
def test_a_member_is_the_same_to_the_bit_at_any_batch_size(name, eta):
    schedule = make_schedule("cosine", 1000).respaced(8)

    def sample(members):
        draw = member_noise(members)
        x_T = draw(torch.empty(len(members), 1, 7, 9))
        *_, last = iter_sample(name, curved_denoiser, schedule, x_T, draw, eta)
        return last.x_t

    together, reordered = sample([0, 1, 2, 3]), sample([2, 0])
    for member in range(4):
        assert torch.equal(together[member], sample([member])[0])
    assert torch.equal(reordered[0], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("name", "eta", "n_draws"),
    [
        ("ddpm", 0.0, 5),
        ("ddim", 0.0, 0),
        ("ddim", 0.5, 5),
        ("dpmpp-2m", 0.0, 0),
        ("dpmpp-2m-sde", 0.0, 5),
    ],
)
def test_noise_is_the_callers_alone_and_is_asked_for_once_a_step(name, eta, n_draws):
    asked = []

    def draw(like):
        asked.append(like.shape)
        return torch.zeros_like(like)

    before = torch.get_rng_state()
    schedule = make_schedule("linear", 1000).respaced(6)
    run(iter_sample(name, curved_denoiser, schedule, torch.zeros(3, 1, 2, 2), draw, eta))
    assert asked == [(3, 1, 2, 2)] * n_draws  # never in the last of the 6 steps
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_can_be_left_after_any_step(name):
    calls = []

    def denoiser(x_t, row, schedule):
        calls.append(row)
        return curved_denoiser(x_t, row, schedule)

    schedule = make_schedule("cosine", 1000).respaced(10)
    iterator = iter_sample(name, denoiser, schedule, torch.zeros(1, 1, 2, 2), torch.zeros_like)
    next(iterator)
    next(iterator)
    iterator.close()
    assert len(calls) == 2


def test_impossible_wishes_are_refused_before_anything_runs():
    schedule = make_schedule("cosine", 1000).respaced(2)
    x_T = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ParameterError, match=r"plms.*ddpm, ddim, dpmpp-2m, dpmpp-2m-sde"):
        iter_sample("plms", curved_denoiser, schedule, x_T, no_noise)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ParameterError, match="between 0 and 1"):
            iter_sample("ddim", curved_denoiser, schedule, x_T, no_noise, eta)


# --- parity with diffusers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports', which are not ours to mend
        return pytest.importorskip("diffusers", reason="diffusers (group test) is not installed")


def prepare(scheduler, full: NoiseSchedule, n_steps: int):
    """Give a scheduler of diffusers our schedule to all of its digits: it keeps float32."""
    scheduler.alphas_cumprod = torch.from_numpy(full.alphas_cumprod)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, about its code
        scheduler.set_timesteps(n_steps)
    if hasattr(scheduler, "sigmas"):
        rows = scheduler.timesteps.numpy()
        variance_ratio = (1.0 - full.alphas_cumprod[rows]) / full.alphas_cumprod[rows]
        scheduler.sigmas = torch.from_numpy(np.append(np.sqrt(variance_ratio), 0.0))
    return scheduler


def follow(scheduler, schedule, denoiser, x_T, call):
    """Yield the states of a scheduler; ``call(t, x_t, x_0_hat)`` makes one step."""
    x_t = x_T
    for row in reversed(range(len(schedule))):
        x_0_hat = denoiser(x_t, torch.full((len(x_t),), row), schedule).x_0_hat
        x_t = call(scheduler.timesteps[len(schedule) - 1 - row], x_t, x_0_hat)
        yield x_t


def assert_parity(ours, theirs, atol):
    states = [step.x_t for step in ours]
    theirs = list(theirs)
    assert len(states) == len(theirs)
    for state, their_state in zip(states, theirs, strict=True):
        torch.testing.assert_close(state, their_state, rtol=0, atol=atol)


def start(n: int = 2):
    return member_noise(range(50, 50 + n))(torch.empty(n, 1, 5, 4, dtype=torch.float64))


SETTINGS = {"timestep_spacing": "trailing", "prediction_type": "sample"}


@pytest.mark.parametrize("schedule_name", ["linear", "cosine"])
@pytest.mark.parametrize("n_steps", [1, 7, 20])
def test_ddpm_is_diffusers_ddpm(diffusers, schedule_name, n_steps):
    full = make_schedule(schedule_name, 1000)
    schedule = full.respaced(n_steps)
    scheduler = diffusers.DDPMScheduler(
        trained_betas=full.betas, variance_type="fixed_small", clip_sample=False, **SETTINGS
    )
    prepare(scheduler, full, n_steps)
    assert scheduler.timesteps.tolist() == schedule.timesteps[::-1].tolist()
    generator = torch.Generator().manual_seed(100)  # the one that member_noise([0]) has
    theirs = follow(
        scheduler,
        schedule,
        curved_denoiser,
        start(1),
        lambda t, x_t, x_0_hat: scheduler.step(x_0_hat, t, x_t, generator=generator).prev_sample,
    )
    ours = iter_ddpm(curved_denoiser, schedule, start(1), member_noise([0]))
    assert_parity(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("n_steps", [5, 20])
def test_ddpm_with_a_learned_variance_is_diffusers_ddpm(diffusers, n_steps):
    full = make_schedule("linear", 1000)
    schedule = full.respaced(n_steps)
    scheduler = diffusers.DDPMScheduler(
        trained_betas=full.betas, variance_type="learned_range", timestep_spacing="trailing"
    )
    prepare(scheduler, full, n_steps)

    def network(x_t):
        return torch.cat([torch.sin(x_t), torch.cos(2.0 * x_t)], dim=1).float()

    def denoiser(x_t, row, schedule):
        return decode_output(network(x_t), x_t, row, schedule, DiffusionConfig())

    generator = torch.Generator().manual_seed(100)
    theirs, x_t = [], start(1).float()
    for t in scheduler.timesteps:
        # As float32, the noise is another one: it is drawn in the type of the output.
        x_t = scheduler.step(network(x_t), t, x_t, generator=generator).prev_sample.float()
        theirs.append(x_t)
    ours = run(iter_ddpm(denoiser, schedule, start(1).float(), member_noise([0])))
    # Not the last step: it should return the mean, but diffusers adds noise wherever t > 0.
    assert_parity(ours[:-1], theirs[:-1], atol=2e-5)


@pytest.mark.parametrize("schedule_name", ["linear", "cosine"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_steps", [1, 5, 20])
def test_ddim_is_diffusers_ddim(diffusers, schedule_name, eta, n_steps):
    full = make_schedule(schedule_name, 1000)
    schedule = full.respaced(n_steps)
    scheduler = diffusers.DDIMScheduler(trained_betas=full.betas, clip_sample=False, **SETTINGS)
    prepare(scheduler, full, n_steps)
    draw = member_noise([0, 1])
    theirs = follow(
        scheduler,
        schedule,
        curved_denoiser,
        start(),
        lambda t, x_t, x_0_hat: (
            scheduler.step(x_0_hat, t, x_t, eta=eta, variance_noise=draw(x_t)).prev_sample
        ),
    )
    ours = iter_ddim(curved_denoiser, schedule, start(), member_noise([0, 1]), eta)
    assert_parity(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("schedule_name", ["linear", "cosine"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("n_steps", [1, 2, 7, 20])
def test_dpmpp_is_diffusers_multistep_solver(diffusers, schedule_name, algorithm, n_steps):
    full = make_schedule(schedule_name, 1000)
    schedule = full.respaced(n_steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=full.betas,
        algorithm_type=algorithm,
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        euler_at_final=False,
        final_sigmas_type="zero",  # the last step is of first order whatever the two above say
        **SETTINGS,
    )
    prepare(scheduler, full, n_steps)
    assert scheduler.timesteps.tolist() == schedule.timesteps[::-1].tolist()
    draw = member_noise([0, 1])
    theirs = follow(
        scheduler,
        schedule,
        curved_denoiser,
        start(),
        lambda t, x_t, x_0_hat: (
            scheduler.step(x_0_hat, t, x_t, variance_noise=draw(x_t)).prev_sample
        ),
    )
    if algorithm == "dpmsolver++":
        ours = iter_dpmpp_2m(curved_denoiser, schedule, start())
    else:
        ours = iter_dpmpp_2m_sde(curved_denoiser, schedule, start(), member_noise([0, 1]))
    # It rounds every state to float32, and so do 20 steps of a curved denoiser with it.
    assert_parity(ours, theirs, atol=2e-5)
