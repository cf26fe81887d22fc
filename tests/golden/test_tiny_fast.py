"""The samplers still return the numbers that they once returned."""

from __future__ import annotations

import json

import pytest

from tests.golden import tiny_fast


def test_samplers_return_their_pinned_numbers():
    golden = json.loads(tiny_fast.GOLDEN.read_text(encoding="utf-8"))
    computed = tiny_fast.compute()
    assert computed.keys() == golden.keys()
    for run, numbers in golden.items():
        for what, values in numbers.items():
            assert computed[run][what] == pytest.approx(values, abs=2e-5), f"{run}: {what}"


def test_pinned_runs_differ_and_are_not_saturated():
    golden = json.loads(tiny_fast.GOLDEN.read_text(encoding="utf-8"))
    probabilities = [tuple(numbers["probability of some voxels"]) for numbers in golden.values()]
    assert len(set(probabilities)) == len(tiny_fast.RUNS)
    for values in probabilities:
        assert max(values) - min(values) > 0.2
        assert sum(0.02 < p < 0.98 for p in values) >= 4
