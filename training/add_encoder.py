"""Give a model a second encoder: ``python -m training.add_encoder MODEL SEGNET OUT``.

Nothing is trained: members of odd number then begin from the SegNet's answer, and all weights are
as they were (``ModelConfig.second_encoder``). To train the denoiser with both encoders, see
``configs/two_encoders.toml``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from napari_diffseg.core.checkpoint import LoadedModel, load_checkpoint, save_checkpoint
from napari_diffseg.core.errors import CheckpointError, DiffsegError, ParameterError
from napari_diffseg.core.model import DiffusionModel
from training.baselines.checkpoint import is_baseline, load_baseline
from training.warm_start import describe_origin


def add_encoder(
    model_path: Path,
    segnet_path: Path,
    out: Path,
    *,
    name: str | None = None,
    description: str | None = None,
    steps: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> LoadedModel:
    """Write a model with the SegNet beside its U-Net, and return what was written.

    Parameters
    ----------
    model_path
        A diffusion model with a prior encoder; a second encoder that it has is replaced.
    segnet_path
        File of a trained SegNet, Bayesian or not.
    out
        Ends with .safetensors.
    name, description, steps
        For the model's card; by default those of the model.
    dtype
        Of the weights in the file.

    Raises
    ------
    CheckpointError
        A file is missing, damaged or of another kind.
    ParameterError
        Both are not for the same slices, or the model has no prior encoder.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out} must end with .safetensors.")
    model = load_checkpoint(model_path)
    if model.network.config.prior_encoder is None:
        raise ParameterError(
            f"{model_path} has no prior encoder, which a second one could stand beside."
        )
    if not is_baseline(segnet_path):
        raise ParameterError(
            f"{segnet_path} is no SegNet: name the file of a run of [baseline.segnet]."
        )
    segnet = load_baseline(segnet_path)
    if segnet.config.segnet is None:
        raise ParameterError(f"{segnet_path} is a U-Net; a second encoder is a SegNet.")
    if segnet.preprocessing != model.preprocessing:
        raise ParameterError(
            f"{model_path} and {segnet_path} were trained on slices that were prepared otherwise "
            f"({model.preprocessing} and {segnet.preprocessing}). Train them on one cache."
        )
    config = replace(model.network.config, second_encoder=segnet.config.segnet)
    network = DiffusionModel(config, model.network.diffusion).eval()
    for part in ("denoiser", "prior_encoder"):
        getattr(network, part).load_state_dict(getattr(model.network, part).state_dict())
    assert network.second_encoder is not None
    network.second_encoder.load_state_dict(segnet.network.state_dict())
    card = replace(
        model.card,
        name=model.card.name if name is None else name,
        description=model.card.description if description is None else description,
        recommended_steps=model.card.recommended_steps if steps is None else steps,
    )
    provenance = {
        "init": describe_origin(model),
        "init_second_encoder": describe_origin(segnet),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, network, model.preprocessing, card, provenance, dtype)
    return load_checkpoint(out)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.add_encoder",
        description="Put a trained SegNet beside the U-Net of a model; nothing is trained.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="file of a diffusion model with a U-Net encoder")
    add("segnet", type=Path, metavar="SEGNET", help="file of a trained SegNet")
    add("out", type=Path, metavar="OUT", help="model file to write, .safetensors")
    add("--name", help="what the model is called in lists (default: as MODEL)")
    add("--description", help="what it is for, and its limits (default: as MODEL)")
    add("--steps", type=int, help="recommended sampling steps (default: as MODEL)")
    add(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the weights in the file (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = vars(make_parser().parse_args(arguments))
    try:
        model = add_encoder(
            options.pop("model"), options.pop("segnet"), options.pop("out"), **options
        )
    except (DiffsegError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{model.path}: {model.card.name}, {model.path.stat().st_size / 1e6:.1f} MB")
    print(f"sha256 {model.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
