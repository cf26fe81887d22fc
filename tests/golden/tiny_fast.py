"""A tiny fast model run through every sampler, reduced to a few numbers.

Weights and noise come from sines, not from a generator, so nothing but our own arithmetic decides
them. ``python -m tests.golden.tiny_fast`` writes the file again: do so only when a change of the
method is meant, and say in the commit why the numbers moved.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from napari_diffseg.core.diffusion import decode_probability
from napari_diffseg.core.model import DiffusionModel, fast_diffusion_config, fast_model_config
from napari_diffseg.core.sampling import iter_sample

GOLDEN = Path(__file__).with_suffix(".json")
RUNS = {
    "ddpm": ("ddpm", 0.0),
    "ddim eta 0": ("ddim", 0.0),
    "ddim eta 0.5": ("ddim", 0.5),
    "dpmpp-2m": ("dpmpp-2m", 0.0),
    "dpmpp-2m-sde": ("dpmpp-2m-sde", 0.0),
}
N_STEPS = 5
SHAPE = (2, 1, 16, 24)


def scatter(shape: tuple[int, ...], seed: float) -> Tensor:
    """Return numbers in (0, 1) without visible order, the same everywhere."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(index * 12.9898 + seed * 78.233) * 43758.5453).frac().abs().view(shape)


def scatter_normal(shape: tuple[int, ...], seed: float) -> Tensor:
    """Return standard normal numbers made from :func:`scatter`."""
    uniform = scatter(shape, seed).clamp(1e-6, 1.0 - 1e-6)
    return (math.sqrt(2.0) * torch.erfinv(2.0 * uniform - 1.0)).float()


def make_model() -> DiffusionModel:
    """Return the model, every parameter of it set."""
    config = fast_model_config(8, 8, (1, 2), (1, 2))
    model = DiffusionModel(config, fast_diffusion_config()).eval()
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(sorted(model.named_parameters()), start=1):
            values = scatter_normal(tuple(parameter.shape), float(seed))
            if parameter.ndim > 1:
                parameter.copy_(values / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.2 * values + float("norm" in name and name.endswith("weight")))
    return model


def compute() -> dict[str, dict[str, list[float]]]:
    """Return the numbers of every run."""
    model = make_model()
    schedule = model.diffusion.make_schedule().respaced(N_STEPS)
    with torch.inference_mode():
        prior = model.encode_prior(scatter((SHAPE[0], 4, *SHAPE[2:]), 0.5).float())
    numbers = {}
    for run, (name, eta) in RUNS.items():
        noises = (scatter_normal(SHAPE, 1000.0 + step) for step in range(1, N_STEPS))
        steps = list(
            iter_sample(
                name,
                model.bind(prior),
                schedule,
                scatter_normal(SHAPE, 1000.0),
                lambda _, noises=noises: next(noises),
                eta,
            )
        )
        probability = decode_probability(steps[-1].x_t, model.diffusion)
        numbers[run] = {
            "mean of x_t after each step": [float(s.x_t.mean()) for s in steps],
            "std of x_t after each step": [float(s.x_t.std()) for s in steps],
            "probability of some voxels": probability[:, 0, 3, ::6].flatten().tolist(),
        }
    return numbers


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(compute(), indent=1) + "\n", encoding="utf-8")
