from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

import training.logs
from tests.training.tiny import TRAINING, VALIDATION, TinyData, tiny_config, write_tiny_case
from training.config import format_config
from training.prepare import main as prepare


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Give four tiny cases, prepared, the last of them for validation."""
    root = tmp_path_factory.mktemp("tiny")
    for seed, name in enumerate((*TRAINING, *VALIDATION)):
        write_tiny_case(root / "cases", name, seed)
    config = root / "tiny.toml"
    config.write_text(format_config(tiny_config()), encoding="utf-8")
    arguments = [root / "cases", root / "cache", "--workers", "1", "--config", config]
    assert prepare([str(argument) for argument in arguments]) == 0
    split = {"training": TRAINING, "validation": VALIDATION}
    (root / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return TinyData(root / "cases", root / "cache", root / "split.json")


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Undo what the commands set for their whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the seconds that TensorBoard takes to be imported, and the curves to be drawn."""
    monkeypatch.setattr(training.logs, "_open_tensorboard", lambda *_: None)
    monkeypatch.setattr(training.logs, "draw_curves", lambda _: None)
