"""From a file to the system that it holds."""

from __future__ import annotations

from pathlib import Path

from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.params import SamplerName, SegmentParams
from training.baselines.checkpoint import is_baseline, load_baseline
from training.baselines.encoders import EncoderSegmenter
from training.baselines.nnunet import NnunetSegmenter
from training.baselines.segmenter import BaselineSegmenter, DiffusionSegmenter, Segmenter


def open_segmenter(
    path: Path | None,
    *,
    n_samples: int = 5,
    n_steps: int | None = None,
    sampler: SamplerName | None = None,
    eta: float = 0.0,
    mirror: bool | None = None,
    vary_contrast: bool | None = None,
    sample_dropout: bool | None = None,
    without_diffusion: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> Segmenter:
    """Return the system of a file: a diffusion model (None: the bundled one) or a baseline.

    A folder is one of nnU-Net's predictions (:mod:`training.baselines.nnunet`).
    What is None is as the file recommends. Steps, sampler, eta, mirror and vary_contrast are
    for diffusion models; ``without_diffusion`` takes the encoders of one, and none of these.

    Raises
    ------
    DiffsegError
        The file is missing or damaged, or an option is not for it.
    """
    sampling = (n_steps, sampler, eta, mirror, vary_contrast)
    is_as_recommended = sampling == (None, None, 0.0, None, None)
    is_other_system = path is not None and (path.is_dir() or is_baseline(path))
    if without_diffusion and (is_other_system or not is_as_recommended):
        raise ParameterError(
            "--without-diffusion is for a diffusion model (--checkpoint FILE), whose encoders "
            "answer at once: without steps, sampler, --mirror and --vary-contrast."
        )
    if path is not None and path.is_dir():
        return NnunetSegmenter(path)
    if path is not None and is_baseline(path):
        if not is_as_recommended:
            raise ParameterError(f"{path} is no diffusion model: it has no steps or sampler.")
        baseline = load_baseline(path)
        return BaselineSegmenter(baseline, n_samples, seed, sample_dropout, device)
    if sample_dropout is not None:
        raise ParameterError("--sample-dropout is for SegNet and U-Net (--segmenter FILE).")
    model = load_checkpoint(path or bundled_checkpoint())
    if without_diffusion:
        return EncoderSegmenter(model, device)
    params = SegmentParams(
        n_samples=n_samples,
        n_steps=n_steps,
        sampler=sampler or model.card.recommended_sampler,
        eta=eta,
        mirror=mirror,
        vary_contrast=vary_contrast,
        seed=seed,
        device=device,
    )
    return DiffusionSegmenter(model, params)
