"""A run drained to its end, and slice ranges as the source file numbers them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_diffseg.core import segment as segment_module
from napari_diffseg.core.errors import DiffsegError, ParameterError
from napari_diffseg.core.events import CancelToken, Event, SampleDone, StepDone
from napari_diffseg.core.geometry import Geometry, find_z_range
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.run import run_case
from tests.core.synthetic import synthetic_case
from tests.models import tiny_model

PARAMS = SegmentParams(n_samples=2, n_steps=2, z_range=(5, 7), device="cpu")


def test_ensemble_holds_every_sample_that_was_reported() -> None:
    events: list[Event] = []
    case = synthetic_case()
    params = replace(PARAMS, first_member=3)
    run = run_case(case, tiny_model(), params, on_event=events.append)
    samples = [event for event in events if isinstance(event, SampleDone)]
    assert {(e.member, e.z) for e in samples} == {(3, 5), (3, 6), (4, 5), (4, 6)}
    members = run.ensemble.members_uint8()
    for event in samples:
        np.testing.assert_array_equal(members[event.member - 3, event.z], event.probability)
    assert run.ensemble.n_complete() == 2
    assert run.started.n_steps == 2
    assert run.elapsed_s > 0
    assert run.messages == ()


def test_defect_in_the_sampler_is_an_error_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(segment_module, "iter_sample", explode)
    with pytest.raises(DiffsegError, match="shapes do not fit") as caught:
        run_case(synthetic_case(), tiny_model(), PARAMS)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_less_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = segment_module.iter_sample
    sizes: list[int] = []

    def out_of_memory_once(name: object, denoiser: object, schedule: object, x_t, *rest, **more):
        sizes.append(len(x_t))
        if len(sizes) == 1:
            raise MemoryError
        return real(name, denoiser, schedule, x_t, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(segment_module, "iter_sample", out_of_memory_once)
    run = run_case(synthetic_case(), tiny_model(), replace(PARAMS, n_samples=20))
    assert max(sizes[1:]) <= sizes[0] // 2
    assert run.ensemble.n_complete() == 20
    assert len(run.messages) == 1
    assert "Memory ran out" in run.messages[0]


def test_expected_error_is_raised_as_it_is() -> None:
    with pytest.raises(ParameterError, match="no brain in the chosen slices"):
        run_case(synthetic_case(), tiny_model(), replace(PARAMS, z_range=(0, 1)))


def test_cancelled_run_has_no_result() -> None:
    cancel = CancelToken()

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone):
            cancel.cancel()

    with pytest.raises(DiffsegError, match="cancelled"):
        run_case(synthetic_case(), tiny_model(), PARAMS, on_event=on_event, cancel=cancel)


def test_range_follows_the_numbers_of_the_source() -> None:
    upright = Geometry.from_affine((4, 5, 10), np.diag([1.0, 1, 1, 1]))
    assert find_z_range(upright, 7, 10) == (0, 3)  # the source counts from the feet
    assert find_z_range(upright, 0, 2) == (8, 10)
    inverted = Geometry.from_affine((4, 5, 10), np.diag([1.0, 1, -1, 1]))
    assert find_z_range(inverted, 7, 10) == (7, 10)
    assert find_z_range(inverted, None, 3) == (0, 3)
    assert find_z_range(inverted, 8, 99) == (8, 10)
    assert find_z_range(inverted, None, None) == (0, 10)


def test_range_follows_the_numbers_in_file_names() -> None:
    plain = Geometry.from_affine((4, 5, 3), np.diag([1.0, 1, -1, 1]))
    named = replace(plain, slice_numbers=(80, 85, 90))
    assert find_z_range(named, 82, 100) == (1, 3)
    with pytest.raises(ParameterError, match="no slice in 91:95: the case has slices 80 to 90"):
        find_z_range(named, 91, 95)


def test_only_the_members_that_were_needed_are_left() -> None:
    params = replace(PARAMS, n_samples=6, tolerance=0.9)
    run = run_case(synthetic_case(), tiny_model(), params)
    assert run.converged is not None
    assert run.ensemble.n_members == run.converged.n_members == 3
    every = run_case(synthetic_case(), tiny_model(), replace(PARAMS, n_samples=3))
    assert every.converged is None
    np.testing.assert_array_equal(run.ensemble.members_uint8(), every.ensemble.members_uint8())
