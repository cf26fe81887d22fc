"""Weaken what a denoiser corrects: ``python -m training.shrink_correction MODEL FACTOR OUT``.

A denoiser trains beside encoders that know the training patients, and learns to be as sure as they
are there; about other patients it corrects too much. As in a regression (shrinkage, van
Houwelingen and Le Cessie 1990, Stat. Med. 9:1303), one factor on its correction, chosen on patients
that the networks have not seen (:mod:`training.cross_validate`), undoes most of that without any
training; ``docs/decisions/0008`` has the numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from napari_diffseg.core.checkpoint import LoadedModel, load_checkpoint, save_checkpoint
from napari_diffseg.core.errors import CheckpointError, DiffsegError, ParameterError
from training.warm_start import describe_origin


def shrink_correction(
    model_path: Path,
    factor: float,
    out: Path,
    dtype: Literal["float32", "float16"] = "float32",
) -> LoadedModel:
    """Write a model whose denoiser corrects its encoders by ``factor`` of what it did.

    Parameters
    ----------
    model_path
        A diffusion model with a prior encoder, whose answer the denoiser corrects.
    factor
        In (0, 1].
    out
        Ends with .safetensors.
    dtype
        Of the weights in the file.

    Raises
    ------
    CheckpointError
        The file is missing, damaged or of another kind.
    ParameterError
        The factor is out of its range, or the model has no prior encoder.
    """
    if not 0 < factor <= 1:
        raise ParameterError(f"The factor must be above 0 and at most 1, not {factor}.")
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out} must end with .safetensors.")
    model = load_checkpoint(model_path)
    if model.network.config.prior_encoder is None:
        raise ParameterError(
            f"{model_path} has no prior encoder: its denoiser gives an answer, not a correction."
        )
    head = model.network.denoiser.head
    with torch.no_grad():
        for weights in head.parameters():
            weights.mul_(factor)
    provenance = {"init": describe_origin(model), "correction_factor": factor}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, model.network, model.preprocessing, model.card, provenance, dtype)
    return load_checkpoint(out)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.shrink_correction",
        description="Let a denoiser correct its encoders by less; nothing is trained.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="file of a diffusion model with a U-Net encoder"
    )
    parser.add_argument("factor", type=float, metavar="FACTOR", help="above 0, at most 1")
    parser.add_argument("out", type=Path, metavar="OUT", help="model file to write, .safetensors")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        model = shrink_correction(options.model, options.factor, options.out, options.dtype)
    except (DiffsegError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{model.path}: {model.card.name}, {model.path.stat().st_size / 1e6:.1f} MB")
    print(f"sha256 {model.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
