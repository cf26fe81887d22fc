"""Where layers lie, what they look like, and how they are found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Layer, _layer_actions

from napari_diffseg._layers import (
    MAP_ROLES,
    describe_slices,
    find_layers,
    find_slice,
    get_tag,
    make_case_layers,
    make_fading_colormap,
    make_result_layers,
    slice_position_mm,
)
from napari_diffseg.core.brats import Case, load_case
from tests.core.case_files import make_images, write_case
from tests.plugin.conftest import Desk

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def add(viewer: ViewerModel, layers: Any) -> list[Layer]:
    return [viewer.add_layer(Layer.create(*layer)) for layer in layers]


def results(case: Case) -> dict[Any, Any]:
    shape = case.geometry.shape
    return make_result_layers(
        case,
        "run",
        np.zeros((3, *shape), np.uint8),
        *np.zeros((3, *shape), np.float32),
        np.zeros(shape, np.uint8),
        {"seed": 0},
    )


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_world_is_minus_ras_for_every_orientation(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    affine = np.zeros((4, 4))
    for column, (axis, sign, spacing) in enumerate(zip(axes, signs, (0.9, 1.1, 3.0), strict=True)):
        affine[axis, column] = sign * spacing
    affine[:, 3] = (-91.5, 126.0, 72.25, 1)
    images = make_images((6, 5, 4))
    case = load_case(write_case(tmp_path / "case", images=images, affine=affine))
    layer = Layer.create(*make_case_layers(case)[0])
    assert (np.asarray(layer.scale) > 0).all()
    rng = np.random.default_rng(0)
    for index in rng.integers(0, (6, 5, 4), (10, 3)):
        ras = affine @ [*index, 1]
        at = layer.world_to_data(-ras[2::-1])  # world is (z, y, x)
        np.testing.assert_allclose(at, np.rint(at), atol=1e-4)
        voxel = tuple(np.rint(at).astype(int))
        assert layer.data[voxel] == images["t1"][tuple(index)]
        np.testing.assert_allclose(layer.data_to_world(voxel), -ras[2::-1], atol=1e-4)


def test_every_layer_has_units_and_axis_labels(case: Case) -> None:
    viewer = ViewerModel()
    layers = add(viewer, [*make_case_layers(case), *results(case).values()])
    for layer in layers:
        assert layer.axis_labels[-3:] == ("z", "y", "x")
        assert [str(unit) for unit in layer.units[-3:]] == ["millimeter"] * 3
    assert [str(unit) for unit in viewer.layers.units[-3:]] == ["millimeter"] * 3


def test_results_lie_where_the_images_lie(case: Case) -> None:
    image = Layer.create(*make_case_layers(case)[0])
    for role, data in results(case).items():
        layer = Layer.create(*data)
        corner = np.array(case.geometry.shape) - 1
        index = (2, *corner) if role == "samples" else corner
        np.testing.assert_allclose(
            layer.data_to_world(index)[-3:], image.data_to_world(corner), atol=1e-6
        )


def test_contrast_is_fixed_and_zero_is_transparent(case: Case) -> None:
    limits = {role: data[1].get("contrast_limits") for role, data in results(case).items()}
    assert limits == {
        "samples": (0, 255),
        "disagreement": (0.0, 0.25),
        "variance": (0.0, 0.25),
        "mean": (0.0, 1.0),
        "mask": None,
    }
    for name in ("magma", "viridis"):
        colours = make_fading_colormap(name).map(np.array([0.0, 0.2, 1.0]))
        np.testing.assert_allclose(colours[:, 3], [0, 1, 1])


def test_images_keep_their_contrast_when_a_few_voxels_are_very_bright(case: Case) -> None:
    case.prior_image[3, 6, 20, 18] = 1e6
    *_, flair, _ = make_case_layers(case)
    low, high = flair[1]["contrast_limits"]
    assert low == 0
    assert 150 < high < 300


def test_arrays_are_shown_and_not_copied(case: Case) -> None:
    shape = case.geometry.shape
    mask = np.zeros(shape, np.uint8)
    samples = np.zeros((2, *shape), np.uint8)
    maps = dict(zip(MAP_ROLES, np.zeros((3, *shape), np.float32), strict=True))
    layers = make_result_layers(case, "r", samples, *maps.values(), mask, {})
    for role, data in layers.items():
        source = {"samples": samples, "mask": mask, **maps}[role]
        assert np.shares_memory(Layer.create(*data).data, source)


def test_layers_are_found_by_their_tag_and_not_by_their_name(case: Case) -> None:
    viewer = ViewerModel()
    layers = add(viewer, make_case_layers(case))
    layers[0].name = "mine"
    namesake = viewer.add_image(np.zeros((3, 3)), name="FLAIR · Case_001")
    assert find_layers(viewer.layers, "image", case) == layers[:4]
    assert get_tag(namesake) is None


def test_a_copy_of_our_layer_is_the_users(case: Case) -> None:
    from napari.layers._source import layer_source

    viewer = ViewerModel()
    original = add(viewer, make_case_layers(case))[0]
    with layer_source(parent=original):  # as "Duplicate" in the layer list does
        copy = Image(*original.as_layer_data_tuple()[:1], metadata=original.metadata)
    viewer.add_layer(copy)
    assert get_tag(copy) is None
    assert find_layers(viewer.layers, "image", case).count(original) == 1


@pytest.mark.filterwarnings("ignore:projection mode:UserWarning")  # napari's, of its Convert
def test_what_napari_makes_of_a_layer_of_ours_is_the_users(
    make_desk: Callable[..., Desk], case_folder: Path
) -> None:
    desk = make_desk()
    desk.open(case_folder)
    desk.segment()
    layers, roles = desk.viewer.layers, desk.roles
    for role, action in (
        ("mean", _layer_actions._convert_to_labels),
        ("variance", _layer_actions._project),
        ("mean", _layer_actions._duplicate_layer),
    ):
        n_before = len(layers)
        layers.selection = {desk.layer(role)}
        action(layers)
        assert len(layers) == n_before + 1
        assert desk.roles == roles
    theirs = [layer for layer in layers if get_tag(layer) is None]
    before = [np.array(layer.data) for layer in theirs]
    layers.selection = {desk.layer("samples")}
    _layer_actions._split_stack(layers)  # which takes the layer away
    assert desk.roles == [role for role in roles if role != "samples"]

    desk.widget.parameters.seed.setValue(1)
    desk.segment()  # takes over the layers of the first run, and the user's are not among them
    assert sorted(desk.roles) == sorted(roles)
    for layer, data in zip(theirs, before, strict=True):
        assert layer in layers
        np.testing.assert_array_equal(layer.data, data)


def test_the_sample_axis_does_not_move_the_view(case: Case) -> None:
    viewer = ViewerModel()
    add(viewer, make_case_layers(case))
    viewer.dims.set_point(0, slice_position_mm(case.geometry, 4))
    assert find_slice(viewer.dims, case.geometry) == 4
    samples = add(viewer, [results(case)["samples"]])[0]
    assert viewer.dims.axis_labels == ("sample", "z", "y", "x")
    assert viewer.dims.current_step[:2] == (0, 4)
    assert find_slice(viewer.dims, case.geometry) == 4
    viewer.dims.set_current_step(0, 2)
    assert find_slice(viewer.dims, case.geometry) == 4
    viewer.layers.remove(samples)
    assert find_slice(viewer.dims, case.geometry) == 4


def test_slices_are_named_by_the_files_numbers(case: Case) -> None:
    geometry = case.geometry  # 12 slices, canonical z counts down
    assert describe_slices([2], geometry) == "slice 9"
    assert describe_slices([2, 3, 4], geometry) == "slices 7–9"
    assert describe_slices([0, 5, 6], geometry) == "slices 5–6, 11"
    assert describe_slices([0, 2, 4, 6], geometry) == "slices 5, 7, 9, …"
    assert describe_slices([], geometry) == "no slice"
