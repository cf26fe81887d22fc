"""The training loop: one optimiser step is a pure function of the state and the step number.

Every random choice of a step (slices, augmentation, timesteps, noise) comes from a generator
seeded by (run seed, step), so a run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.diffusion import (
    compute_hybrid_loss,
    compute_mask_loss,
    decode_output,
    encode_mask,
    q_sample,
)
from napari_diffseg.core.model import DiffusionModel, EncodedPrior
from napari_diffseg.core.serialisation import to_dict
from training.config import OptimiserConfig, RunConfig, TrainingConfig
from training.data import BatchPlan, SliceCache, load_batch
from training.ema import ExponentialMovingAverage
from training.state import STATE_NAME, load_state, save_state


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the CPU generator of one training step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def compute_learning_rate(step: int, config: OptimiserConfig, total_steps: int) -> float:
    """Return the rate of step ``step`` (from 0): linear warm-up, constant, cosine to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    start = max(config.warmup_steps, config.hold_fraction * total_steps)
    progress = min(1.0, max(0.0, (step - start) / max(1.0, total_steps - start)))
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def resolve_precision(run: RunConfig, device: torch.device) -> torch.dtype | None:
    """Return the autocast type, or None for float32."""
    if run.precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and _has_bfloat16_units() else None
    types = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return types[run.precision]


def _has_bfloat16_units() -> bool:
    cpu = torch.cpu  # there are no public names for these
    return cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported()  # noqa: SLF001


@dataclass(frozen=True)
class StepResult:
    """One optimiser step: scalars for the logs."""

    step: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float


class Trainer:
    """A run in a folder: the network, its average, the optimiser and the step number."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        cache: SliceCache,
        device: torch.device,
        provenance: dict[str, Any],
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self._cache, self._provenance = cache, dict(provenance)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = DiffusionModel(config.model, config.diffusion)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ExponentialMovingAverage(
            self.network, config.optimiser.ema_decay, warmup=config.optimiser.ema_warmup
        )
        self._optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.optimiser.learning_rate,
            weight_decay=config.optimiser.weight_decay,
            foreach=True,
        )
        self._plan = BatchPlan(
            cache.has_tumour, config.run.batch_size, config.data, config.run.seed
        )
        self._schedule = config.diffusion.make_schedule()
        self._autocast_type = resolve_precision(config.run, device)
        self._scaler = torch.amp.GradScaler(
            device.type, enabled=self._autocast_type == torch.float16
        )
        self.step = 0
        self.seconds = 0.0

    def resume(self) -> bool:
        """Go on from the folder's state, if it has one."""
        path = self.folder / STATE_NAME
        if not path.exists():
            return False
        record = load_state(path, self.network, self.ema, self._optimiser)
        self.step, self.seconds = int(record["step"]), float(record["seconds"])
        if "init" in record["provenance"]:
            self._provenance["init"] = record["provenance"]["init"]
        if "loss_scale" in record:
            self._scaler.load_state_dict(record["loss_scale"])
        return True

    def start_from(self, model: LoadedModel) -> None:
        """Begin with the weights of a model, as their average too; its record is kept."""
        self.network.load_state_dict(model.network.state_dict())
        self.ema.load(model.network.state_dict())
        self._provenance["init"] = {
            "name": model.card.name,
            "sha256": model.sha256,
            "provenance": dict(model.provenance),
        }

    def save(self) -> Path:
        """Write the folder's state."""
        path = self.folder / STATE_NAME
        save_state(path, self.network, self.ema, self._optimiser, self.record())
        return path

    def record(self) -> dict[str, Any]:
        """Return what belongs to the weights as JSON: step, configuration, provenance."""
        record = {
            "step": self.step,
            "seconds": self.seconds,
            "config": to_dict(self.config),
            "provenance": self._provenance,
        }
        if self._scaler.is_enabled():
            record["loss_scale"] = self._scaler.state_dict()
        return record

    def run_step(self) -> StepResult:
        """Take one optimiser step."""
        started = time.perf_counter()
        config = self.config
        generator = step_generator(config.run.seed, self.step)
        images, masks = load_batch(
            self._cache, self._plan, self.step, config.augmentation, generator
        )
        rate = compute_learning_rate(self.step, config.optimiser, config.run.total_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        terms = self._compute_loss(images.to(self.device), masks.to(self.device), generator)
        loss = torch.stack(list(terms.values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimiser)
        limit = config.optimiser.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.step += 1
        self.ema.update(self.network, self.step)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return StepResult(
            self.step,
            float(loss.detach()),
            {name: float(term.detach()) for name, term in terms.items()},
            rate,
            float(norm),
            seconds,
        )

    def _compute_loss(
        self, images: Tensor, masks: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config, schedule = self.config, self._schedule
        draws = config.loss.n_draws
        which = torch.arange(len(images)).repeat(draws)
        row = self._draw_rows(len(which), generator)
        noise = torch.randn((len(which), *masks.shape[1:]), generator=generator).to(self.device)
        targets = masks[which]
        x_0 = encode_mask(targets, config.diffusion)
        x_t = q_sample(x_0, row, noise, schedule)
        t = torch.from_numpy(schedule.timesteps)[row].to(self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        # Dropout takes torch's own generator; so it is a function of (run seed, step) as well.
        dropout_seed = int(torch.randint(2**62, (), generator=generator))
        with self._seeded(dropout_seed), self._autocast():
            prior = self.network.encode_prior(images)
            given = prior[which.to(self.device)]
            x_t = self._with_own_estimates(x_0, x_t, row, noise, given, generator)
            output = self.network(x_t, t, given)
        if config.diffusion.prediction == "epsilon":
            if config.diffusion.variance == "learned_range":
                mse, vlb = compute_hybrid_loss(output, x_0, x_t, row, noise, schedule)
                return {"mse": mse.mean(), "vlb": vlb.mean()}
            return {"mse": (noise - output.float()).square().mean()}
        weight = config.loss.dice_weight
        terms = {"mask": compute_mask_loss(output, targets, weight).mean()}
        if self.network.prior_encoder is not None and config.loss.prior_weight > 0:
            own = compute_mask_loss(prior.image, masks, weight).mean()
            terms["prior"] = config.loss.prior_weight * own
        return terms

    @torch.no_grad()
    def _with_own_estimates(
        self,
        x_0: Tensor,
        x_t: Tensor,
        row: Tensor,
        noise: Tensor,
        prior: EncodedPrior,
        generator: torch.Generator,
    ) -> Tensor:
        """Noise the network's own estimate of x_0 instead of the truth, for some of the draws.

        When sampling, the network is fed its own earlier estimates. Trained on noised truth alone
        it trusts them too much, and errors grow with the number of steps (self-aligned denoising,
        Ji et al. 2023, 2303.17559).
        """
        fraction = self.config.loss.own_estimates
        if fraction == 0.0:
            return x_t
        schedule, diffusion = self._schedule, self.config.diffusion
        own = torch.rand(len(row), generator=generator) < fraction
        share = torch.rand(len(row), generator=generator)
        earlier_noise = torch.randn(noise.shape, generator=generator).to(self.device)
        if not bool(own.any()):
            return x_t
        # A state that sampling visits before this one: anywhere from here to pure noise.
        earlier = (row + share * (len(schedule) - row)).long().clamp(max=len(schedule) - 1)[own]
        here = own.to(self.device)
        state = q_sample(x_0[here], earlier, earlier_noise[here], schedule)
        t = torch.from_numpy(schedule.timesteps)[earlier].to(self.device)
        # Weights that are cast here carry no gradient: they must not stay in autocast's cache.
        with self._autocast(cache_enabled=False):
            output = self.network(state, t, prior[here])
        estimate = decode_output(output, state, earlier, schedule, diffusion).x_0_hat
        out = x_t.clone()
        out[here] = q_sample(estimate, row[own], noise[here], schedule)
        return out

    def _draw_rows(self, n: int, generator: torch.Generator) -> Tensor:
        total = len(self._schedule)
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        if self.config.loss.t_density == "linear":
            u = u.sqrt()
        return (u * total).long().clamp(max=total - 1)

    @contextlib.contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield

    def _autocast(self, cache_enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
        if self._autocast_type is None:
            return contextlib.nullcontext()
        return torch.autocast(
            self.device.type, dtype=self._autocast_type, cache_enabled=cache_enabled
        )

    def train(
        self,
        on_step: Callable[[StepResult], None],
        on_validation: Callable[[Trainer], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run to the last step, saving and validating as the configuration says.

        Returns
        -------
        bool
            Whether the last step was reached; False if ``should_stop`` (asked after each step)
            ended the run, whose state is then saved.

        Raises
        ------
        FloatingPointError
            If a loss or a gradient is not finite; the state on the disk is the last good one.
        """
        run = self.config.run
        while self.step < run.total_steps:
            if should_stop():
                self.save()
                return False
            result = self.run_step()
            self._check_finite(result)
            on_step(result)
            if self.step == run.total_steps or self.step % run.checkpoint_every == 0:
                self.save()
            if self.is_validation_step():
                on_validation(self)
        return True

    def is_validation_step(self) -> bool:
        """Whether the present step ends with a validation."""
        run = self.config.run
        if not self.step or not run.validate_every:
            return False
        return self.step == run.total_steps or self.step % run.validate_every == 0

    def _check_finite(self, result: StepResult) -> None:
        # With scaled gradients infinite ones are expected now and then, and skipped.
        gradient_matters = not self._scaler.is_enabled()
        for name, value, matters in (
            ("loss", result.loss, True),
            ("gradient", result.gradient_norm, gradient_matters),
        ):
            if matters and not math.isfinite(value):
                raise FloatingPointError(
                    f"The {name} of step {result.step} is not finite. The last state in "
                    f"{self.folder} is intact: lower optimiser.learning_rate and resume."
                )
