"""File > Open Sample: the phantom that ships with the package (see `sample/README.md`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_diffseg._layers import LayerData
    from napari_diffseg.core.brats import Case

PHANTOM = "Phantom_00001"


def phantom_folder() -> Path:
    """Return the folder of the sample case, an ordinary BraTS 2021 case folder."""
    return Path(__file__).resolve().parent / "sample" / PHANTOM


def load_phantom() -> Case:
    """Load the sample case: four modalities and the labels of its tumour."""
    from napari_diffseg.core.brats import load_case

    return load_case(phantom_folder())


def open_phantom() -> list[LayerData]:
    """Give napari the same layers as opening the case's folder does."""
    from napari_diffseg._layers import make_case_layers

    return make_case_layers(load_phantom())
