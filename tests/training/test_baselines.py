"""SegNet, U-Net and their dropout: trained, resumed, exported and read by the same commands."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_diffseg.core.checkpoint import load_checkpoint
from napari_diffseg.core.errors import CheckpointError, ParameterError
from napari_diffseg.core.segnet import SegNet, SegNetConfig, scatter_maxima, unpool
from tests.training.tiny import OVERRIDES, TinyData, assert_same_state
from training.baseline_config import BaselineConfig
from training.baselines.checkpoint import LoadedBaseline, is_baseline, load_baseline
from training.baselines.networks import draw_members, make_network
from training.config import find_config, format_config, load_config
from training.export import export_run
from training.state import STATE_NAME, read_record
from training.train import main

pytestmark = pytest.mark.usefixtures("no_tensorboard")

SHIPPED = ("segnet", "bayesian_segnet", "unet")
TINY = {
    "segnet": (
        "baseline.segnet.channels=[8, 8]",
        "baseline.segnet.n_convolutions=[1, 1]",
        "baseline.segnet.dropout_levels=1",
    ),
    "unet": (
        "baseline.unet.in_channels=12",
        "baseline.unet.base_channels=8",
        "baseline.unet.channel_multipliers=[1, 2]",
    ),
}
TINY["bayesian_segnet"] = TINY["segnet"]


def tiny_arguments(kind: str, data: TinyData, run: Path, *extra: str) -> list[str]:
    settings = (
        *OVERRIDES,
        *TINY[kind],
        "run.total_steps=14",
        "run.validate_every=7",
        "run.batch_size=4",
        "run.validation_samples=2",
        "run.precision=float32",
        *extra,
    )
    places = ["--data", data.cache, "--split", data.split, "--run", run, "--threads", "1"]
    return [kind, *map(str, places), *(part for one in settings for part in ("--set", one))]


@pytest.fixture(scope="module")
def runs(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give finished runs of the shipped baselines, only with small networks."""
    root = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.logs._open_tensorboard", lambda *_: None)
        for kind in SHIPPED:
            assert main(tiny_arguments(kind, tiny_data, root / kind)) == 0
    return {kind: root / kind for kind in SHIPPED}


# --- networks -------------------------------------------------------------------------------------


def segnet(**settings: object) -> SegNet:
    torch.manual_seed(0)
    config = SegNetConfig((8, 12, 16), (1, 2, 2), **settings)  # type: ignore[arg-type]
    return SegNet(config, 4).eval()


@pytest.mark.parametrize("size", [(32, 32), (26, 38), (19, 23)])
def test_segnet_answers_for_slices_of_any_size(size: tuple[int, int]) -> None:
    assert segnet()(torch.rand(2, 4, *size)).shape == (2, 1, *size)


def test_maxima_go_back_to_their_places_on_every_device() -> None:
    x = torch.rand(2, 3, 7, 10)
    pooled, where = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    back = unpool(pooled, where, [7, 10])
    assert torch.equal(back[back > 0], x[back > 0])
    assert int((back > 0).sum()) == pooled.numel()
    assert torch.equal(scatter_maxima(pooled, where, [7, 10]), back)


def test_segnet_is_as_large_as_published() -> None:
    config = load_config(find_config("segnet"))
    assert config.baseline is not None
    with torch.device("meta"):
        network = make_network(config.baseline, 3)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 13 + 13 + 1
    # Without batch normalisation and biases this is VGG16's encoder, 14.71 M, and its mirror image.
    encoder = [m for m in network.down.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.weight.numel() for m in encoder) == 14_710_464


def test_unpooling_puts_values_where_their_maxima_were() -> None:
    torch.manual_seed(0)
    network = SegNet(SegNetConfig((1,), (1,)), 1).eval()
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 2] = 5.0
    seen: list[torch.Tensor] = []
    network.up[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for weights in (m for m in network.modules() if isinstance(m, torch.nn.Conv2d)):
        torch.nn.init.zeros_(weights.weight)
        weights.weight.data[:, :, 1, 1] = 1.0
    network(image)
    assert seen[0].argmax() == 1 * 4 + 2
    assert int((seen[0] > 0).sum()) == 1


def test_bayesian_segnet_has_dropout_in_its_deepest_levels() -> None:
    network = segnet(dropout=0.5, dropout_levels=1)
    rates = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert sorted(rates) == [0, 0, 0, 0, 0.5, 0.5]


def test_members_by_dropout_depend_on_seed_member_and_slice_alone() -> None:
    network = segnet(dropout=0.5, dropout_levels=3)
    images = torch.rand(3, 4, 16, 16)

    def draw(which: list[int], n_members: int, seed: int = 0) -> torch.Tensor:
        torch.manual_seed(len(which))  # torch's own generator must not matter
        return draw_members(
            network, images[which], which, n_members=n_members, seed=seed, sample_dropout=True
        )

    many = draw([0, 1, 2], 4)
    assert many.shape == (4, 3, 16, 16)
    assert torch.equal(draw([1], 2)[:, 0], many[:2, 1])
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(draw([1], 2, seed=1)[:, 0], many[:2, 1])
    assert not any(module.training for module in network.modules())


def test_network_without_dropout_has_one_member() -> None:
    images = torch.rand(2, 4, 16, 16)
    members = draw_members(segnet(), images, [0, 1], n_members=5, seed=0, sample_dropout=False)
    assert members.shape == (1, 2, 16, 16)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHIPPED)
def test_baselines_see_what_the_bundled_model_sees(kind: str) -> None:
    ours, fast = load_config(find_config(kind)), load_config(find_config("fast"))
    for section in ("preprocessing", "data", "augmentation", "optimiser"):
        assert getattr(ours, section) == getattr(fast, section)
    # A baseline has no sampling steps.
    assert ours.run == replace(fast.run, validation_steps=ours.run.validation_steps)
    assert ours.loss.dice_weight == fast.loss.dice_weight
    assert ours.baseline is not None
    assert ours.baseline.system == kind
    assert "[model" not in format_config(ours)


def test_unet_is_the_bundled_models_encoder() -> None:
    ours, fast = load_config(find_config("unet")), load_config(find_config("fast"))
    assert ours.baseline is not None
    assert ours.baseline.unet is not None
    assert fast.model.prior_encoder is not None
    assert {**vars(ours.baseline.unet), "dropout": 0.0} == vars(fast.model.prior_encoder)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("baseline.unet.out_channels=1", "either"),
        ("baseline.segnet.dropout=0", "all members would be the same"),
        ("baseline.segnet.dropout=1.0", "less than 1"),
        ("baseline.segnet.channels=[8]", "as many n_convolutions"),
        ("model.denoiser.dropout=0.1", "has no section"),
    ],
)
def test_contradictions_are_refused(override: str, complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        load_config(find_config("bayesian_segnet"), [override])


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHIPPED)
def test_run_of_a_baseline_leaves_a_complete_record(runs: dict[str, Path], kind: str) -> None:
    folder = runs[kind]
    with (folder / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["7", "14"]
    # Only dropout makes members; a single answer has nothing to agree with.
    assert all(bool(row["agreement"]) == (kind == "bayesian_segnet") for row in rows)
    assert "model" not in read_record(folder / STATE_NAME)["config"]
    assert load_config(folder / "config.toml").baseline is not None
    assert len(list((folder / "previews").iterdir())) == 2


@pytest.mark.parametrize("kind", ["bayesian_segnet", "unet"])
def test_interrupted_baseline_goes_on_bit_by_bit(
    runs: dict[str, Path], tiny_data: TinyData, tmp_path: Path, kind: str
) -> None:
    short = tiny_arguments(kind, tiny_data, tmp_path / "part", "run.total_steps=7")
    whole = tiny_arguments(kind, tiny_data, tmp_path / "part")
    # The length of a run is part of its learning rate's course, so it is the same from the start.
    constant = ["--set", 'optimiser.schedule="constant"']
    assert main([*short, *constant]) == 0
    assert main([*whole, *constant, "--allow-changes"]) == 0
    assert main([*tiny_arguments(kind, tiny_data, tmp_path / "at_once"), *constant]) == 0
    assert_same_state(tmp_path / "part", tmp_path / "at_once")


def test_dry_run_and_init_of_a_baseline(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny_arguments("segnet", tiny_data, tmp_path / "run")
    assert main([*arguments, "--dry-run"]) == 0
    assert "one step        loss" in capsys.readouterr().out
    assert main([*arguments, "--init", "any.safetensors"]) == 1
    assert "--init is for diffusion models" in capsys.readouterr().err


# --- files ----------------------------------------------------------------------------------------


def test_exported_baseline_is_the_average_bit_by_bit(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    exported = export_run(runs["bayesian_segnet"], out, name="mine")
    assert isinstance(exported, LoadedBaseline)
    assert is_baseline(out)
    loaded = load_baseline(out)
    assert (loaded.name, loaded.config.system) == ("mine", "bayesian_segnet")
    assert loaded.provenance["steps"] == 14
    assert loaded.provenance["images_seen"] == 14 * 4
    assert not loaded.network.training
    images = torch.rand(1, 12, 48, 48)
    assert torch.equal(loaded.network(images), exported.network(images))
    with pytest.raises(CheckpointError, match="not a model of napari-diffseg"):
        load_checkpoint(out)


def test_other_files_are_no_baselines(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert not is_baseline(path)
    path.write_bytes(b"nonsense")
    assert not is_baseline(path)
    with pytest.raises(CheckpointError, match="not a usable baseline"):
        load_baseline(path)


def test_system_is_named_by_network_and_dropout() -> None:
    assert BaselineConfig(segnet=SegNetConfig()).system == "segnet"
    bayesian = BaselineConfig(segnet=SegNetConfig(dropout=0.5), sample_dropout=True)
    assert bayesian.system == "bayesian_segnet"
