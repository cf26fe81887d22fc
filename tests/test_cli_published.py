"""Checkpoints of the paper's code on the command line: used as they are, converted, refused."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_diffseg.cli import main
from napari_diffseg.core.checkpoint import load_checkpoint
from tests.models import published_state, tiny_model
from tests.test_cli import write_synthetic

RAW, AVERAGE = "savedmodel060000.pt", "emasavedmodel_0.9999_060000.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a case, and the weights and their average as the published code saves them."""
    folder = tmp_path_factory.mktemp("published")
    write_synthetic(folder, "Case_001")
    for seed, name in enumerate((RAW, AVERAGE)):
        torch.save(published_state(seed=seed), folder / name)
    return folder


@pytest.fixture
def segment(folder: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], bytes]]:
    def run(model: Path) -> tuple[dict[str, Any], bytes]:
        """Return the record and the bytes of the mean map."""
        options = ["--samples", "1", "--steps", "2", "--slices", "5", "--device", "cpu"]
        out = tmp_path / "out" / model.name
        case = str(folder / "Case_001")
        command = ["segment", case, "--out", str(out), "--checkpoint", str(model), *options]
        assert main(command) == 0
        record = json.loads((out / "Case_001_diffseg.json").read_text(encoding="utf-8"))
        return record, (out / "Case_001_mean.nii.gz").read_bytes()

    return run


def test_weights_and_their_average_segment_as_they_are(segment, folder: Path) -> None:
    (raw, raw_map), (average, average_map) = segment(folder / RAW), segment(folder / AVERAGE)
    for record, name in ((raw, RAW), (average, AVERAGE)):
        assert record["run"]["model"]["file"] == name
        assert record["run"]["sampler"] == "ddpm"
    assert raw["run"]["model"]["sha256"] != average["run"]["model"]["sha256"]
    assert raw_map != average_map
    mean = nib.Nifti1Image.from_bytes(gzip.decompress(raw_map)).get_fdata()
    assert np.flatnonzero(mean.any(axis=(0, 1))).tolist() == [5]


@pytest.mark.parametrize("name", [RAW, AVERAGE])
def test_converted_file_draws_the_same_masks(segment, folder: Path, tmp_path: Path, name) -> None:
    converted = tmp_path / "converted.safetensors"
    assert main(["convert", str(folder / name), str(converted)]) == 0
    record, converted_map = segment(converted)
    assert record["run"]["model"]["provenance"]["converted_from"] == name
    assert converted_map == segment(folder / name)[1]


def test_without_steps_the_published_thousand_are_taken(folder: Path, capsys) -> None:
    assert main(["info", "--checkpoint", str(folder / AVERAGE)]) == 0
    assert "ddpm, 1000 steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.PT", "model.pth", "model.ckpt", "model"])
def test_published_file_is_known_by_its_content(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((folder / RAW).read_bytes())
    assert load_checkpoint(tmp_path / name).card.recommended_steps == 1000


def test_model_file_of_ours_is_known_by_its_content(tmp_path: Path) -> None:
    from napari_diffseg.core.checkpoint import save_checkpoint

    model = tiny_model()
    path = tmp_path / "renamed.pt"
    save_checkpoint(path, model.network, model.preprocessing, model.card, {})
    assert load_checkpoint(path).card.name == "tiny"


class Dangerous:
    """Would run something if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("ran"),)


def cut_short(folder: Path) -> bytes:
    return saved(published_state())(folder)[:-2000]


def pickled_network(folder: Path) -> bytes:
    path = folder / "object.bin"
    torch.save(torch.nn.Linear(2, 2), path)
    return path.read_bytes()


def saved(content: object) -> Callable[[Path], bytes]:
    def save(folder: Path) -> bytes:
        torch.save(content, folder / "content.bin")
        return (folder / "content.bin").read_bytes()

    return save


UNUSABLE = {
    "cut": (cut_short, "copy or download it again"),
    "empty": (lambda _: b"", "copy or download it again"),
    "page": (lambda _: b"<!DOCTYPE html>not found", "copy or download it again"),
    "object": (pickled_network, r"state_dict\(\)"),
    "code": (lambda _: pickle.dumps(Dangerous(), protocol=2), r"state_dict\(\)"),
    "other network": (saved({"conv1.weight": torch.zeros(3)}), r"Choose a savedmodel\*\.pt"),
    "tensor": (saved(torch.zeros(3)), r"Choose a savedmodel\*\.pt"),
    "optimiser": (saved({"state": {}, "param_groups": []}), r"Choose savedmodel\*\.pt"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.parametrize("command", ["segment", "convert", "info"])
def test_unusable_file_is_named_with_what_to_do(
    kind: str, command: str, folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, advice = UNUSABLE[kind]
    path = tmp_path / "downloaded.pt"
    path.write_bytes(make(tmp_path))
    arguments = {
        "segment": [str(folder / "Case_001"), "--out", "out", "--checkpoint", str(path)],
        "convert": [str(path), "out.safetensors"],
        "info": ["--checkpoint", str(path)],
    }
    assert main([command, *arguments[command]]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"napari-diffseg: error: {path}")
    assert printed.count("\n") == 1
    assert re.search(advice, printed)
    assert not {"ran", "out", "out.safetensors"} & {p.name for p in tmp_path.iterdir()}
