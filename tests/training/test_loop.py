from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors import safe_open

import training.loop
from napari_diffseg.core.diffusion import DiffusionConfig
from napari_diffseg.core.errors import CaseError, CheckpointError, ParameterError
from napari_diffseg.core.model import ModelConfig
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.segnet import SegNetConfig
from napari_diffseg.core.unet import UNetConfig
from tests.training.tiny import TRAINING, TinyData, assert_same_state, tiny_config
from training.baseline_config import BaselineConfig
from training.config import OptimiserConfig, TrainingConfig
from training.data import SliceCache
from training.loop import StepResult, Trainer, compute_learning_rate, resolve_precision
from training.state import STATE_NAME, load_average, read_record

CPU = torch.device("cpu")


def make_trainer(data: TinyData, folder: Path, *overrides: str) -> Trainer:
    return trainer_of(tiny_config("run.total_steps=6", *overrides), data, folder)


def trainer_of(config: TrainingConfig, data: TinyData, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    context = dict.fromkeys(TRAINING, config.preprocessing.context_slices)
    cache = SliceCache(data.cache, TRAINING, config.data, context)
    return Trainer(config, folder, cache, CPU, {"data_hash": "of a test"})


def run(trainer: Trainer, n_steps: int) -> list[StepResult]:
    return [trainer.run_step() for _ in range(n_steps)]


# --- learning rate --------------------------------------------------------------------------------


def test_learning_rate_rises_holds_and_falls() -> None:
    config = OptimiserConfig(learning_rate=2.0, warmup_steps=10, hold_fraction=0.4)
    rates = [compute_learning_rate(step, config, 100) for step in range(101)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert rates[9:41] == pytest.approx([2.0] * 32)
    assert rates[70] == pytest.approx(1.0)  # half-way between 40 and 100
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates[40:] == sorted(rates[40:], reverse=True)


def test_learning_rate_without_warmup_and_cosine_is_constant() -> None:
    config = OptimiserConfig(learning_rate=1e-4, warmup_steps=0, schedule="constant")
    assert {compute_learning_rate(step, config, 100) for step in range(100)} == {1e-4}


def test_cosine_begins_after_the_warmup() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=0)
    assert compute_learning_rate(0, config, 10) == 1.0
    assert compute_learning_rate(5, config, 10) == pytest.approx(0.5)


# --- steps ----------------------------------------------------------------------------------------


def test_tiny_batch_is_learnt_by_heart(tiny_data: TinyData, tmp_path: Path) -> None:
    config = tiny_config(
        "run.total_steps=100",
        "run.batch_size=2",
        "data.source_slices=[5, 7]",
        "data.tumour_fraction=0",
        "optimiser.learning_rate=1e-2",
    )
    config = replace(config, augmentation=None)
    results = run(trainer_of(config, tiny_data, tmp_path), 30)
    assert results[-1].loss < 0.2 * results[0].loss
    assert results[-1].terms["prior"] < 0.2 * results[0].terms["prior"]


@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
def test_paper_like_model_learns_to_predict_noise(
    tiny_data: TinyData, tmp_path: Path, variance: Literal["learned_range", "fixed_small"]
) -> None:
    diffusion = DiffusionConfig(num_train_timesteps=100, variance=variance)
    denoiser = UNetConfig(
        out_channels=diffusion.out_channels,
        base_channels=8,
        channel_multipliers=(1, 2),
        n_res_blocks=1,
        attention_factors=(2,),
        n_groups=4,
    )
    config = replace(
        tiny_config("run.total_steps=60", "loss.n_draws=1", "optimiser.learning_rate=1e-2"),
        model=ModelConfig(denoiser),
        diffusion=diffusion,
        preprocessing=PreprocessingConfig(window=(48, 48), stride=16),
        augmentation=None,
    )
    results = run(trainer_of(config, tiny_data, tmp_path), 25)
    assert set(results[0].terms) == ({"mse", "vlb"} if variance == "learned_range" else {"mse"})
    assert results[0].terms["mse"] == pytest.approx(1.0, abs=0.1)  # no noise is predicted yet
    assert sum(r.terms["mse"] for r in results[-5:]) / 5 < 0.8


def test_gradients_are_clipped(tiny_data: TinyData, tmp_path: Path) -> None:
    free = make_trainer(tiny_data, tmp_path / "a", "optimiser.clip_norm=0")
    bound = make_trainer(tiny_data, tmp_path / "b", "optimiser.clip_norm=1e-6")
    assert free.run_step().gradient_norm == bound.run_step().gradient_norm > 1e-3
    largest = max(float(p.grad.norm()) for p in bound.network.parameters() if p.grad is not None)
    assert largest <= 1e-6


def test_accumulated_gradient_is_that_of_the_whole_batch(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    # Without noise draws of its own, the loss of a batch is the mean of its parts'.
    unet = tiny_config().model.prior_encoder
    assert unet is not None
    plain = tiny_config("run.total_steps=6", "optimiser.clip_norm=0")
    config = replace(plain, baseline=BaselineConfig(unet=unet), augmentation=None)
    parts = replace(config, run=replace(config.run, accumulate=2))
    whole, divided = (
        trainer_of(c, tiny_data, tmp_path / str(i)) for i, c in enumerate((config, parts))
    )
    for _ in range(3):
        one, other = whole.run_step(), divided.run_step()
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)
    with pytest.raises(ParameterError, match="must be a multiple"):
        replace(config.run, accumulate=3)
    with pytest.raises(ParameterError, match="needs validations"):
        replace(config.run, stop_after=3, validate_every=0)


def test_infinite_loss_stops_the_run_and_spares_the_state(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    trainer = make_trainer(
        tiny_data, tmp_path, "optimiser.learning_rate=0", "run.checkpoint_every=1"
    )
    trainer.train(lambda _: None, lambda _: None, lambda: trainer.step == 2)
    torch.nn.init.constant_(next(trainer.network.parameters()), math.nan)
    with pytest.raises(FloatingPointError, match="step 3 is not finite"):
        trainer.train(lambda _: None, lambda _: None)
    assert read_record(tmp_path / STATE_NAME)["step"] == 2


# --- reproducibility ------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), ("model.denoiser.dropout=0.3",)])
def test_two_runs_from_scratch_are_equal(
    tiny_data: TinyData, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)  # torch's own generator must not matter
        trainer = make_trainer(tiny_data, tmp_path / name, *overrides)
        run(trainer, 4)
        trainer.save()
    assert_same_state(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("overrides", [(), ("model.denoiser.dropout=0.3",)])
def test_resumed_run_equals_an_uninterrupted_one(
    tiny_data: TinyData, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    whole = make_trainer(tiny_data, tmp_path / "whole", *overrides)
    run(whole, 6)
    whole.save()
    part = make_trainer(tiny_data, tmp_path / "part", *overrides)
    run(part, 3)
    part.save()
    run(part, 2)  # lost
    again = make_trainer(tiny_data, tmp_path / "part", *overrides)
    assert again.resume()
    assert again.step == 3
    assert again.seconds > 0
    run(again, 3)
    again.save()
    assert_same_state(tmp_path / "whole", tmp_path / "part")


def test_other_seed_is_another_run(tiny_data: TinyData, tmp_path: Path) -> None:
    one = make_trainer(tiny_data, tmp_path / "a").run_step()
    other = make_trainer(tiny_data, tmp_path / "b", "run.seed=1").run_step()
    assert one.loss != other.loss


def test_loss_scale_of_float16_survives(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, "run.precision=float16")
    run(trainer, 1)
    trainer._scaler.update(128.0)
    trainer.save()
    again = make_trainer(tiny_data, tmp_path, "run.precision=float16")
    again.resume()
    assert again._scaler.get_scale() == 128.0


def test_float16_that_cannot_be_scaled_stops_the_run(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_data,
        tmp_path,
        "run.precision=float16",
        "run.total_steps=100",
        "run.checkpoint_every=1",
    )
    result = StepResult(7, 7, 1.0, {}, 0.1, math.inf, 0.1)
    for _ in range(19):
        trainer._check_finite(result)  # skipped by the scaler, as happens now and then
    trainer._check_finite(replace(result, gradient_norm=1.0))
    for _ in range(19):
        trainer._check_finite(result)
    with pytest.raises(FloatingPointError, match="last 20 steps, up to 7, were not finite"):
        trainer._check_finite(result)


def test_precision_is_what_was_asked_for() -> None:
    config = tiny_config().run
    assert resolve_precision(replace(config, precision="float32"), CPU) is None
    assert resolve_precision(replace(config, precision="bfloat16"), CPU) is torch.bfloat16
    assert resolve_precision(replace(config, precision="auto"), CPU) in (None, torch.bfloat16)


# --- batches that are prepared ahead --------------------------------------------------------------


def record_loading(monkeypatch: pytest.MonkeyPatch, broken: int | None = None) -> list[int]:
    """Return the steps whose batches are loaded ahead, as they come; one of them cannot be."""
    steps: list[int] = []
    real = training.loop.load_batch

    def load(cache, plan, step, *rest):
        assert threading.current_thread() is not threading.main_thread()
        steps.append(step)
        if step == broken:
            raise CaseError("the disk is gone")
        return real(cache, plan, step, *rest)

    monkeypatch.setattr(training.loop, "load_batch", load)
    return steps


def assert_no_thread_is_left() -> None:
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_batches_prepared_ahead_give_the_same_steps(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("run.accumulate=2", "augmentation.paste_tumour=0.5")
    make_trainer(tiny_data, tmp_path / "plain", *settings).train(lambda _: None, lambda _: None)
    steps = record_loading(monkeypatch)
    trainer = make_trainer(tiny_data, tmp_path / "ahead", *settings)
    assert not trainer.loads_ahead  # on the CPU
    trainer.loads_ahead = True
    assert not trainer.train(lambda _: None, lambda _: None, lambda: trainer.step == 3)
    assert_no_thread_is_left()
    assert steps in ([0, 1, 2], [0, 1, 2, 3])  # the next one may have begun
    del steps[:]
    again = make_trainer(tiny_data, tmp_path / "ahead", *settings)
    again.loads_ahead = again.resume()
    assert again.train(lambda _: None, lambda _: None)
    assert_no_thread_is_left()
    assert steps == [3, 4, 5]  # nothing after the last
    assert_same_state(tmp_path / "plain", tmp_path / "ahead")


def test_error_in_loading_ahead_belongs_to_its_step(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_loading(monkeypatch, broken=4)
    trainer = make_trainer(tiny_data, tmp_path)
    trainer.loads_ahead = True
    taken: list[int] = []
    with pytest.raises(CaseError, match="the disk is gone"):
        trainer.train(lambda result: taken.append(result.step), lambda _: None)
    assert taken == [1, 2, 3, 4]
    assert_no_thread_is_left()


# --- pace and state -------------------------------------------------------------------------------


def test_pace_of_states_and_validations(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, "run.checkpoint_every=4", "run.validate_every=5")
    saved, validated = [], []
    trainer.save = lambda: saved.append(trainer.step)  # type: ignore[method-assign, assignment, return-value]
    assert trainer.train(lambda _: None, lambda t: validated.append(t.step))
    assert saved == [4, 6]
    assert validated == [5, 6]


def test_no_validation_if_none_is_wanted(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, "run.validate_every=0")
    assert trainer.train(lambda _: None, lambda _: pytest.fail("validated"))


def test_stop_is_asked_before_each_step_and_saves(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    assert not trainer.train(lambda _: None, lambda _: None, lambda: trainer.step == 3)
    assert read_record(tmp_path / STATE_NAME)["step"] == 3


def test_state_has_the_documented_tensors(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    assert not trainer.resume()
    run(trainer, 1)
    path = trainer.save()
    assert not list(tmp_path.glob("*.tmp"))
    names = [name for name, _ in trainer.network.named_parameters()]
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        assert "diffseg_training" in (file.metadata() or {})
    assert {f"network.{name}" for name in names} <= keys
    assert {f"ema.{name}" for name in names} <= keys
    moments = ("exp_avg", "exp_avg_sq", "step")
    assert {f"optimiser.{i}.{m}" for i in range(len(names)) for m in moments} <= keys
    average, record = load_average(path)
    assert set(average) == set(names)
    assert record["provenance"] == {"data_hash": "of a test"}


def test_damaged_or_foreign_state_is_named(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    run(trainer, 1)
    path = trainer.save()
    other = make_trainer(tiny_data, tmp_path, "model.denoiser.n_res_blocks=2")
    with pytest.raises(CheckpointError, match="belongs to another network"):
        other.resume()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a usable training state"):
        trainer.resume()


def test_half_written_state_does_no_harm(tiny_data: TinyData, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    run(trainer, 2)
    trainer.save()
    (tmp_path / f"{STATE_NAME}.tmp").write_bytes(b"killed while writing")
    again = make_trainer(tiny_data, tmp_path)
    assert again.resume()
    assert again.step == 2
    again.save()
    assert not list(tmp_path.glob("*.tmp"))


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.denoiser.dropout=0.3", "model.prior_encoder.dropout=0.3"),
        ("run.precision=bfloat16", "model.denoiser.dropout=0.3", "loss.own_estimates=0.5"),
        ("run.precision=float16", "run.accumulate=2"),
    ],
)
def test_recomputed_activations_give_the_same_steps(
    tiny_data: TinyData, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    for name, recompute in (("kept", "false"), ("again", "true")):
        setting = f"run.recompute_activations={recompute}"
        trainer = make_trainer(tiny_data, tmp_path / name, setting, *overrides)
        run(trainer, 3)
        trainer.save()
    assert_same_state(tmp_path / "kept", tmp_path / "again")


def test_recomputed_activations_are_not_kept(tiny_data: TinyData, tmp_path: Path) -> None:
    def measure(*overrides: str) -> tuple[int, int]:
        trainer = make_trainer(tiny_data, tmp_path, *overrides)
        kept, passes = [], []
        stage = trainer.network.denoiser.down[0].residual.conv_in
        stage.register_forward_hook(lambda *_: passes.append(None))

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.run_step()
        return sum(kept), len(passes)

    (all_of_them, once), (few, twice) = measure(), measure("run.recompute_activations=true")
    assert (once, twice) == (1, 2)
    assert few < 0.5 * all_of_them


def test_batch_normalisation_does_not_recompute_activations() -> None:
    segnet = replace(tiny_config(), baseline=BaselineConfig(segnet=SegNetConfig((4, 8), (1, 1))))
    encoder = tiny_config('model.prior_encoder.norm="batch"')
    for config in (segnet, encoder):
        with pytest.raises(ParameterError, match="not for networks with batch normalisation"):
            replace(config, run=replace(config.run, recompute_activations=True))
    second = replace(tiny_config(), model=with_second(tiny_config().model))
    with pytest.raises(ParameterError, match="not for networks with batch normalisation"):
        replace(second, run=replace(second.run, recompute_activations=True))
    # An encoder that is kept as it is has no batch to count.
    frozen = replace(encoder, optimiser=replace(encoder.optimiser, train_prior_encoder=False))
    assert replace(frozen, run=replace(frozen.run, recompute_activations=True))


# --- a second encoder -----------------------------------------------------------------------------


def with_second(model: ModelConfig) -> ModelConfig:
    return replace(model, second_encoder=SegNetConfig((4, 8), (1, 1)))


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_second_encoder_learns_with_the_first_or_stays_as_it_is(
    tiny_data: TinyData, tmp_path: Path, is_trained: bool
) -> None:
    # Without a loss of its own, what it learns comes from the draws that begin from its answer.
    config = tiny_config("run.total_steps=6", "run.precision=float32", "loss.prior_weight=0")
    config = replace(
        config,
        model=with_second(config.model),
        optimiser=replace(config.optimiser, train_prior_encoder=is_trained),
    )
    trainer = trainer_of(config, tiny_data, tmp_path)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    run(trainer, 4)
    moved = {
        name
        for name, value in trainer.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    encoders = {"prior_encoder", "second_encoder"}
    assert {name.partition(".")[0] for name in moved} == {"denoiser"} | (
        encoders if is_trained else set()
    )
    assert ("second_encoder.head.weight" in moved) == is_trained


# --- own estimates --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_own_estimates_leave_every_weight_its_gradient(
    tiny_data: TinyData, tmp_path: Path, precision: str
) -> None:
    trainer = make_trainer(
        tiny_data, tmp_path, "loss.own_estimates=1.0", f'run.precision="{precision}"'
    )
    run(trainer, 3)  # the last layers start at 0 and hold gradients back for a step each
    without = [
        name
        for name, weight in trainer.network.named_parameters()
        if weight.grad is None or not bool(weight.grad.any())
    ]
    assert without == []


def test_own_estimates_change_what_the_denoiser_learns_from_and_are_reproducible(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    def losses(name: str, share: float) -> list[float]:
        trainer = make_trainer(tiny_data, tmp_path / name, f"loss.own_estimates={share}")
        return [result.terms["mask"] for result in run(trainer, 4)]

    half = losses("a", 0.5)
    assert half == losses("b", 0.5)
    assert half != losses("c", 0.0)
