"""What a user relies on: voxels land where they were, and bad files are named, not crashed on."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg.core.errors import CaseError, DiffsegError, ParameterError
from napari_diffseg.core.volume import (
    Geometry,
    load_4d,
    load_volume,
    save_on_source_grid,
    to_source_grid,
)
from tests.core.case_files import BRATS_AFFINE, SHAPE, make_images, write_nifti

ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def oriented_affine(
    order: tuple[int, ...], signs: tuple[int, ...], degrees: float = 0.0
) -> np.ndarray:
    """Affine whose source axis i follows world axis order[i]; 2 x 0.5 x 3 mm, tilted if asked."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, size) in enumerate(zip(order, signs, (2.0, 0.5, 3.0), strict=True)):
        affine[world, axis] = sign * size
    angle = np.deg2rad(degrees)
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine[:3, :3] = tilt @ affine[:3, :3]
    affine[:3, 3] = [11.25, -7.5, 3.125]
    return affine


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (4, 3)])
def test_a_canonical_mask_lands_on_its_source_voxels(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...], sform: int, qform: int
) -> None:
    image = make_images()["t1"]
    affine = oriented_affine(order, signs, degrees=7)
    path = write_nifti(tmp_path / "in.nii", image, affine, sform=sform, qform=qform)

    volume = load_volume(path)
    written = save_on_source_grid(tmp_path / "out.nii.gz", volume.data > 500, volume.geometry)

    before, after = nib.load(path), nib.load(written)
    np.testing.assert_array_equal(np.asarray(after.dataobj), image > 500)
    assert after.affine.tobytes() == before.affine.tobytes()
    for form in ("sform_code", "qform_code"):
        assert after.header[form] == before.header[form]
    for form in ("get_sform", "get_qform"):
        np.testing.assert_array_equal(getattr(after, form)(), getattr(before, form)())


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_canonical_axes_run_left_posterior_inferior_and_positions_are_kept(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    image = make_images()["t1"]
    affine = oriented_affine(order, signs)
    volume = load_volume(write_nifti(tmp_path / "in.nii", image, affine))
    geometry = volume.geometry

    assert volume.data.shape == geometry.shape
    for index_zyx in np.ndindex(*geometry.shape):
        world = np.add(geometry.translate_mm, np.multiply(index_zyx, geometry.spacing_mm))
        ras_mm = -world[::-1]  # the promise to the viewer
        source_index = np.rint(np.linalg.solve(affine[:3, :3], ras_mm - affine[:3, 3])).astype(int)
        assert volume.data[index_zyx] == image[tuple(source_index)]
    assert geometry.voxel_volume_ml == pytest.approx(0.003)
    assert not geometry.is_oblique


def test_without_sform_and_qform_the_grid_survives_too(tmp_path: Path) -> None:
    image = make_images()["t1"]
    affine = np.diag([2.0, 0.5, 3.0, 1.0])
    path = write_nifti(tmp_path / "in.nii", image, affine, sform=0, qform=0)

    volume = load_volume(path)
    written = save_on_source_grid(tmp_path / "out.nii", volume.data, volume.geometry)

    before, after = nib.load(path), nib.load(written)
    assert volume.geometry.spacing_mm == (3.0, 0.5, 2.0)
    assert after.affine.tobytes() == before.affine.tobytes()
    assert (after.header["sform_code"], after.header["qform_code"]) == (0, 0)
    np.testing.assert_array_equal(after.get_fdata(), image)


def test_a_brats_volume_has_slice_numbers_of_its_file(tmp_path: Path) -> None:
    geometry = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"])).geometry

    assert geometry.shape == (4, 5, 6)
    assert [geometry.to_source_slice(z) for z in range(4)] == [3, 2, 1, 0]  # S up, canonical z down
    assert [geometry.from_source_slice(k) for k in range(4)] == [3, 2, 1, 0]
    with pytest.raises(ParameterError, match=r"no slice 4.* from 0 to 3"):
        geometry.from_source_slice(4)
    with pytest.raises(ParameterError, match="-1"):
        geometry.to_source_slice(-1)


def test_the_axial_axis_is_found_in_a_sagittal_file(tmp_path: Path) -> None:
    affine = oriented_affine((1, 2, 0), (1, -1, 1))  # source axes: A, I, R
    geometry = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"], affine)).geometry

    assert geometry.shape == (5, 6, 4)
    assert geometry.to_source_slice(1) == 1


@pytest.mark.parametrize(("degrees", "oblique"), [(0.0, False), (0.05, False), (12.0, True)])
def test_an_oblique_scan_says_by_how_much(tmp_path: Path, degrees: float, oblique: bool) -> None:
    affine = oriented_affine((0, 1, 2), (1, 1, 1), degrees)
    geometry = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"], affine)).geometry

    assert geometry.is_oblique is oblique
    assert geometry.oblique_degrees == pytest.approx(degrees, abs=1e-3)
    assert geometry.spacing_mm == pytest.approx((3.0, 0.5, 2.0))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 1, 1)])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (0, 0)])
def test_one_slice_is_a_volume_and_is_written_back_as_it_was(
    tmp_path: Path, shape: tuple[int, ...], sform: int, qform: int
) -> None:
    image = make_images(shape)["t1"]
    affine = np.diag([-2.0, 0.5, 3.0, 1.0])
    path = write_nifti(tmp_path / "in.nii.gz", image, affine, sform=sform, qform=qform)

    volume = load_volume(path)
    written = save_on_source_grid(tmp_path / "out.nii.gz", volume.data > 500, volume.geometry)

    after = nib.load(written)
    assert volume.data.shape == (1, 5, 6)
    assert after.shape == shape[:3]
    np.testing.assert_array_equal(after.get_fdata(), (image > 500).reshape(after.shape))
    assert after.affine.tobytes() == nib.load(path).affine.tobytes()


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (0, 0)])
@pytest.mark.parametrize("thickness", [0.0, np.nan, -1.0])
def test_a_slice_may_leave_its_thickness_open(
    tmp_path: Path, sform: int, qform: int, thickness: float
) -> None:
    path = write_nifti(
        tmp_path / "in.nii",
        make_images((6, 5))["t1"],
        np.diag([2.0, 2.0, 1.0, 1.0]),
        sform=sform,
        qform=qform,
        pixdim_3=thickness,
        srow_z=[0, 0, 0, 0],
    )

    assert load_volume(path).geometry.spacing_mm == (1.0, 2.0, 2.0)


def test_members_become_the_fourth_axis(tmp_path: Path) -> None:
    volume = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"]))
    members = np.stack([volume.data + member for member in range(3)])

    after = nib.load(save_on_source_grid(tmp_path / "out.nii", members, volume.geometry))

    assert after.shape == (*SHAPE, 3)
    assert after.get_data_dtype() == np.float32
    for member in range(3):
        np.testing.assert_array_equal(after.get_fdata()[..., member], make_images()["t1"] + member)
    assert after.affine.tobytes() == nib.load(tmp_path / "in.nii").affine.tobytes()


def test_members_of_a_slice_stay_apart_from_its_third_axis(tmp_path: Path) -> None:
    volume = load_volume(write_nifti(tmp_path / "in.nii", make_images((6, 5))["t1"]))
    members = np.stack([volume.data, volume.data + 1])

    after = nib.load(save_on_source_grid(tmp_path / "out.nii", members, volume.geometry))

    assert after.shape == (6, 5, 1, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float64])
def test_scale_factor_and_type_of_the_file_are_applied(tmp_path: Path, dtype: type) -> None:
    image = (make_images()["t1"] % 100).astype(dtype)
    path = write_nifti(tmp_path / "in.nii", image, scl_slope=0.5, scl_inter=-3)

    volume = load_volume(path)
    written = save_on_source_grid(tmp_path / "out.nii", volume.data, volume.geometry)

    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(
        to_source_grid(volume.data, volume.geometry), image * np.float32(0.5) - 3
    )
    np.testing.assert_array_equal(nib.load(written).get_fdata(), image * 0.5 - 3)


def test_big_endian_and_nifti_2_files_are_read(tmp_path: Path) -> None:
    image = make_images()["t1"]
    big = nib.Nifti1Image(image.astype(">i2"), BRATS_AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(image, BRATS_AFFINE), tmp_path / "two.nii.gz")
    assert (tmp_path / "big.nii").read_bytes()[:4] == (348).to_bytes(4, "big")

    for name in ("big.nii", "two.nii.gz"):
        volume = load_volume(tmp_path / name)
        written = save_on_source_grid(tmp_path / f"out_{name}", volume.data, volume.geometry)
        np.testing.assert_array_equal(nib.load(written).get_fdata(), image)
        np.testing.assert_array_equal(nib.load(written).affine, BRATS_AFFINE)


def test_the_content_decides_about_compression_and_not_the_suffix(tmp_path: Path) -> None:
    image = make_images()["t1"]
    plain = write_nifti(tmp_path / "a.nii", image).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain))

    for name in ("b.nii.gz", "c.nii"):
        np.testing.assert_array_equal(
            load_volume(tmp_path / name).data, load_volume(tmp_path / "a.nii").data
        )


def test_a_header_extension_is_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_images()["t1"], BRATS_AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
    nib.save(image, tmp_path / "a.nii.gz")

    volume = load_volume(tmp_path / "a.nii.gz")

    np.testing.assert_array_equal(to_source_grid(volume.data, volume.geometry), make_images()["t1"])


def test_the_same_result_gives_the_same_bytes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    volume = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"]))
    first, second = (
        save_on_source_grid(tmp_path / name, volume.data, volume.geometry, description="mean")
        for name in ("first.nii.gz", "second.nii.gz")
    )

    assert first.read_bytes() == second.read_bytes()
    assert nib.load(first).header["descrip"].item() == b"mean"
    assert {p.name for p in tmp_path.iterdir()} == {"in.nii", "first.nii.gz", "second.nii.gz"}


def test_values_of_the_source_do_not_leak_into_the_header_of_a_result(tmp_path: Path) -> None:
    path = write_nifti(
        tmp_path / "in.nii", make_images()["t1"],
        scl_slope=7, cal_max=900, intent_code=1002, descrip=b"Jane Doe", aux_file=b"secret",
    )  # fmt: skip
    volume = load_volume(path)

    header = nib.load(
        save_on_source_grid(tmp_path / "o.nii", volume.data > 9, volume.geometry)
    ).header

    assert (header["cal_max"], header["intent_code"]) == (0, 0)
    assert (header["descrip"].item(), header["aux_file"].item()) == (b"", b"")
    assert header.get_data_dtype() == np.uint8


def test_a_failed_write_keeps_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"]))
    path = save_on_source_grid(tmp_path / "out.nii.gz", volume.data, volume.geometry)
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_diffseg.core.volume._write", full)
    with pytest.raises(DiffsegError, match=r"out\.nii\.gz cannot be written: No space left"):
        save_on_source_grid(path, volume.data * 0, volume.geometry)

    assert path.read_bytes() == old
    assert {p.name for p in tmp_path.iterdir()} == {"in.nii", "out.nii.gz"}


def test_a_missing_output_folder_is_named(tmp_path: Path) -> None:
    volume = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"]))

    with pytest.raises(DiffsegError, match=r"nowhere.*cannot be written"):
        save_on_source_grid(tmp_path / "nowhere" / "o.nii", volume.data, volume.geometry)


def test_wrong_shapes_and_lossy_casts_are_refused(tmp_path: Path) -> None:
    volume = load_volume(write_nifti(tmp_path / "in.nii", make_images()["t1"]))

    with pytest.raises(ValueError, match="does not end in"):
        save_on_source_grid(tmp_path / "o.nii", volume.data[:, :, 1:], volume.geometry)
    with pytest.raises(ValueError, match="do not fit into uint8"):
        save_on_source_grid(tmp_path / "o.nii", volume.data + 0.5, volume.geometry, np.uint8)
    with pytest.raises(ValueError, match=r"\.nii or \.nii\.gz"):
        save_on_source_grid(tmp_path / "o.png", volume.data, volume.geometry)


def test_a_geometry_without_a_file_can_be_saved(tmp_path: Path) -> None:
    affine = oriented_affine((2, 0, 1), (1, -1, 1))
    geometry = Geometry.from_affine((6, 5, 4), affine)

    written = save_on_source_grid(tmp_path / "o.nii.gz", np.ones(geometry.shape), geometry)

    np.testing.assert_array_equal(nib.load(written).affine, affine)
    assert nib.load(written).shape == (6, 5, 4)


def test_a_4d_file_gives_its_volumes_in_order(tmp_path: Path) -> None:
    stack = np.stack([make_images(seed=n)["t1"] for n in range(3)], axis=-1)
    path = write_nifti(tmp_path / "in.nii.gz", stack, sform=0)

    volumes = load_4d(path)

    for n, volume in enumerate(volumes):
        np.testing.assert_array_equal(to_source_grid(volume.data, volume.geometry), stack[..., n])
    written = save_on_source_grid(tmp_path / "o.nii", volumes[0].data, volumes[0].geometry)
    assert nib.load(written).shape == SHAPE
    assert nib.load(written).affine.tobytes() == nib.load(path).affine.tobytes()
    with pytest.raises(CaseError, match="4-D file"):
        load_4d(write_nifti(tmp_path / "three.nii", stack[..., 0]))


def test_every_way_of_truncation_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    whole = write_nifti(tmp_path / "a.nii.gz", make_images()["t1"]).read_bytes()
    damaged = tmp_path / "damaged_t1.nii.gz"

    for content in (whole, gzip.decompress(whole)):
        for n_bytes in (*range(0, len(content), 7), len(content) - 1):
            damaged.write_bytes(content[:n_bytes])
            with pytest.raises(CaseError, match=r"damaged_t1\.nii\.gz"):
                load_volume(damaged)


def test_a_flipped_bit_in_a_gzip_file_never_changes_voxels_unnoticed(tmp_path: Path) -> None:
    content = write_nifti(tmp_path / "a.nii.gz", make_images()["t1"]).read_bytes()
    whole = load_volume(tmp_path / "a.nii.gz").data
    n_noticed = 0

    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 4
        (tmp_path / "b.nii.gz").write_bytes(damaged)
        try:  # a few bits mean nothing: the time stamp, a distance code that repeats a zero
            np.testing.assert_array_equal(load_volume(tmp_path / "b.nii.gz").data, whole)
        except CaseError as error:
            assert "b.nii.gz" in str(error)  # noqa: PT017 - see above, not all raise
            n_noticed += 1
    assert n_noticed > 0.9 * len(content)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_header_that_claims_too_much_costs_no_memory(tmp_path: Path, compressed: bool) -> None:
    name = "a.nii.gz" if compressed else "a.nii"
    image = make_images()["t1"]

    with pytest.raises(CaseError, match=r"a\.nii.*declares 600x600x600 voxels"):
        load_volume(write_nifti(tmp_path / name, image, dim_1=600, dim_2=600, dim_3=600))
    with pytest.raises(CaseError, match="more than"):
        load_volume(write_nifti(tmp_path / name, image, dim_1=32767, dim_2=32767, dim_3=32767))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim_0": 0}, "0 axes"),
        ({"dim_0": 9}, "9 axes"),
        ({"dim_0": 1}, "one axis"),
        ({"dim_2": -5}, "shape of 6x-5x4"),
        ({"dim_0": 4, "dim_3": 2, "dim_4": 2}, "one 3-D volume"),
        ({"datatype": 128}, "colour"),
        ({"datatype": 2304}, "colour"),
        ({"datatype": 32}, "data type code 32"),
        ({"datatype": 77}, "data type code 77"),
        ({"vox_offset": np.nan}, "start at byte nan"),
        ({"vox_offset": 3.0}, "start at byte 3"),
        ({"magic": b"ni1"}, r"\.hdr/\.img"),
        ({"magic": b"xxx"}, "not a NIfTI"),
        ({"sizeof_hdr": 7}, "not a NIfTI"),
        ({"scl_slope": 2.0, "scl_inter": np.inf}, "scl_inter"),
        ({"srow_x": [0, 0, 0, 0]}, "cannot be inverted"),
        ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0]}, "cannot be inverted"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "NaN or infinity"),
        ({"srow_x": [1e6, 0, 0, 0]}, r"voxels of 1e\+06 x 1 x 1 mm"),
        ({"sform_code": 0, "pixdim_2": 0}, r"pixdim is \[1.0, 0.0, 1.0\]"),
        ({"sform_code": 0, "pixdim_2": np.nan}, "no usable voxel size"),
        ({"sform_code": 0, "qform_code": 0, "pixdim_1": -1}, "no usable voxel size"),
        ({"sform_code": 0, "quatern_b": 3}, "qform"),
    ],
)
def test_a_damaged_header_is_explained(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path = write_nifti(tmp_path / "patient7_t1.nii", make_images()["t1"], **fields)

    with pytest.raises(CaseError, match=message) as caught:
        load_volume(path)

    assert "patient7_t1.nii" in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"pixdim_0": 0}, {"vox_offset": 0}, {"scl_slope": np.nan}, {"scl_slope": 0.0}]
)
def test_harmless_oddities_are_read(tmp_path: Path, fields: dict[str, object]) -> None:
    path = write_nifti(tmp_path / "in.nii", make_images()["t1"], sform=0, **fields)

    volume = load_volume(path)

    np.testing.assert_array_equal(to_source_grid(volume.data, volume.geometry), make_images()["t1"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_no_float32_are_counted(tmp_path: Path, value: float) -> None:
    image = make_images()["t1"].astype(float)
    image[0, 0, :3] = value

    with pytest.raises(CaseError, match=r"in\.nii has 3 voxels \(of 120\) that are NaN or inf"):
        load_volume(write_nifti(tmp_path / "in.nii", image))


def test_no_header_however_random_does_more_than_raise_a_case_error(tmp_path: Path) -> None:
    base = write_nifti(tmp_path / "a.nii", make_images()["t1"]).read_bytes()
    path = tmp_path / "b.nii"
    rng = np.random.default_rng(0)
    n_read = 0

    for _ in range(400):
        content = bytearray(base)
        for position in rng.integers(0, 352, rng.integers(1, 8)):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            volume = load_volume(path)
        except CaseError as error:
            assert "b.nii" in str(error)  # noqa: PT017 - most, not all, of them raise
        else:
            n_read += 1
            assert np.isfinite(volume.data).all()
            written = save_on_source_grid(tmp_path / "c.nii", volume.data > 9, volume.geometry)
            np.testing.assert_array_equal(nib.load(written).affine, volume.geometry.source_affine)
    assert 50 < n_read < 400


def test_strange_inputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "text_t1.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "folder_t1.nii").mkdir()

    for name in ("text_t1.nii.gz", "folder_t1.nii", "nothing_t1.nii"):
        with pytest.raises(CaseError, match=name):
            load_volume(tmp_path / name)


def test_a_published_file_goes_through_unchanged(brats_data: Path, tmp_path: Path) -> None:
    path = brats_data / "original" / "BraTS2021_00006" / "BraTS2021_00006_flair.nii.gz"
    volume = load_volume(path)

    written = save_on_source_grid(tmp_path / "o.nii", volume.data, volume.geometry, np.int16)

    before, after = nib.load(path), nib.load(written)
    assert volume.geometry.shape == (155, 240, 240)
    assert volume.geometry.translate_mm == (-154.0, -239.0, 0.0)
    assert volume.geometry.to_source_slice(154 - 80) == 80
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    assert after.affine.tobytes() == before.affine.tobytes()
