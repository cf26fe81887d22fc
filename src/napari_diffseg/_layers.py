"""Cases and results as napari layers: geometry, units, colour maps, fixed contrast. No Qt.

A layer of ours carries a tag, ``layer.metadata["diffseg"]``, which says what it is; layers are
found by it and never by their names. All of them have millimetres and axis labels, because one
layer without units takes the units away from the whole viewer. World coordinates are -(RAS mm).
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_diffseg._settings import DEFAULTS, read_settings
from napari_diffseg.core.brats import MODALITIES

if TYPE_CHECKING:
    from napari.components import Dims, LayerList
    from napari.layers import Layer
    from napari.utils.colormaps import Colormap
    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.geometry import Geometry
    from napari_diffseg.core.record import EditRecord

TAG = "diffseg"

Role = Literal[
    "image",
    "truth",
    "samples",
    "mean",
    "variance",
    "disagreement",
    "mask",
    "member",
    "agreement",
    "errors",
    "edited",
]
LayerData = tuple[Any, dict[str, Any], str]

MAP_ROLES: tuple[Role, ...] = ("mean", "variance", "disagreement")
"""Maps of which one at a time lies over the images."""

LOCKED: tuple[Role, ...] = ("truth", "mask", "member", "agreement", "errors")
"""Labels that are shown, and not to be painted on: the numbers come from some of them."""

LOCKED_HELP = "Not to be painted on: “Make editable” copies the mask into a layer that is"

MASK_COLOUR = DEFAULTS.mask_colour
TRUTH_COLOUR = DEFAULTS.truth_colour

EDITED_COLOUR = "#cc79a7"
"""Reddish purple of Okabe and Ito's: neither the model's mask nor the truth."""

MODALITY_NAMES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
RESULT_NAMES = {
    "samples": "Samples",
    "variance": "Variance",
    "disagreement": "Disagreement",
    "mean": "Mean probability",
    "mask": "Mask",
    "agreement": "Agreement",
}
MEMBER_COLOUR = "#009e73"
AGREEMENT_COLOURS = ("#0072b2", "#cc79a7", "#f0e442")
"""Of at least one member, half of them, all: from dark to light. Like bluish green for a single
member, they are of Okabe and Ito's colours, and neither mask nor truth has them."""
_TRANSPARENT_BELOW = 0.1  # share of the colour map over which it fades in


def get_tag(layer: Layer) -> dict[str, Any] | None:
    """Return the tag of a layer of ours; None for the user's, also for copies of ours.

    A tag has these keys:

    - ``role``: what the layer shows;
    - ``case``: the name of the case, and ``source``: the `Case` itself, with its grid;
    - ``modality`` of an image; ``run``, the id of the run that made a result, and its parameters;
    - ``created_s``: when it was made, `time.monotonic()`;
    - ``is_away``: whether it is hidden only because another case is looked at;
    - ``layer``: the layer that it belongs to, weakly, once that is known (`claim`);
    - of the mask of a run in a dock: ``live``, the `Run` itself, for a dock that is opened anew;
    - of a mask to paint on, see `make_edited_layer`.
    """
    tag = layer.metadata.get(TAG)
    if not isinstance(tag, dict) or "source" not in tag:
        return None
    # napari hands the metadata on to what it makes of a layer, and names the parent of some only.
    is_copy = layer.source.parent is not None or tag.get("layer", lambda: layer)() is not layer
    return None if is_copy else tag


def claim(layer: Layer) -> None:
    """Note that a tag is this layer's, so that it says nothing about copies of the layer."""
    tag = get_tag(layer)
    if tag is not None:
        tag["layer"] = weakref.ref(layer)


def find_layers(
    layers: Iterable[Layer], role: Role | None = None, case: Case | None = None
) -> list[Layer]:
    """Return our layers with this role and of this case, in the order of the list."""
    found = []
    for layer in layers:
        tag = get_tag(layer)
        if tag and role in (None, tag["role"]) and (case is None or tag["source"] is case):
            found.append(layer)
    return found


def find_cases(layers: Iterable[Layer]) -> list[Case]:
    """Return the cases of which an image is there, in order of their appearance."""
    tags = [get_tag(layer) for layer in find_layers(layers, role="image")]
    return list({id(tag["source"]): tag["source"] for tag in tags if tag}.values())


def _make_tag(role: Role, case: Case, **more: Any) -> dict[str, Any]:
    tag = {"role": role, "case": case.name, "source": case, "created_s": time.monotonic(), **more}
    return {TAG: tag}


def make_grid(geometry: Geometry) -> dict[str, Any]:
    """Return the layer parameters of a (Z, Y, X) array on this grid."""
    return {
        "scale": geometry.spacing_mm,
        "translate": geometry.translate_mm,
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
    }


def make_sample_grid(geometry: Geometry) -> dict[str, Any]:
    """Return the layer parameters of a (sample, Z, Y, X) array on this grid."""
    return {
        "scale": (1.0, *geometry.spacing_mm),
        "translate": (0.0, *geometry.translate_mm),
        "units": ("dimensionless", "mm", "mm", "mm"),
        "axis_labels": ("sample", "z", "y", "x"),
    }


def make_case_layers(case: Case) -> list[LayerData]:
    """Return the images, FLAIR on top and visible, and the outline of the truth if there is one."""
    layers: list[LayerData] = [
        (
            case.prior_image[MODALITIES.index(modality)],
            {
                "name": f"{name} · {case.name}",
                "visible": modality == "flair",
                "colormap": "gray",
                "contrast_limits": _contrast_limits(case.prior_image[MODALITIES.index(modality)]),
                "metadata": _make_tag("image", case, modality=modality),
                **make_grid(case.geometry),
            },
            "image",
        )
        for modality, name in MODALITY_NAMES.items()
    ]
    if case.wt_truth is not None:
        name = f"Ground truth · {case.name}"
        tag = _make_tag("truth", case)
        colour = read_settings().truth_colour
        # A copy: what is compared with the mask is the case's own, whatever is done to the layer.
        layers.append(_outline(case.wt_truth.copy(), name, colour, tag, case.geometry))
    return layers


def make_result_layers(
    case: Case,
    run: str,
    samples: NDArray[np.uint8],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    disagreement: NDArray[np.float32],
    mask: NDArray[np.uint8],
    details: Mapping[str, Any],
) -> dict[Role, LayerData]:
    """Return the layers of an ensemble, lowest first; the arrays are shown, not copied.

    Parameters
    ----------
    case, run, details
        For the tags.
    samples : (S, Z, Y, X) uint8, 255 for p = 1
    mean : (Z, Y, X) float32 in [0, 1]
    variance, disagreement : (Z, Y, X) float32 in [0, 0.25]
    mask : (Z, Y, X) uint8, 0 or 1
    """

    def tag(role: Role) -> dict[str, Any]:
        return _make_tag(role, case, run=run, **details)

    def image(
        role: Role, data: NDArray[Any], colormap: str, limits: tuple[float, float]
    ) -> LayerData:
        grid = make_sample_grid if data.ndim == 4 else make_grid
        parameters = {
            "name": f"{RESULT_NAMES[role]} · {case.name}",
            "visible": role == "mean",
            "colormap": make_fading_colormap(colormap),
            "contrast_limits": limits,
            "blending": "translucent",
            "opacity": 0.5,
            "metadata": tag(role),
            **grid(case.geometry),
        }
        return data, parameters, "image"

    name = f"{RESULT_NAMES['mask']} · {case.name}"
    wanted = read_settings()
    return {
        "samples": image("samples", samples, wanted.mean_map, (0, 255)),
        "disagreement": image("disagreement", disagreement, wanted.variance_map, (0.0, 0.25)),
        "variance": image("variance", variance, wanted.variance_map, (0.0, 0.25)),
        "mean": image("mean", mean, wanted.mean_map, (0.0, 1.0)),
        "mask": _outline(mask, name, wanted.mask_colour, tag("mask"), case.geometry),
    }


def make_drawing_layer(
    case: Case,
    run: str,
    role: Role,
    data: NDArray[np.uint8],
    name: str,
    colours: Sequence[str],
    details: Mapping[str, Any],
) -> LayerData:
    """Return a layer of labels 1, 2, ... in these colours, of (Z, Y, X) data that is not copied."""
    from napari.utils.colormaps import DirectLabelColormap

    by_label: dict[int | None, str] = dict.fromkeys((None, 0), "transparent")
    by_label.update(enumerate(colours, start=1))
    parameters = {
        "name": name,
        "colormap": DirectLabelColormap(color_dict=by_label),
        "opacity": 1.0,
        "metadata": _make_tag(role, case, run=run, **details),
        **make_grid(case.geometry),
    }
    return data, parameters, "labels"


def make_edited_layer(
    case: Case, run: str, mask: NDArray[np.uint8], earlier: EditRecord | None = None
) -> LayerData:
    """Return a layer to paint on; the (Z, Y, X) mask is copied. Every label counts as tumour.

    The tag keeps the mask that it begins with, and what a record says that was painted before.
    """
    from napari.utils.colormaps import DirectLabelColormap

    # Not "run": that would let the next run take the layer over.
    tag = _make_tag("edited", case, edited_run=run, copied=mask > 0, earlier=earlier)
    colours = {None: EDITED_COLOUR, 0: "transparent", 1: EDITED_COLOUR}
    parameters = {
        "name": f"Edited mask · {case.name}",
        "colormap": DirectLabelColormap(color_dict=colours),
        "opacity": 0.4,
        "metadata": tag,
        **make_grid(case.geometry),
    }
    return mask.astype(np.uint8), parameters, "labels"


def make_fading_colormap(name: str) -> Colormap:
    """Return a perceptually uniform colour map whose zero is transparent, so that MRI shows."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    at = np.linspace(0, 1, 256)
    colors = np.array(ensure_colormap(name).map(at))
    colors[:, 3] = np.clip(at / _TRANSPARENT_BELOW, 0, 1)
    return Colormap(colors, name=f"{name} from transparent")


def draw_outline(layer: Layer) -> None:
    """Draw a mask as its outline, which a reader cannot ask for.

    In 3-D napari draws the whole mask instead, which is right, and warns of it each time.
    """
    warnings.filterwarnings("ignore", "Contours are not displayed during 3D rendering")
    layer.contour = 1
    layer.opacity = 1.0


def lock(layer: Layer) -> None:
    """Keep a layer of `LOCKED` from being painted on, and let napari's status bar say so.

    To be called again when the layer is given other data: napari unlocks it then.
    """
    if (tag := get_tag(layer)) and tag["role"] in LOCKED:
        layer.editable = False
        layer.events.help.connect(_keep_help)  # napari writes another one when a layer is added
        layer.help = LOCKED_HELP


def _keep_help(event: Any) -> None:
    if not event.source.editable:
        event.source.help = LOCKED_HELP


def activate_image(layers: LayerList, case: Case) -> None:
    """Make the uppermost image of a case the active layer, rather than a mask with its brushes."""
    images = find_layers(layers, role="image", case=case)
    if images:
        layers.selection.active = images[-1]


def find_slice(dims: Dims, geometry: Geometry) -> int:
    """Return the canonical slice that the viewer shows (or showed, when it is turned)."""
    axis = dims.ndim - 3
    if axis < 0:
        return 0
    position = (dims.point[axis] - geometry.translate_mm[0]) / geometry.spacing_mm[0]
    return int(np.clip(round(float(position)), 0, geometry.shape[0] - 1))


def shows_axial_slice(dims: Dims) -> bool:
    """Tell whether the viewer shows one axial slice, rather than all in 3-D or from the side."""
    return dims.ndisplay == 2 and dims.displayed == (dims.ndim - 2, dims.ndim - 1)


def slice_position_mm(geometry: Geometry, z: int) -> float:
    """Return the world coordinate of a canonical slice."""
    return geometry.translate_mm[0] + z * geometry.spacing_mm[0]


def describe_slices(z_indices: Sequence[int] | NDArray[np.int64], geometry: Geometry) -> str:
    """Name canonical slices by the numbers that the file has: "slice 71", "slices 20-30, 40"."""
    numbers = sorted(geometry.to_source_slice(int(z)) for z in z_indices)
    if not numbers:
        return "no slice"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(first) if first == last else f"{first}–{last}" for first, last in runs]
    text = ", ".join(parts if len(parts) <= 3 else [*parts[:3], "…"])
    return f"slice {text}" if len(numbers) == 1 else f"slices {text}"


def _outline(
    mask: NDArray[Any], name: str, colour: str, metadata: dict[str, Any], geometry: Geometry
) -> LayerData:
    from napari.utils.colormaps import DirectLabelColormap

    colormap = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: colour})
    parameters = {
        "name": name,
        "colormap": colormap,
        "opacity": 0.4,
        "metadata": metadata,
        **make_grid(geometry),
    }
    return mask.view(np.uint8), parameters, "labels"


def _contrast_limits(image: NDArray[np.float32]) -> tuple[float, float]:
    """From background to the 99.5th percentile of the brain (of every 7th voxel, for speed)."""
    values = image.reshape(-1)[::7]
    values = values[values != 0]
    if not values.size:
        return float(image.min()), float(image.max())
    low, high = np.percentile(values, [0.5, 99.5])
    return min(0.0, float(low)), max(float(high), float(low) + 1e-6)
