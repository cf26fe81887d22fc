"""The same command once more: what is done is not drawn again, what somebody painted stays."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_diffseg._commands import segment as command
from napari_diffseg.cli import main
from napari_diffseg.core import batch
from napari_diffseg.core.checkpoint import save_checkpoint
from napari_diffseg.core.convergence import compute_convergence
from tests.core.case_files import write_slices
from tests.models import tiny_model
from tests.test_cli import read_json, write_synthetic

SHAPE = (5, 40, 36)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of the same name."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for seed in (0, 1):
        tiny = tiny_model(seed)
        path = folder / str(seed) / "tiny.safetensors"
        path.parent.mkdir()
        paths.append(save_checkpoint(path, tiny.network, tiny.preprocessing, tiny.card, {}))
    return paths


@pytest.fixture
def run(models: list[Path], tmp_path: Path, monkeypatch):
    """Segment all cases; return the exit code and the names of those that were sampled."""
    drawn: list[str] = []
    real = batch.run_case

    def note(case, *arguments, **options):
        drawn.append(case.name)
        return real(case, *arguments, **options)

    monkeypatch.setattr(batch, "run_case", note)
    monkeypatch.setattr(command, "MAX_TOLERANCE", 1.0)  # the masks of the tiny model are arbitrary

    def segment(*options: object, model: int = 0) -> tuple[int, list[str]]:
        drawn.clear()
        fixed = ["--out", tmp_path / "out", "--checkpoint", models[model], "--device", "cpu"]
        code = main(["segment", str(tmp_path / "in"), *map(str, (*fixed, *options))])
        return code, [*drawn]

    return segment


@pytest.fixture
def cases(tmp_path: Path) -> list[str]:
    names = ["Case_1", "Case_2"]
    for seed, name in enumerate(names):
        write_synthetic(tmp_path / "in", name, seed=seed, shape=SHAPE)
    return names


def test_what_is_done_is_told_and_not_drawn_again(run, cases, tmp_path: Path, capsys) -> None:
    assert run("--samples", 2) == (0, cases)
    for path in (tmp_path / "out").glob("Case_2_*"):
        path.unlink()  # as if Ctrl-C had come before
    capsys.readouterr()
    assert run("--samples", 2, "--skip-done") == (0, ["Case_2"])
    done = tmp_path / "out" / "Case_1_diffseg.json"
    assert f"[1/2] Case_1 was done: {done}" in capsys.readouterr().err
    assert run("--samples", 1, "--skip-done") == (0, [])  # there are more than that
    assert run("--samples", 2) == (0, cases)  # only if asked for


@pytest.mark.parametrize(
    "options",
    [
        ("--samples", 3),
        ("--seed", 1),
        ("--steps", 2),
        ("--sampler", "ddim"),
        ("--mirror",),
        ("--vary-contrast",),
        ("--threshold", 0.4),
        ("--of", "masks"),
        ("--consensus", "majority"),
        ("--save-samples",),
        ("--report",),
        ("--slices", "1:"),
        ("--slices", "0:2"),
    ],
    ids=str,
)
def test_a_result_of_other_settings_is_not_what_is_wanted(run, cases, options) -> None:
    samples = () if "--samples" in options else ("--samples", 2)
    run("--samples", 2)
    assert run(*samples, "--skip-done", *options) == (0, cases)
    # With the same settings again it is.
    assert run(*samples, "--skip-done", *options) == (0, [])


def test_a_result_of_another_model_or_of_other_images_is_not(run, cases, tmp_path: Path) -> None:
    run("--samples", 1)
    assert run("--samples", 1, "--skip-done", model=1) == (0, cases)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    for name in cases:
        shutil.copytree(tmp_path / "elsewhere" / name, tmp_path / "in" / name)
    assert run("--samples", 1, "--skip-done", model=1) == (0, [])  # the same place
    shutil.move(tmp_path / "in" / "Case_1", tmp_path / "in" / "moved" / "Case_1")
    assert run("--samples", 1, "--skip-done", model=1) == (0, [])  # what is in them tells


def test_a_result_of_images_that_have_changed_is_not_done(run, cases, tmp_path: Path) -> None:
    run("--samples", 1)
    flair = tmp_path / "in" / "Case_1" / "Case_1_flair.nii.gz"
    image = nib.load(flair)
    changed = np.asarray(image.dataobj) * 2
    nib.save(nib.Nifti1Image(changed, image.affine, image.header), flair)  # the same path and grid
    assert run("--samples", 1, "--skip-done") == (0, ["Case_1"])
    (tmp_path / "in" / "Case_2" / "Case_2_seg.nii.gz").unlink()
    assert run("--samples", 1, "--skip-done") == (0, ["Case_2"])  # there is no Dice any more


def test_a_result_without_one_of_its_files_is_not_done(run, cases, tmp_path: Path) -> None:
    run("--samples", 1)
    (tmp_path / "out" / "Case_1_mean.nii.gz").unlink()
    assert run("--samples", 1, "--skip-done") == (0, ["Case_1"])


def test_what_is_no_result_is_not_replaced_unasked(run, cases, tmp_path: Path, capsys) -> None:
    mask = tmp_path / "out" / "Case_1_mask.nii.gz"
    mask.parent.mkdir()
    mask.write_bytes(b"the brain mask of somebody else")
    assert run("--samples", 1) == (1, ["Case_2"])
    told = capsys.readouterr().err
    assert f"{mask} is there, and nothing tells that it is an earlier result" in told
    assert "--overwrite" in told
    assert mask.read_bytes() == b"the brain mask of somebody else"
    record = tmp_path / "out" / "Case_2_diffseg.json"
    record.write_text("{", encoding="utf-8")
    assert run("--samples", 1) == (1, [])
    assert f"{record} is not a JSON file" in capsys.readouterr().err
    assert run("--samples", 1, "--overwrite") == (0, cases)
    assert read_json(record)["maps"]["n_members"] == 1


def test_a_mask_that_was_edited_in_another_program_is_not_replaced_unasked(
    run, cases, tmp_path: Path, capsys
) -> None:
    run("--samples", 1)
    path = tmp_path / "out" / "Case_1_mask.nii.gz"
    image = nib.load(path)
    painted = np.asarray(image.dataobj).copy()
    painted[:, :20] *= 2  # as many voxels, in two parts
    nib.save(nib.Nifti1Image(painted, image.affine), path)
    before = path.read_bytes()
    capsys.readouterr()
    assert run("--samples", 1, "--skip-done") == (0, [])
    assert f"{path} has been edited in another program since" in capsys.readouterr().err
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [row["edited"] for row in rows] == ["True", "False"]
    assert rows[0]["edited_ml"] == rows[0]["mask_ml"]
    assert run("--samples", 2) == (1, ["Case_2"])
    assert f"{path} is not as it was saved: it has been edited" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run("--samples", 2, "--overwrite") == (0, cases)
    assert path.read_bytes() != before


def test_fewer_samples_that_were_stable_are_done_by_the_same_tolerance(run, cases) -> None:
    run("--samples", 6, "--until-stable", 0.9)
    assert run("--samples", 6, "--until-stable", 0.9, "--skip-done") == (0, [])
    assert run("--samples", 6, "--until-stable", 0.95, "--skip-done") == (0, [])
    assert run("--samples", 4, "--until-stable", 0, "--skip-done") == (0, cases)
    assert run("--samples", 4, "--until-stable", 0, "--skip-done") == (0, [])  # never stable


@pytest.mark.parametrize(
    ("options", "watched"),
    [
        (("--threshold", 0.3, "--of", "masks"), (0.3, "masks")),
        (("--threshold", 0.3, "--consensus", "majority"), (0.5, "masks")),
        (("--consensus", "closest"), (0.5, "masks")),
        ((), (0.5, "probabilities")),
    ],
    ids=str,
)
def test_the_mask_that_is_saved_has_to_be_stable(
    run, cases, tmp_path: Path, options, watched
) -> None:
    run("--samples", 4, "--until-stable", 0.9, "--save-samples", *options)
    record = read_json(tmp_path / "out" / "Case_1_diffseg.json")
    stopping = record["run"]["stopping"]
    assert (stopping["threshold"], stopping["of"]) == watched
    members = nib.load(tmp_path / "out" / "Case_1_samples.nii.gz").dataobj.get_unscaled()
    additions = compute_convergence(np.moveaxis(members, (3, 2), (0, 1)), *watched)
    assert stopping["dice"] == pytest.approx(min(each.dice for each in additions[-2:]))


def test_a_result_with_an_edited_mask_is_not_replaced_unasked(
    run, cases, tmp_path: Path, capsys
) -> None:
    run("--samples", 1)
    edited = tmp_path / "out" / "Case_1_edited.nii.gz"
    shutil.copy(tmp_path / "out" / "Case_1_mask.nii.gz", edited)
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("Case_1_*")}
    capsys.readouterr()
    assert run("--samples", 2) == (1, ["Case_2"])
    told = capsys.readouterr().err
    assert f"[1/2] Case_1 failed: {edited} was edited by hand" in told
    assert "--overwrite" in told
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("Case_1_*")} == before
    assert run("--samples", 1, "--skip-done") == (0, [])  # nothing of it would change

    assert run("--samples", 2, "--overwrite") == (0, cases)
    assert f"Case_1 note: {edited} is left from an earlier run" in capsys.readouterr().err
    assert edited.read_bytes() == before[edited]
    assert read_json(tmp_path / "out" / "Case_1_diffseg.json")["maps"]["n_members"] == 2


def test_a_result_of_other_images_is_not_replaced_unasked(
    run, cases, tmp_path: Path, capsys
) -> None:
    run("--samples", 1)
    record = tmp_path / "out" / "Case_1_diffseg.json"
    before = record.read_bytes()
    (tmp_path / "in").rename(tmp_path / "study_a")
    write_synthetic(tmp_path / "in" / "b", "Case_1", seed=3, shape=SHAPE)
    capsys.readouterr()
    assert run("--samples", 1)[0] == 1
    told = capsys.readouterr().err
    assert f"{record} is the result of other images, " in told
    assert "--overwrite" in told
    assert record.read_bytes() == before
    assert run("--samples", 1, "--overwrite") == (0, ["Case_1"])
    assert "in/b/Case_1" in Path(read_json(record)["case"]["files"]["t1"]).as_posix()


def test_a_stack_of_slices_that_has_grown_is_another(
    run, models: list[Path], tmp_path: Path, capsys
) -> None:
    write_slices(tmp_path / "in", [80, 81])
    assert run("--samples", 1)[0] == 0
    assert run("--samples", 1, "--skip-done") == (0, [])
    write_slices(tmp_path / "in", [82])
    capsys.readouterr()
    assert run("--samples", 1, "--skip-done") == (1, [])
    record = tmp_path / "out" / "brats_train_001_diffseg.json"
    assert f"{record} is the result of other slices of the same stack" in capsys.readouterr().err
    assert run("--samples", 1, "--overwrite")[0] == 0
    assert read_json(record)["case"]["slice_numbers"] == [[80, 82]]


def test_notes_about_the_images_are_told_before_anything_is_drawn(
    run, cases, tmp_path: Path, capsys, monkeypatch
) -> None:
    shutil.copy(
        tmp_path / "in" / "Case_1" / "Case_1_t1.nii.gz",
        tmp_path / "in" / "Case_1" / "Case_1_t2.nii.gz",
    )
    assert run("--samples", 1)[0] == 0
    told = capsys.readouterr().err
    assert told.count("T1 and T2 are the same image") == 1
    assert told.index("[1/2] Case_1 note: T1 and T2 are") < told.index("[1/2] Case_1: ")


def test_a_report_that_cannot_be_made_leaves_nothing(
    run, cases, tmp_path: Path, monkeypatch
) -> None:
    def explode(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_diffseg.core.export.write_page", explode)
    assert run("--samples", 1, "--report")[0] == 1
    assert not list((tmp_path / "out").iterdir())
