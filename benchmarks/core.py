"""How long the core takes at BraTS size (155x240x240): medians of several repeats, in ms.

python benchmarks/core.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from napari_diffseg.core import metrics
from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint
from napari_diffseg.core.ensemble import Ensemble

SHAPE = (155, 240, 240)


def measure(name: str, function: Callable[[int], object], repeats: int = 7) -> None:
    """Print the median time of ``function(repeat)``."""
    times_ms = []
    for repeat in range(repeats):
        start = time.perf_counter()
        function(repeat)
        times_ms.append(1e3 * (time.perf_counter() - start))
    print(f"{name:52} {statistics.median(times_ms):9.2f} ms")


def measure_ensemble() -> None:
    """Live use: a sample arrives, the number of members or the threshold changes."""
    ensemble = Ensemble(10, SHAPE)
    levels = np.random.default_rng(0).integers(0, 256, SHAPE[1:], dtype=np.uint8)
    for member in range(10):
        for z in range(SHAPE[0]):
            ensemble.add(member, z, levels)
    maps = {
        "mean": ensemble.mean_map(),
        "variance": ensemble.variance_map(),
        "disagreement": ensemble.disagreement_map(),
        "mask": ensemble.wt_mask(),
    }

    def add_one(repeat: int) -> None:
        ensemble.add(repeat % 10, 80, levels)
        ensemble.update_slice(80, **maps)

    measure("a sample arrives: maps and mask of its slice", add_one, 50)
    measure("members used, 1 <-> 10: mean", lambda r: ensemble.mean_map(10 if r % 2 else 1))
    measure(
        "members used, 1 <-> 10: disagreement",
        lambda r: ensemble.disagreement_map(10 if r % 2 else 1),
    )
    measure("threshold: mask", lambda r: ensemble.wt_mask(0.3 + 0.01 * r))


def measure_metrics() -> None:
    """Scores of a mask with two stray voxels, the hard case for distances."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    a = ((z - 70) / 30) ** 2 + ((y - 100) / 40) ** 2 + ((x - 90) / 35) ** 2 < 1
    b = ((z - 72) / 28) ** 2 + ((y - 103) / 42) ** 2 + ((x - 88) / 33) ** 2 < 1
    b[3, 20, 20] = b[150, 220, 220] = True
    measure("Dice, 3-D", lambda _: metrics.compute_dice(a, b))
    measure("HD95, 3-D", lambda _: metrics.compute_hd95_mm(a, b, (1.0, 1.0, 1.0)))


def measure_network() -> None:
    """The bundled model: the encoder, and one step of five members."""
    import torch

    model = load_checkpoint(bundled_checkpoint())
    image = torch.rand(1, 4, *model.preprocessing.window)
    x_t = torch.randn(5, 1, *model.preprocessing.window)
    t = torch.full((5,), 500)
    with torch.inference_mode():
        prior = model.network.encode_prior(image)
        five = prior[torch.zeros(5, dtype=torch.int64)]
        measure("encoder, one slice", lambda _: model.network.encode_prior(image))
        measure("denoiser, one step of five members", lambda _: model.network(x_t, t, five))


if __name__ == "__main__":
    measure_ensemble()
    measure_metrics()
    measure_network()
