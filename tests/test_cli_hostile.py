"""The command line in the hands of a hostile user, or of an unlucky one: no traceback, ever."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from napari_diffseg.cli import main
from napari_diffseg.core import checkpoint as checkpoints
from napari_diffseg.core import export
from napari_diffseg.core.checkpoint import save_checkpoint
from tests.core.case_files import NAMES_2017, make_images, write_case
from tests.models import published_state, tiny_model
from tests.test_cli import write_synthetic

FULL = OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_model()
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    return save_checkpoint(path, tiny.network, tiny.preprocessing, tiny.card, {})


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_synthetic(tmp_path / "in", "Case_1", shape=(5, 40, 36))


@pytest.fixture
def arguments(case: Path, model: Path, tmp_path: Path) -> list[str]:
    """Give the arguments of a run that works, of one sample on one slice."""
    options = ["--checkpoint", str(model), "--device", "cpu", "--samples", "1", "--slices", "2"]
    return ["segment", str(case), "--out", str(tmp_path / "out"), *options]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["segment", "", "--out", "out"], "CASE: the path is empty"),
        (["segment", "case", "--out", ""], "--out: the path is empty"),
        (["segment", "case", "--out", "out", "--checkpoint", " "], "the path is empty"),
        (["segment", "case", "--out", "out", "--threads", "100000"], "threads make sense here"),
        (["segment", "case", "--out", "out", "--slices", "9:3"], "holds no slice"),
        (["slices"], "required: COMMAND"),
        (["slices", "export", "case"], "--out"),
        (["slices", "export", "case", "--out", "out", "--drop", "-1", "3"], "number from 0 on"),
        (["slices", "export", "case", "--out", "out", "--drop", "80"], "--drop"),
        (["slices", "export", "case", "--out", "o", "--all", "--drop", "1", "1"], "not allowed"),
        (["slices", "assemble", "d", "--like", "v", "--out", "o", "--what", "dream"], "--what"),
    ],
)
def test_wrong_arguments_are_told_and_nothing_is_done(
    wrong: list[str], complaint: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not names(tmp_path)


def test_too_many_steps_are_told_before_any_case_is_read(
    arguments: list[str], tmp_path: Path, capsys
) -> None:
    assert main([*arguments, "--steps", "100000"]) == 2
    printed = capsys.readouterr().err
    assert "between 1 and 1000, not 100000" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_files_of_an_earlier_run_are_named(arguments: list[str], tmp_path: Path, capsys) -> None:
    assert main([*arguments, "--save-samples", "--report"]) == 0
    assert "earlier run" not in capsys.readouterr().err
    assert main([*arguments, "--save-samples"]) == 0
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'out' / 'Case_1_report.html'} is left from an earlier run" in printed
    assert "Case_1_samples.nii.gz" not in printed
    assert "Case_1_report.html" in names(tmp_path / "out")


@pytest.mark.parametrize("when", ["maps", "record"])
def test_full_disk_leaves_nothing_and_names_the_folder(
    arguments: list[str], tmp_path: Path, when: str, monkeypatch, capsys
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FULL

    target = {"maps": (os, "replace"), "record": (Path, "write_text")}[when]
    monkeypatch.setattr(*target, fail)
    code = main(arguments)
    monkeypatch.undo()
    assert code == 1
    printed = capsys.readouterr().err
    assert f"cannot be written into {tmp_path / 'out'}: No space left on device" in printed
    assert not names(tmp_path / "out")


def test_stop_by_a_scheduler_while_results_are_written(
    arguments: list[str], tmp_path: Path, monkeypatch
) -> None:
    def terminate(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Path, "write_text", terminate)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    monkeypatch.undo()
    assert stop.value.code == 128 + signal.SIGTERM
    assert not names(tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) is before


def test_disk_that_is_full_while_a_model_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    torch.save(published_state(), tmp_path / "p.pt")
    monkeypatch.setattr(checkpoints, "save_file", fail)
    assert main(["convert", str(tmp_path / "p.pt"), str(tmp_path / "m.safetensors")]) == 2
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'm.safetensors'} cannot be written: I/O error: No space" in printed
    assert names(tmp_path) == ["p.pt"]


def test_model_that_needs_no_conversion(model: Path, tmp_path: Path, capsys) -> None:
    assert main(["convert", str(model), str(tmp_path / "m.safetensors")]) == 2
    assert f"{model} is a model file already" in capsys.readouterr().err
    assert not names(tmp_path)


class Broken(io.StringIO):
    """A stream into which nothing can be written any more."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"), [(BrokenPipeError(32, "Broken pipe"), 141), (FULL, 2)], ids=["pipe", "disk"]
)
def test_results_that_nobody_can_read_end_the_command_quietly(
    error: OSError, code: int, arguments: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    assert main(arguments) == code
    monkeypatch.undo()
    assert ("No space left" in capsys.readouterr().err) is (code == 2)
    assert "Case_1_mask.nii.gz" in names(tmp_path / "out")  # what was done is there


def test_defect_outside_of_a_case_is_no_traceback(
    arguments: list[str], monkeypatch, capsys
) -> None:
    def explode(_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("napari_diffseg.core.inputs.expand_inputs", explode)
    assert main(arguments) == 2
    assert (
        "unexpected ZeroDivisionError: division by zero. Please report" in capsys.readouterr().err
    )


@pytest.mark.skipif(os.name == "nt", reason="streams are closed differently there")
@pytest.mark.parametrize("shell", ["2>&-", ">&-", "| true", ">/dev/full"])
def test_closed_full_and_unread_streams_of_a_shell(
    shell: str, arguments: list[str], tmp_path: Path
) -> None:
    if "full" in shell and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    quoted = " ".join(f"'{part}'" for part in ["-m", "napari_diffseg", *arguments])
    command = f"set -o pipefail; '{sys.executable}' {quoted} {shell}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    expected = {"| true": 141, ">/dev/full": 2}.get(shell, 0)
    assert run.returncode == expected
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert "Case_1_mask.nii.gz" in names(tmp_path / "out")


def test_paths_with_letters_that_stdout_does_not_have(
    arguments: list[str], tmp_path: Path, monkeypatch
) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    folder = tmp_path / "Größe"
    assert main([*arguments, "--out", str(folder)]) == 0
    stdout.flush()
    assert rb"Gr\xf6\xdfe" in stdout.buffer.getvalue()  # type: ignore[attr-defined]
    assert "Case_1_mask.nii.gz" in names(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_names_that_are_no_unicode(model: Path, tmp_path: Path, capsys) -> None:
    name = os.fsdecode(b"C\xff_1")
    source = write_synthetic(tmp_path / "in", "Case_1", shape=(5, 40, 36))
    for path in source.iterdir():
        path.rename(path.with_name(path.name.replace("Case_1", name)))
    source.rename(tmp_path / "in" / name)
    options = ["--checkpoint", str(model), "--samples", "1", "--slices", "2", "--report"]
    out = tmp_path / "out"
    assert main(["segment", str(tmp_path / "in"), "--out", str(out), *options]) == 0
    assert {f"{name}_{kind}" for kind in ("mask.nii.gz", "report.html")} <= {*names(out)}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rank", "shape"), [(2, (36, 40)), (3, (36, 40, 1))], ids=["240x240", "240x240x1"]
)
def test_one_slice_keeps_its_number_of_axes(
    rank: int, shape: tuple[int, ...], arguments: list[str], case: Path, tmp_path: Path
) -> None:
    import nibabel as nib

    for path in case.iterdir():
        image = nib.load(path)
        pixels = image.get_fdata()[..., 2].astype("float32")
        nib.save(nib.Nifti1Image(pixels[..., None] if rank == 3 else pixels, image.affine), path)
    everything = [part for part in arguments if part not in ("--slices", "2")]
    assert main([*everything, "--save-samples", "--report"]) == 0
    for kind in ("mask", "mean", "variance", "disagreement"):
        assert nib.load(tmp_path / "out" / f"Case_1_{kind}.nii.gz").shape == shape


def test_upper_case_names_and_suffixes(model: Path, tmp_path: Path) -> None:
    upper = {role: token.upper() for role, token in NAMES_2017.items()}
    source = write_synthetic(tmp_path / "in", "CASE_1", shape=(5, 40, 36), names=upper)
    for path in list(source.iterdir()):
        path.rename(path.with_name(path.name.upper()))
    options = ["--checkpoint", str(model), "--samples", "1", "--slices", "2"]
    assert main(["segment", str(source), "--out", str(tmp_path / "out"), *options]) == 0
    assert "CASE_1_mask.nii.gz" in names(tmp_path / "out")


def test_disk_that_is_full_while_slices_are_written(tmp_path: Path, monkeypatch, capsys) -> None:
    from napari_diffseg.core import volume

    name = "BraTS20_Training_001"
    source = write_case(tmp_path / name, name, images=make_images())

    def fail(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(volume, "_write", fail)
    assert main(["slices", "export", str(source), "--all", "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert f"cannot be written into {tmp_path / 'out'}: No space left on device" in printed
    assert not names(tmp_path / "out")


def test_results_are_found_by_their_own_names_only(tmp_path: Path) -> None:
    for name in ("Case_1_samples.nii.gz", "Case_11_report.html", "Case_1_edited.nii.gz"):
        (tmp_path / name).touch()
    assert export.find_earlier(tmp_path, "Case_1") == {
        tmp_path / "Case_1_samples.nii.gz",
        tmp_path / "Case_1_edited.nii.gz",
    }
