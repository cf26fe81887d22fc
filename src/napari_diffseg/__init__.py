"""Brain tumour segmentation with diffusion model ensembles, in napari.

The public names are loaded when they are first used, so that importing the package (which napari
does when it starts) costs nothing: neither torch nor Qt is imported here.

Examples
--------
>>> import napari_diffseg as nd
>>> case = nd.load_case("BraTS2021_00006")  # doctest: +SKIP
>>> model = nd.load_checkpoint(nd.bundled_checkpoint())  # doctest: +SKIP
>>> run = nd.run_case(case, model, nd.SegmentParams(n_samples=5))  # doctest: +SKIP
>>> mask, mean = run.ensemble.wt_mask(), run.ensemble.mean_map()  # doctest: +SKIP

`segment` draws the same and yields every event of it; `core.batch.segment_to_files` saves all maps.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_diffseg.core.brats import load_case
    from napari_diffseg.core.checkpoint import bundled_checkpoint, load_checkpoint
    from napari_diffseg.core.params import SegmentParams
    from napari_diffseg.core.run import run_case
    from napari_diffseg.core.segment import segment

__version__ = "0.2.0.dev0"

__all__ = [
    "SegmentParams",
    "__version__",
    "bundled_checkpoint",
    "load_case",
    "load_checkpoint",
    "run_case",
    "segment",
]

_HOME = {
    "SegmentParams": "params",
    "bundled_checkpoint": "checkpoint",
    "load_case": "brats",
    "load_checkpoint": "checkpoint",
    "run_case": "run",
    "segment": "segment",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home in ``core`` when it is first asked for."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value: object = getattr(import_module(f"{__name__}.core.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names for completion, whether or not they have been loaded."""
    return sorted({*globals(), *__all__})
