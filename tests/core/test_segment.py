"""What a consumer of the event stream relies on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_diffseg.core import segment as segment_module
from napari_diffseg.core.convergence import compute_convergence, is_stable
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.events import (
    Cancelled,
    CancelToken,
    Converged,
    Downgraded,
    Event,
    Failed,
    Finished,
    MemberDone,
    SampleDone,
    Started,
    StepDone,
)
from napari_diffseg.core.model import ModelConfig
from napari_diffseg.core.params import SAMPLERS, SegmentParams
from napari_diffseg.core.preprocessing import prepare_case
from napari_diffseg.core.segment import estimate_sample_mb, order_slices, segment
from napari_diffseg.core.views import draw_contrast
from tests.core.synthetic import synthetic_case
from tests.models import TINY_SEGNET, tiny_model

CASE = synthetic_case()
PARAMS = SegmentParams(n_samples=3, n_steps=3, seed=11, device="cpu", z_range=(4, 8))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def drain(events: Iterator[Event]) -> list[Event]:
    return list(events)


def samples(events: list[Event]) -> dict[tuple[int, int], np.ndarray]:
    return {(e.member, e.z): e.probability for e in events if isinstance(e, SampleDone)}


def test_the_stream_has_a_beginning_every_sample_and_an_end(model: Any) -> None:
    events = drain(segment(CASE, model, PARAMS))
    first, last = events[0], events[-1]
    assert isinstance(first, Started)
    assert isinstance(last, Finished)
    assert set(first.z_indices) == {4, 5, 6, 7}
    assert set(samples(events)) == {(m, z) for m in range(3) for z in range(4, 8)}
    assert sorted(e.member for e in events if isinstance(e, MemberDone)) == [0, 1, 2]
    calls = sum(e.n_samples for e in events if isinstance(e, StepDone))
    assert calls == first.n_network_calls == 3 * 4 * 3
    for probability in samples(events).values():
        assert probability.shape == CASE.geometry.shape[1:]
        assert probability.dtype == np.uint8


def test_members_differ_and_nothing_is_found_outside_of_the_brain(model: Any) -> None:
    found = samples(drain(segment(CASE, model, PARAMS)))
    assert not np.array_equal(found[0, 5], found[1, 5])
    outside = ~(CASE.prior_image[:, 5] != 0).any(axis=0)
    assert found[0, 5].any()
    assert not found[0, 5][outside].any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_member_is_the_same_whatever_the_batch_and_the_order(model: Any, sampler: Any) -> None:
    whole = samples(drain(segment(CASE, model, replace(PARAMS, sampler=sampler, eta=0.5))))
    alone = replace(
        PARAMS,
        sampler=sampler,
        eta=0.5,
        n_samples=1,
        first_member=2,
        z_range=(6, 7),
        memory_budget_mb=1,
    )
    (probability,) = samples(drain(segment(CASE, model, alone))).values()
    np.testing.assert_array_equal(probability, whole[2, 6])
    backwards = replace(PARAMS, sampler=sampler, eta=0.5, priority_z=7)
    for key, value in samples(drain(segment(CASE, model, backwards))).items():
        np.testing.assert_array_equal(value, whole[key])


def test_mirrored_members_see_the_other_side(model: Any) -> None:
    plain = samples(drain(segment(CASE, model, PARAMS)))
    events = drain(segment(CASE, model, replace(PARAMS, mirror=True)))
    both = samples(events)
    assert isinstance(events[0], Started)
    assert events[0].mirror
    # The same noise for a head that is turned round, and the mask turned back.
    prepared = prepare_case(CASE, model.preprocessing)
    everywhere = np.ones_like(prepared.brain)
    turned = replace(prepared, slices=prepared.slices[..., ::-1].copy(), brain=everywhere)
    expected = samples(drain(segment(CASE, model, PARAMS, prepared=turned)))
    for z in range(4, 8):
        for member in (0, 2):
            np.testing.assert_array_equal(both[member, z], plain[member, z])
        assert not np.array_equal(both[1, z], plain[1, z])
        in_window = prepared.window.cut(expected[1, z].astype(np.float32))
        on_grid = prepared.window.restore(in_window[:, ::-1].copy())
        np.testing.assert_array_equal(both[1, z], np.where(prepared.brain[z], on_grid, 0))


@pytest.mark.parametrize(
    ("on_card", "asked"), [("mirror_members", "mirror"), ("vary_contrast", "vary_contrast")]
)
def test_the_model_says_how_members_see_the_slices(model: Any, on_card: str, asked: str) -> None:
    careful = replace(model, card=replace(model.card, **{on_card: True}))
    expected = samples(drain(segment(CASE, model, replace(PARAMS, **{asked: True}))))
    plain = samples(drain(segment(CASE, model, PARAMS)))
    found = samples(drain(segment(CASE, careful, PARAMS)))
    assert not np.array_equal(found[1, 6], plain[1, 6])
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key])


def test_members_see_contrasts_of_their_own(model: Any) -> None:
    plain = samples(drain(segment(CASE, model, PARAMS)))
    events = drain(segment(CASE, model, replace(PARAMS, vary_contrast=True)))
    varied = samples(events)
    assert isinstance(events[0], Started)
    assert events[0].vary_contrast
    # The same noise for slices of that contrast; the first member sees them as they are.
    prepared = prepare_case(CASE, model.preprocessing)
    contrast = draw_contrast(PARAMS.seed, 2)
    slices = prepared.slices.copy()
    for k in range(4):
        v = slices[:, k] ** contrast.exponents[k] * contrast.gains[k] + contrast.offsets[k]
        slices[:, k] = v.clip(0, 1) * (prepared.slices > 0).any(axis=1)
    changed = replace(prepared, slices=slices)
    expected = samples(drain(segment(CASE, model, PARAMS, prepared=changed)))
    for z in range(4, 8):
        np.testing.assert_array_equal(varied[0, z], plain[0, z])
        assert not np.array_equal(varied[2, z], plain[2, z])
        np.testing.assert_allclose(varied[2, z].astype(int), expected[2, z].astype(int), atol=1)


def test_every_kind_of_member_is_the_same_whatever_the_batch_and_the_order() -> None:
    model = tiny_model(context_slices=(-1, 1), second_encoder=TINY_SEGNET)
    params = replace(PARAMS, mirror=True, vary_contrast=True)
    whole = samples(drain(segment(CASE, model, params)))
    for member in range(3):
        alone = replace(
            params, n_samples=1, first_member=member, z_range=(6, 7), memory_budget_mb=1
        )
        (found,) = samples(drain(segment(CASE, model, alone))).values()
        np.testing.assert_array_equal(found, whole[member, 6])


def test_members_of_odd_number_begin_from_the_second_encoder() -> None:
    model = tiny_model(second_encoder=TINY_SEGNET)
    network = model.network
    for parameter in network.denoiser.parameters():
        torch.nn.init.zeros_(parameter)  # so it adds nothing to what a member begins from
    found = samples(drain(segment(CASE, model, PARAMS)))
    prepared = prepare_case(CASE, model.preprocessing)
    row = list(prepared.z_indices).index(6)
    assert network.prior_encoder is not None
    assert network.second_encoder is not None
    with torch.inference_mode():
        images = torch.from_numpy(prepared.prior_images([row]))
        answers = [
            torch.sigmoid(encoder(images))[0, 0].numpy()
            for encoder in (network.prior_encoder, network.second_encoder)
        ]
    for member in range(3):
        expected = prepared.window.restore(answers[member % 2])
        expected = np.where(prepared.brain[6], np.round(255 * expected), 0)
        np.testing.assert_allclose(found[member, 6].astype(float), expected, atol=1)
    assert np.abs(answers[0] - answers[1]).max() > 0.1
    # Where nobody begins from the second encoder, it is not asked.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network.second_encoder, "forward", None)
        (only,) = samples(
            drain(segment(CASE, model, replace(PARAMS, n_samples=1, z_range=(6, 7))))
        ).values()
    np.testing.assert_array_equal(only, found[0, 6])
    # A second encoder is not heard by the first members.
    without = tiny_model()
    without.network.load_state_dict(network.state_dict(), strict=False)
    alone = samples(drain(segment(CASE, without, PARAMS)))
    np.testing.assert_array_equal(alone[2, 6], found[2, 6])


def test_contrasts_are_of_seed_and_member() -> None:
    assert draw_contrast(3, 1) == draw_contrast(3, 1)
    drawn = [draw_contrast(seed, member) for seed in range(20) for member in range(20)]
    assert len(set(drawn)) == len(drawn)
    exponents, gains, offsets = (
        np.array([getattr(contrast, name) for contrast in drawn])
        for name in ("exponents", "gains", "offsets")
    )
    assert 0.34 < np.abs(np.log(exponents)).max() <= 0.35
    assert 0.14 < np.abs(gains - 1).max() <= 0.15
    assert 0.075 < np.abs(offsets).max() <= 0.08
    assert abs(offsets.mean()) < 0.01


def test_another_seed_is_another_ensemble(model: Any) -> None:
    one = samples(drain(segment(CASE, model, PARAMS)))
    other = samples(drain(segment(CASE, model, replace(PARAMS, seed=12))))
    assert not np.array_equal(one[0, 5], other[0, 5])


def test_slices_without_brain_are_skipped(model: Any) -> None:
    events = drain(segment(CASE, model, replace(PARAMS, z_range=None, n_samples=1)))
    assert isinstance(events[0], Started)
    assert 0 not in events[0].z_indices
    assert 11 not in events[0].z_indices
    assert {2, 6} <= set(events[0].z_indices)


def test_a_range_without_brain_says_so(model: Any) -> None:
    (event,) = drain(segment(CASE, model, replace(PARAMS, z_range=(0, 1))))
    assert isinstance(event, Failed)
    assert "no brain in the chosen slices" in event.message


def test_the_slice_on_screen_comes_first_then_outwards() -> None:
    assert order_slices(range(2, 9), None, 5) == [5, 4, 6, 3, 7, 2, 8]
    assert order_slices(range(2, 9), (4, 8), 0) == [4, 5, 6, 7]
    assert order_slices([], None, 3) == []


def test_the_first_sample_is_of_the_slice_on_screen(model: Any) -> None:
    events = drain(segment(CASE, model, replace(PARAMS, priority_z=7)))
    first = next(e for e in events if isinstance(e, SampleDone))
    assert first.z == 7


def test_cancel_takes_effect_within_one_step(model: Any) -> None:
    token = CancelToken()
    seen: list[Event] = []
    for event in segment(CASE, model, PARAMS, token):
        seen.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            token.cancel()
    assert isinstance(seen[-1], Cancelled)
    assert sum(isinstance(e, StepDone) for e in seen) == 2
    assert not samples(seen)


def test_a_cancel_after_the_last_step_keeps_that_sample(model: Any) -> None:
    token = CancelToken()
    seen: list[Event] = []
    for event in segment(CASE, model, PARAMS, token):
        seen.append(event)
        if isinstance(event, SampleDone):
            token.cancel()
    assert isinstance(seen[-1], Cancelled)
    assert samples(seen)


def test_a_runtime_error_becomes_an_event(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any, **__: Any) -> Iterator[Any]:
        raise RuntimeError("shapes cannot be multiplied")
        yield

    monkeypatch.setattr(segment_module, "iter_sample", explode)
    events = drain(segment(CASE, model, PARAMS))
    assert isinstance(events[-1], Failed)
    assert "shapes cannot be multiplied" in events[-1].message
    assert CASE.name in events[-1].message


def test_running_out_of_memory_halves_the_batch_and_the_result_is_the_same(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = samples(drain(segment(CASE, model, PARAMS)))
    real = segment_module.iter_sample

    def with_little_memory(*args: Any, **kwargs: Any) -> Iterator[Any]:
        if len(args[3]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **kwargs)

    monkeypatch.setattr(segment_module, "iter_sample", with_little_memory)
    events = drain(segment(CASE, model, PARAMS))
    sizes = [e.batch_size for e in events if isinstance(e, Downgraded)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 2
    found = samples(events)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key])


def test_memory_that_never_suffices_fails_in_the_end(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Iterator[Any]:
        raise MemoryError
        yield

    monkeypatch.setattr(segment_module, "iter_sample", never)
    events = drain(segment(CASE, model, PARAMS))
    assert [e.batch_size for e in events if isinstance(e, Downgraded)][-1] == 1
    assert isinstance(events[-1], Failed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA out of memory.", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_libraries_of_cuda_have_words_of_their_own_for_no_memory(text: str, expected: bool) -> None:
    assert segment_module.is_out_of_memory(RuntimeError(text)) is expected


def test_an_accelerator_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.OutOfMemoryError("out of memory")
    device, size, message = segment_module._downgrade(error, torch.device("mps"), 1)
    assert (device.type, size) == ("cpu", 1)
    assert "CPU" in message


def test_an_unknown_device_fails_with_advice(model: Any) -> None:
    (event,) = drain(segment(CASE, model, replace(PARAMS, device="cuda:7")))
    assert isinstance(event, Failed)
    assert "not available here" in event.message
    (event,) = drain(segment(CASE, model, replace(PARAMS, device="abacus")))
    assert isinstance(event, Failed)
    assert "abacus" in event.message


def test_more_steps_than_training_fails_with_advice(model: Any) -> None:
    (event,) = drain(segment(CASE, model, replace(PARAMS, n_steps=1001)))
    assert isinstance(event, Failed)
    assert isinstance(event.exception, ParameterError)


def test_the_memory_budget_limits_the_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "estimate_sample_mb", lambda *_: 400.0)
    events = drain(segment(CASE, model, PARAMS))
    assert isinstance(events[0], Started)
    assert events[0].batch_size == 3
    assert max(e.n_samples for e in events if isinstance(e, StepDone)) == 3


def test_the_memory_estimate_grows_with_network_and_slice(model: Any) -> None:
    config = model.network.config
    small = estimate_sample_mb(config, (32, 32))
    assert estimate_sample_mb(config, (64, 64)) == pytest.approx(4 * small)
    assert 300 < estimate_sample_mb(ModelConfig(), (224, 224)) < 3000
    with_second = replace(config, second_encoder=TINY_SEGNET)
    assert estimate_sample_mb(with_second, (32, 32)) > small


def test_a_prepared_case_gives_the_same_result(model: Any) -> None:
    prepared = prepare_case(CASE, model.preprocessing)
    expected = samples(drain(segment(CASE, model, PARAMS)))
    found = samples(drain(segment(CASE, model, PARAMS, prepared=prepared)))
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key])


def test_neighbouring_slices_are_looked_at_where_a_model_wants_them() -> None:
    model = tiny_model(context_slices=(-1, 1))
    whole = samples(drain(segment(CASE, model, PARAMS)))
    changed = replace(CASE, prior_image=CASE.prior_image.copy())
    changed.prior_image[:, 6] = CASE.prior_image[:, 6][:, :, ::-1]
    other = samples(drain(segment(changed, model, PARAMS)))
    assert not np.array_equal(whole[0, 5], other[0, 5])
    np.testing.assert_array_equal(whole[0, 4], other[0, 4])


def test_no_global_random_numbers_are_used(model: Any) -> None:
    before = torch.get_rng_state()
    drain(segment(CASE, model, PARAMS))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_samples": 0},
        {"n_steps": 0},
        {"eta": 2.0},
        {"seed": -1},
        {"sampler": "euler"},
        {"z_range": (5, 5)},
        {"memory_budget_mb": 0},
    ],
)
def test_impossible_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        SegmentParams(**wrong)


def test_stable_run_stops_early_and_its_members_are_the_same(model: Any) -> None:
    whole = samples(drain(segment(CASE, model, replace(PARAMS, n_samples=6))))
    events = drain(segment(CASE, model, replace(PARAMS, n_samples=6, tolerance=0.9)))
    assert [type(event) for event in events[-2:]] == [Converged, Finished]
    converged, started = events[-2], events[0]
    assert isinstance(converged, Converged)
    assert isinstance(started, Started)
    assert converged.n_members == 3
    assert started.members == tuple(range(6))  # what a progress bar has to reckon with
    found = samples(events)
    assert set(found) == {(m, z) for m in range(3) for z in range(4, 8)}
    for key, value in found.items():
        np.testing.assert_array_equal(value, whole[key])


@pytest.mark.parametrize(("threshold", "of"), [(0.9, "probabilities"), (0.3, "masks")])
def test_the_mask_that_has_to_be_stable_is_the_one_that_is_watched(
    model: Any, threshold: float, of: Any
) -> None:
    members = samples(drain(segment(CASE, model, replace(PARAMS, n_samples=8))))
    stacked = np.stack([[members[m, z] for z in range(4, 8)] for m in range(8)])
    dices = [addition.dice for addition in compute_convergence(stacked, threshold, of)]
    others = [addition.dice for addition in compute_convergence(stacked)]

    def find_enough(dices: list[float], tolerance: float) -> int:
        return next(n for n in range(3, 9) if n == 8 or is_stable(dices[: n - 1], tolerance))

    # A tolerance by which this mask needs another number of members than the usual one.
    tolerance = next(
        1 - dice
        for dice in sorted({*dices, *others})
        if find_enough(dices, 1 - dice) != find_enough(others, 1 - dice)
    )
    params = replace(
        PARAMS, n_samples=8, tolerance=tolerance, watched_threshold=threshold, watched_of=of
    )
    found = samples(drain(segment(CASE, model, params)))
    assert {member for member, _ in found} == set(range(find_enough(dices, tolerance)))


def test_a_run_that_is_never_stable_draws_all_and_does_not_claim_to_be(model: Any) -> None:
    events = drain(segment(CASE, model, replace(PARAMS, n_samples=5, tolerance=0.0)))
    assert not any(isinstance(event, Converged) for event in events)
    done = [event.member for event in events if isinstance(event, MemberDone)]
    assert sorted(done[:3]) == [0, 1, 2]
    assert done[3:] == [3, 4]  # one after the other
    assert len(samples(events)) == 5 * 4


def test_the_reached_number_does_not_depend_on_the_batch(model: Any) -> None:
    members = samples(drain(segment(CASE, model, replace(PARAMS, n_samples=8))))
    stacked = np.stack([[members[m, z] for z in range(4, 8)] for m in range(8)])
    dices = [addition.dice for addition in compute_convergence(stacked)]
    tolerance = 1 - sorted(dices)[2]
    enough = next(n for n in range(3, 9) if n == 8 or is_stable(dices[: n - 1], tolerance))
    for memory_budget_mb in (1, 1500):
        params = replace(
            PARAMS, n_samples=8, tolerance=tolerance, memory_budget_mb=memory_budget_mb
        )
        found = samples(drain(segment(CASE, model, params)))
        assert {member for member, _ in found} == set(range(enough))
