"""``napari-diffseg info`` and ``convert``: what is installed, and model files."""

from __future__ import annotations

import argparse

from napari_diffseg._commands.common import OK, parse_path, parse_positive


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of ``info`` its arguments."""
    parser.add_argument(
        "--checkpoint", type=parse_path, metavar="FILE", help="a model file to describe"
    )
    parser.set_defaults(command=_run_info)


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of ``convert`` its arguments."""
    parser.add_argument("published", type=parse_path, metavar="PUBLISHED.pt")
    parser.add_argument("out", type=parse_path, metavar="OUT.safetensors")
    parser.add_argument("--name", help="what the model is called (default: as the checkpoint)")
    parser.add_argument("--steps", type=parse_positive, metavar="K", help="steps to recommend")
    parser.set_defaults(command=_run_convert)


def _run_info(arguments: argparse.Namespace) -> int:
    from napari_diffseg._terminal import (
        describe_bundled_model,
        describe_environment,
        describe_model,
    )

    print(describe_environment())
    print(describe_bundled_model())
    if arguments.checkpoint is not None:
        from napari_diffseg.core.checkpoint import load_checkpoint

        print(describe_model(load_checkpoint(arguments.checkpoint), "model"))
    return OK


def _run_convert(arguments: argparse.Namespace) -> int:
    import dataclasses

    from napari_diffseg._terminal import describe_model
    from napari_diffseg.core.checkpoint import (
        import_published,
        is_model_file,
        load_checkpoint,
        save_checkpoint,
    )
    from napari_diffseg.core.errors import ParameterError

    out = arguments.out
    if out.suffix != ".safetensors":
        raise ParameterError(f"{out} must end with .safetensors.")
    if out.exists():
        raise ParameterError(f"{out} exists already. Choose another name, or move it away.")
    if is_model_file(arguments.published):
        raise ParameterError(
            f"{arguments.published} is a model file already: it can be used as it is."
        )
    model = import_published(arguments.published)
    card = dataclasses.replace(
        model.card,
        name=arguments.name or model.card.name,
        recommended_steps=arguments.steps or model.card.recommended_steps,
    )
    model.network.diffusion.make_schedule().respaced(card.recommended_steps)  # or it says why not
    origin = {"converted_from": model.path.name, "converted_from_sha256": model.sha256}
    try:
        save_checkpoint(out, model.network, model.preprocessing, card, origin)
    except OSError as error:
        raise ParameterError(f"{out} cannot be written: {error}.") from error
    print(describe_model(load_checkpoint(out), "model"))
    return OK
