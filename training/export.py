"""A run to a model file: ``python -m training.export RUN OUT.safetensors``.

The file holds the averaged weights with every configuration and where they come from; it is what
the viewer, the command line and the evaluation load.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from napari_diffseg.core.checkpoint import (
    LoadedModel,
    ModelCard,
    load_checkpoint,
    save_checkpoint,
)
from napari_diffseg.core.errors import CheckpointError, DiffsegError, ParameterError
from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.serialisation import from_dict, to_dict
from napari_diffseg.core.views import MAX_GAIN_CHANGE, MAX_LOG_EXPONENT, MAX_OFFSET
from training.baselines.checkpoint import LoadedBaseline, load_baseline, save_baseline
from training.config import AugmentationConfig, TrainingConfig
from training.logs import read_validation
from training.objectives import make_objective
from training.state import BEST_NAME, STATE_NAME, count_images, load_average


def export_run(
    folder: Path,
    out: Path,
    *,
    weights: Literal["last", "best"] = "last",
    dtype: Literal["float32", "float16"] = "float32",
    name: str | None = None,
    description: str = "",
    steps: int | None = None,
    mirror: bool = False,
    vary_contrast: bool = False,
) -> LoadedModel | LoadedBaseline:
    """Write the averaged weights of a run as a model file, and read it back.

    The run of a ``[baseline]`` gives a file for :mod:`training.evaluate` alone, always in float32;
    it has no card, so only its name is kept.

    Parameters
    ----------
    folder
        The run; it may still be going on.
    out
        The model file, ``.safetensors``.
    weights
        Of the last state on the disk, or of the best validation.
    dtype
        ``float16`` halves the file.
    name, description
        For the model's card; the name is the folder's unless it is given.
    steps
        Recommended sampling steps; by default those that were validated.
    mirror
        Whether to recommend that every second member sees the slices mirrored.
    vary_contrast
        Whether to recommend that members see contrasts of their own.

    Raises
    ------
    CheckpointError
        If there is nothing to export yet, or it is damaged.
    ParameterError
        If members are to see what the model has not: mirrored heads, other contrasts.
    """
    path = folder / (STATE_NAME if weights == "last" else BEST_NAME)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist (yet): is {folder} the folder of a run?")
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out} must end with .safetensors.")
    average, record = load_average(path)
    config = from_dict(TrainingConfig, record["config"])
    if mirror and not (config.augmentation and config.augmentation.flip):
        raise ParameterError(
            f"{folder} was trained without left-right flips (augmentation.flip), so its members "
            "must not be mirrored. Export it without --mirror."
        )
    if vary_contrast and not _has_seen_contrasts(config.augmentation):
        raise ParameterError(
            f"{folder} was trained with smaller changes of contrast (augmentation.log_gamma, gain, "
            f"offset) than {MAX_LOG_EXPONENT}, {MAX_GAIN_CHANGE} and {MAX_OFFSET}, so its members "
            "must not see them. Export it without --vary-contrast."
        )
    origin = {**record["provenance"], **_describe_training(folder, weights, record, config)}
    out.parent.mkdir(parents=True, exist_ok=True)
    network = make_objective(config).make_network()
    try:
        network.load_state_dict(average)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    name = name or folder.resolve().name
    if config.baseline is not None:
        save_baseline(out, network, config.baseline, config.preprocessing, name, origin)
        return load_baseline(out)
    assert isinstance(network, DiffusionModel)
    card = ModelCard(
        name=name,
        description=description,
        recommended_steps=steps or config.run.validation_steps,
        mirror_members=mirror,
        vary_contrast=vary_contrast,
    )
    save_checkpoint(out, network, config.preprocessing, card, origin, dtype)
    return load_checkpoint(out)


def _has_seen_contrasts(augmentation: AugmentationConfig | None) -> bool:
    return augmentation is not None and (
        augmentation.log_gamma >= MAX_LOG_EXPONENT
        and augmentation.gain >= MAX_GAIN_CHANGE
        and augmentation.offset >= MAX_OFFSET
    )


def _describe_training(
    folder: Path, weights: str, record: dict[str, Any], config: TrainingConfig
) -> dict[str, Any]:
    described = {
        "weights": f"{weights}, exponential moving average",
        "steps": record["step"],
        "images_seen": count_images(record),
        "training_s": round(record["seconds"]),
    }
    validation = read_validation(folder, record["step"])
    if validation:
        described["validation"] = validation
    # Networks, diffusion and preprocessing have their own place in the file.
    for section in ("data", "augmentation", "loss", "optimiser", "run"):
        settings = getattr(config, section)
        described[f"config_{section}"] = None if settings is None else to_dict(settings)
    return described


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.export", description="Make a model file of a run."
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="model file to write, .safetensors")
    parser.add_argument(
        "--weights",
        choices=("last", "best"),
        default="last",
        help="of the end of the run, or of the best validation Dice (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the weights in the file (default: %(default)s)",
    )
    parser.add_argument("--name", help="what the model is called in lists")
    parser.add_argument("--description", default="", help="what it is for, and its limits")
    parser.add_argument("--steps", type=int, help="recommended sampling steps")
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="recommend that every second member sees the slices mirrored left to right",
    )
    parser.add_argument(
        "--vary-contrast",
        action="store_true",
        help="recommend that members see the slices through contrasts of their own",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = vars(make_parser().parse_args(arguments))
    try:
        model = export_run(options.pop("run"), options.pop("out"), **options)
    except (DiffsegError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    size_mb = model.path.stat().st_size / 1e6
    name = model.name if isinstance(model, LoadedBaseline) else model.card.name
    print(f"{model.path}: {name}, {model.provenance['steps']} steps, {size_mb:.1f} MB")
    print(f"sha256 {model.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
