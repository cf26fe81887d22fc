"""`napari-diffseg slices`: the paper's slice folders, made of volumes and put together again."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from napari_diffseg.cli import main
from napari_diffseg.core.brats import load_case
from napari_diffseg.core.preprocessing import PAPER_PREPROCESSING, find_brain, normalise
from napari_diffseg.core.slice_files import make_slice_case
from tests.core.case_files import (
    NAMES_2023,
    make_images,
    write_case,
    write_decathlon,
    write_nifti,
    write_slices,
)

AFFINE = np.array([[-1.0, 0, 0, 90.5], [0, -1, 0, 126], [0, 0, 1.5, -72], [0, 0, 0, 1]])
SHAPE = (7, 6, 5)  # x, y, z
MODALITIES = ("t1", "t1ce", "t2", "flair")
CASE = "BraTS20_Training_001"
OBLIQUE = nib.eulerangles.euler2mat(0.1, 0.2, 0.3)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "in" / CASE, CASE, images=make_images(SHAPE), affine=AFFINE)


def export(*arguments: object) -> int:
    return main(["slices", "export", *map(str, arguments)])


def assemble(*arguments: object) -> int:
    return main(["slices", "assemble", *map(str, arguments)])


def load(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def read_as_the_published_code(folder: Path, *, training: bool) -> list[dict[str, str]]:
    """Find slices as ``bratsloader.py`` does: leaf folders, fourth part of the name."""
    wanted = {*MODALITIES, "seg"} if training else {*MODALITIES}
    found = []
    for root, folders, files in os.walk(folder):
        if folders:
            continue
        point = {name.split("_")[3]: os.path.join(root, name) for name in files}  # noqa: PTH118
        assert set(point) == wanted
        assert len(files) == len(wanted)
        found.append(point)
    return found


def test_slices_are_what_the_published_code_reads(case: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data" / "training"
    assert export(case, "--out", out, "--drop", 1, 1) == 0
    assert [path.name for path in sorted(out.iterdir())] == [f"{CASE}_{n:03d}" for n in (1, 2, 3)]
    slices = read_as_the_published_code(out, training=True)
    assert len(slices) == 3
    loaded = load_case(case)
    brain = find_brain(loaded.prior_image)
    expected = normalise(loaded.prior_image, brain, PAPER_PREPROCESSING.percentiles)
    for point in slices:
        number = int(Path(point["t1"]).parent.name[-3:])
        for channel, modality in enumerate(MODALITIES):
            pixels = load(Path(point[modality]))
            assert pixels.shape == SHAPE[:2]
            np.testing.assert_array_equal(pixels, expected[channel, SHAPE[2] - 1 - number].T)
            assert 0 <= pixels.min() <= pixels.max() <= 1
        truth = load(case / f"{CASE}_seg.nii.gz")
        np.testing.assert_array_equal(load(Path(point["seg"])), truth[..., number])
    printed = capsys.readouterr()
    assert f"{CASE}: 3 slices" in printed.out
    assert "7x6 pixels; the paper's code takes 240x240 only" in printed.err


def test_for_sampling_there_are_no_labels(case: Path, tmp_path: Path) -> None:
    assert export(case, "--out", tmp_path / "testing", "--all", "--without-labels") == 0
    assert len(read_as_the_published_code(tmp_path / "testing", training=False)) == SHAPE[2]


def test_the_place_of_a_slice_is_that_of_the_volume_shifted(case: Path, tmp_path: Path) -> None:
    assert export(case, "--out", tmp_path / "out", "--all") == 0
    for number in range(SHAPE[2]):
        name = f"{CASE}_{number:03d}"
        image = nib.load(tmp_path / "out" / name / f"{CASE}_t2_{number:03d}_w.nii.gz")
        shifted = AFFINE.copy()
        shifted[:3, 3] += number * AFFINE[:3, 2]
        np.testing.assert_array_equal(image.affine, shifted)
        assert image.header.get_zooms() == (1, 1)
        assert image.header["pixdim"][3] == 1.5


@pytest.mark.parametrize("role", ["t1", "flair", "seg"])
def test_raw_slices_make_the_volume_again(case: Path, tmp_path: Path, role: str, capsys) -> None:
    assert export(case, "--out", tmp_path / "out", "--all", "--raw") == 0
    source, back = case / f"{CASE}_{role}.nii.gz", tmp_path / "back" / "volume.nii.gz"
    assert assemble(tmp_path / "out", "--like", source, "--what", role, "--out", back) == 0
    np.testing.assert_array_equal(load(back), load(source))
    np.testing.assert_array_equal(nib.load(back).affine, AFFINE)
    assert "5 of 5 slices (0 to 4)" in capsys.readouterr().out


AXES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]


@pytest.mark.parametrize("axes", AXES)
def test_round_trip_is_exact_in_every_orientation(tmp_path: Path, axes: str) -> None:
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt(axes))
    affine = AFFINE @ inv_ornt_aff(turn, SHAPE)
    affine[:3] = OBLIQUE @ affine[:3]
    straight = make_images(SHAPE)
    images = {role: apply_orientation(image, turn) for role, image in straight.items()}
    write_case(tmp_path / CASE, CASE, images=images, affine=affine, suffix=".nii")
    assert export(tmp_path / CASE, "--out", tmp_path / "out", "--drop", 1, 0, "--raw") == 0
    # As in the volume in the orientation of BraTS, whatever the file's own.
    third = load(tmp_path / "out" / f"{CASE}_003" / f"{CASE}_seg_003_w.nii.gz")
    np.testing.assert_array_equal(third, straight["seg"][..., 3])
    like, back = tmp_path / CASE / f"{CASE}_t1.nii", tmp_path / "back.nii"
    assert assemble(tmp_path / "out", "--like", like, "--what", "seg", "--out", back) == 0
    expected = straight["seg"].copy()
    expected[..., 0] = 0
    np.testing.assert_array_equal(load(back), apply_orientation(expected, turn))
    np.testing.assert_array_equal(nib.load(back).affine, nib.load(like).affine)


@pytest.mark.parametrize("family", ["2023", "decathlon"])
def test_other_families_get_names_that_the_published_code_reads(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if family == "2023":
        name = "BraTS-GLI-00000-000"
        source = write_case(tmp_path / name, name, NAMES_2023, images=make_images(SHAPE))
        like = source / f"{name}-t1n.nii.gz"
    else:
        name = "BRATS-001"
        source = like = write_decathlon(tmp_path)
    assert export(source, "--out", tmp_path / "out", "--all", "--raw") == 0
    (first, *_) = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert first == f"brats_case_{name}_000"
    slices = read_as_the_published_code(tmp_path / "out", training=True)
    assert len(slices) == nib.load(like).shape[2]
    back = tmp_path / "back.nii.gz"
    assert assemble(tmp_path / "out", "--like", like, "--what", "t2", "--out", back) == 0
    t2 = load(like)[..., 3] if family == "decathlon" else load(source / f"{name}-t2w.nii.gz")
    np.testing.assert_array_equal(load(back), t2)
    labels = tmp_path / "labels.nii.gz"
    assert assemble(tmp_path / "out", "--like", like, "--what", "seg", "--out", labels) == 0
    cavity = family == "2023"
    seg = make_images(SHAPE if cavity else load(like).shape[:3])["seg"]
    np.testing.assert_array_equal(load(labels), np.where(seg == 4, 0, seg) if cavity else seg)
    assert ("the resection cavity, is left out" in capsys.readouterr().err) == cavity


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS2021_00006", "brats_case_BraTS2021-00006"),
        ("BraTS-GLI-00000-000", "brats_case_BraTS-GLI-00000-000"),
        ("Brats17_2013_10_1", "brats_case_Brats17-2013-10-1"),
        ("odd__name", "brats_case_odd--name"),
    ],
)
def test_names_have_the_modality_in_the_fourth_place(name: str, expected: str) -> None:
    assert make_slice_case(name) == expected
    assert f"{expected}_t1_080_w.nii.gz".split("_")[3] == "t1"


def test_the_papers_slices_are_the_default(tmp_path: Path) -> None:
    images = make_images((4, 4, 110))
    write_case(tmp_path / CASE, CASE, images=images)
    assert export(tmp_path / CASE, "--out", tmp_path / "out") == 0
    assert [path.name[-3:] for path in sorted((tmp_path / "out").iterdir())] == [
        f"{number:03d}" for number in range(80, 110 - 26)
    ]


def test_slices_that_are_there_are_replaced_only_on_demand(
    case: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert export(case, "--out", out, "--all") == 0
    before = {path: path.read_bytes() for path in out.rglob("*.gz")}
    assert export(case, "--out", out, "--all", "--raw") == 1
    assert f"{CASE}_000 exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*.gz")} == before
    # Those outside of the new range go, too: they would be of other intensities.
    assert export(case, "--out", out, "--drop", 2, 2, "--raw", "--overwrite") == 0
    assert [path.name for path in out.iterdir()] == [f"{CASE}_002"]
    kept = out / f"{CASE}_002" / "notes.txt"
    kept.write_text("mine", encoding="utf-8")
    assert export(case, "--out", out, "--all", "--overwrite") == 1
    assert "holds more than slices" in capsys.readouterr().err
    assert kept.read_text(encoding="utf-8") == "mine"
    assert [path.name for path in out.iterdir()] == [f"{CASE}_002"]


def test_bad_cases_are_reported_and_the_others_go_on(case: Path, tmp_path: Path, capsys) -> None:
    images = make_images(SHAPE)
    write_case(tmp_path / "in" / "A_1", "A_1", images=images)
    (tmp_path / "in" / "A_1" / "A_1_flair.nii.gz").unlink()
    write_case(tmp_path / "in" / "B_1", "B_1", images={m: images[m] for m in MODALITIES})
    write_case(tmp_path / "in" / "C_1", "C_1", images=images)
    write_case(tmp_path / "in" / "C-1", "C-1", images=images)
    write_slices(tmp_path / "sliced", [3, 4])
    out = tmp_path / "out"
    folders = [tmp_path / "in" / name for name in ("A_1", "B_1", "C_1", "C-1", CASE)]
    assert export(*folders, tmp_path / "sliced", "--out", out, "--all") == 1
    printed = capsys.readouterr()
    failed = [line for line in printed.err.splitlines() if " failed: " in line]
    assert [line[:5] for line in failed] == ["[1/6]", "[2/6]", "[4/6]", "[6/6]"]
    for line, text in zip(
        failed, ("flair", "--without-labels", "same name", "already"), strict=True
    ):
        assert text in line
    assert "Traceback" not in printed.err
    assert {path.name.rpartition("_")[0] for path in out.iterdir()} == {CASE, "brats_case_C-1"}


def test_too_few_slices_for_the_papers_choice_say_so(case: Path, tmp_path: Path, capsys) -> None:
    assert export(case, "--out", tmp_path / "out") == 1
    assert "has 5 slices" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("moment", ["writing", "moving"])
def test_failed_export_leaves_what_was_there(
    case: Path, tmp_path: Path, moment: str, monkeypatch, capsys
) -> None:
    from napari_diffseg.core import slice_export

    out = tmp_path / "out"
    assert export(case, "--out", out, "--all") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    calls = itertools.count()
    target, name = (
        (slice_export, "save_on_source_grid") if moment == "writing" else (Path, "rename")
    )
    real = getattr(target, name)

    def fail_late(*arguments: object, **options: object) -> object:
        if next(calls) == 7:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(target, name, fail_late)
    assert export(case, "--out", out, "--all", "--raw", "--overwrite") == 1
    monkeypatch.undo()
    assert f"cannot be written into {out}: No space left" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not list(out.glob(".*"))


# ------------------------------------------------------------------------------------- assembly


def write_outputs(folder: Path, n_members: int = 3, size: tuple[int, int] = (5, 4)) -> np.ndarray:
    """Write samples as the published code does, on slices 1 to 3; return them (S, 3, x, y)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    samples = rng.normal(0.5, 0.4, (n_members, 3, *size)).astype(np.float32)
    for member, number in itertools.product(range(n_members), (1, 2, 3)):
        tensor = torch.from_numpy(samples[member, number - 1])[None, None]
        torch.save(tensor, folder / f"{CASE}_{number:03d}_output{member}")
    return samples


@pytest.mark.parametrize("wanted", ["mask", "mean", "variance", "samples"])
def test_samples_of_the_published_code_become_a_volume(
    case: Path, tmp_path: Path, wanted: str, capsys
) -> None:
    masks = write_outputs(tmp_path / "generated_masks") > 0.5
    like, back = case / f"{CASE}_t1.nii.gz", tmp_path / "back.nii.gz"
    options = [] if wanted == "mask" else ["--map", wanted]
    assert assemble(tmp_path / "generated_masks", "--like", like, "--out", back, *options) == 0
    mean = masks.mean(axis=0)
    expected = {
        "mask": mean > 0.5,
        "mean": mean,
        "variance": masks.var(axis=0),
        "samples": masks,
    }[wanted]
    found = load(back)
    inner = found[1:-1, 1:-1, 1:4]  # one pixel of margin at each side, slices 1 to 3
    found[1:-1, 1:-1, 1:4] = 0
    assert not found.any()
    inner = load(back)[1:-1, 1:-1, 1:4]
    expected = np.moveaxis(expected, (-3, -2, -1), (2, 0, 1)) if wanted != "samples" else expected
    if wanted == "samples":
        expected = expected.transpose(2, 3, 1, 0)
    np.testing.assert_allclose(inner, expected, atol=1e-6)
    np.testing.assert_array_equal(nib.load(back).affine, AFFINE)
    assert "of 3 samples of BraTS20_Training_001, 3 of 5 slices (1 to 3)" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "value"), [("mask", 1), ("disagreement", 0.25)])
def test_maps_of_single_slices_by_our_own_model_become_a_volume(
    case: Path, tmp_path: Path, capsys, kind: str, value: float
) -> None:
    assert export(case, "--out", tmp_path / "out", "--all") == 0
    for number in (1, 3):
        source = tmp_path / "out" / f"{CASE}_{number:03d}" / f"{CASE}_seg_{number:03d}_w.nii.gz"
        pixels = np.where(load(source) > 0, value, 0).astype(np.float32)
        (tmp_path / "maps").mkdir(exist_ok=True)
        image = nib.Nifti1Image(pixels, nib.load(source).affine)
        nib.save(image, tmp_path / "maps" / f"{CASE}_{number:03d}_{kind}.nii.gz")
    like, back = case / f"{CASE}_seg.nii.gz", tmp_path / "back.nii.gz"
    assert assemble(tmp_path / "maps", "--like", like, "--out", back) == 0
    expected = np.where(load(like) > 0, value, 0)
    expected[..., [0, 2, 4]] = 0
    np.testing.assert_array_equal(load(back), expected)
    assert "slices 2 are missing" in capsys.readouterr().err


def test_slices_without_a_place_go_where_their_number_says(case: Path, tmp_path: Path) -> None:
    pixels = make_images(SHAPE[:2])["seg"]
    for number in (2, 4):
        write_nifti(tmp_path / "flat" / f"{CASE}_seg_{number:03d}_w.nii.gz", pixels, np.eye(4))
    back = tmp_path / "back.nii.gz"
    like = case / f"{CASE}_t1.nii.gz"
    assert assemble(tmp_path / "flat", "--like", like, "--out", back) == 0
    assert np.flatnonzero(load(back).any(axis=(0, 1))).tolist() == [2, 4]
    np.testing.assert_array_equal(load(back)[..., 4], pixels)


def test_what_cannot_be_assembled_is_told(case: Path, tmp_path: Path, capsys) -> None:
    out, like, back = tmp_path / "out", case / f"{CASE}_t1.nii.gz", tmp_path / "back.nii.gz"
    assert export(case, "--out", out, "--all") == 0
    other = write_case(tmp_path / "other", "b", images=make_images((9, 6, 5)), affine=AFFINE)
    moved = AFFINE.copy()
    moved[2, 3] += 3
    shifted = write_nifti(tmp_path / "shifted.nii.gz", make_images(SHAPE)["t1"], moved)
    short = write_nifti(tmp_path / "short.nii.gz", make_images((7, 6, 3))["t1"], AFFINE)
    flat = write_nifti(tmp_path / "flat.nii.gz", make_images((7, 6))["t1"], AFFINE)
    write_slices(tmp_path / "two" / "a", [1], "a_b_c")
    write_slices(tmp_path / "two" / "d", [1], "d_e_f")
    (tmp_path / "empty").mkdir()
    seg = ["--what", "seg"]
    capsys.readouterr()
    for arguments, complaint in (
        ([out, "--like", like], "5 kinds of files"),
        ([out, "--like", like, "--what", "mask"], "has no slices of mask"),
        ([tmp_path / "two", "--like", like], "2 cases (a_b_c, d_e_f). Choose one (--case)"),
        ([tmp_path / "empty", "--like", like], "hold no file of a slice"),
        ([tmp_path / "nothing", "--like", like], "nothing cannot be read"),
        ([out, *seg, "--like", other / "b_t1.nii.gz"], f"{CASE}_seg_000_w.nii.gz has 7x6x1"),
        ([out, *seg, "--like", shifted], "does not lie where slice 0"),
        ([out, *seg, "--like", short], "is for slice 4; the volume has 3"),
        ([out, *seg, "--like", flat], "is one slice; a volume is needed"),
        ([out, *seg, "--like", tmp_path / "none.nii.gz"], "none.nii.gz does not exist"),
    ):
        assert assemble(*arguments, "--out", back) == 2
        printed = capsys.readouterr().err
        assert complaint in printed
        assert printed.count("\n") == 1
    for target, complaint in (
        (like, "is one of the files that are read"),
        (tmp_path / "back.mha", "must end with .nii.gz"),
        (shifted, "exists already"),
    ):
        before = target.read_bytes() if target.exists() else b""
        assert assemble(out, *seg, "--like", like, "--out", target) == 2
        assert complaint in capsys.readouterr().err
        assert (target.read_bytes() if target.exists() else b"") == before
    assert assemble(out, *seg, "--like", like, "--out", shifted, "--overwrite") == 0
    np.testing.assert_array_equal(load(shifted), load(case / f"{CASE}_seg.nii.gz"))
    assert not back.exists()


def test_unusable_samples_are_named(case: Path, tmp_path: Path, capsys) -> None:
    folder, like = tmp_path / "masks", case / f"{CASE}_t1.nii.gz"
    write_outputs(folder)
    path = folder / f"{CASE}_002_output1"
    whole = path.read_bytes()

    def spoil(content: object) -> None:
        torch.save(content, path)

    for damage, complaint in (
        (lambda: path.write_bytes(whole[:100]), "is damaged or not a PyTorch file"),
        (lambda: spoil(torch.zeros(1, 1, 6, 4)), "has 1x1x6x4 pixels"),
        (lambda: spoil(torch.zeros(2, 1, 5, 4)), "has 2x1x5x4 pixels"),
        (lambda: spoil(torch.full((1, 1, 5, 4), torch.nan)), "NaN"),
        (lambda: spoil({"mask": torch.zeros(3)}), "not a tensor"),
        (path.unlink, "slice 2 has no sample 1"),
    ):
        damage()
        assert assemble(folder, "--like", like, "--out", tmp_path / "back.nii.gz") == 2
        printed = capsys.readouterr().err
        assert complaint in printed
        assert complaint.startswith("slice") or str(path) in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "back.nii.gz").exists()


def test_our_reader_opens_what_was_exported(case: Path, tmp_path: Path) -> None:
    assert export(case, "--out", tmp_path / "out", "--all", "--raw") == 0
    slice_3 = load_case(tmp_path / "out" / f"{CASE}_003")
    assert slice_3.geometry.to_source_slice(0) == 3
    volume = load_case(case)
    np.testing.assert_array_equal(slice_3.prior_image[:, 0], volume.prior_image[:, 1])
    together = tmp_path / "together"
    together.mkdir()
    for path in (tmp_path / "out").rglob("*.nii.gz"):
        path.rename(together / path.name)
    stacked = load_case(together)
    np.testing.assert_array_equal(stacked.prior_image, volume.prior_image)
    np.testing.assert_allclose(stacked.geometry.source_affine, AFFINE)


def test_real_case_comes_back(brats_data: Path, tmp_path: Path) -> None:
    case = brats_data / "original" / "BraTS2021_00006"
    assert export(case, "--out", tmp_path / "out") == 0
    assert len(read_as_the_published_code(tmp_path / "out", training=True)) == 49
    seg, back = case / "BraTS2021_00006_seg.nii.gz", tmp_path / "seg.nii.gz"
    assert assemble(tmp_path / "out", "--like", seg, "--what", "seg", "--out", back) == 0
    expected = load(seg)
    expected[..., :80] = expected[..., 129:] = 0
    np.testing.assert_array_equal(load(back), expected)
    np.testing.assert_array_equal(nib.load(back).affine, nib.load(seg).affine)
