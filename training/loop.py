"""The training loop: one optimiser step is a pure function of the state and the step number.

Every random choice of a step (slices, augmentation, timesteps, noise) comes from a generator
seeded by (run seed, step), so a run that was killed goes on exactly as if it had not been. Several
processes draw the same numbers, and each works on its share of the batch: the step is the same.
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
from torch import Tensor, nn

from napari_diffseg.core.model import DiffusionModel
from napari_diffseg.core.provenance import ORIGINS
from napari_diffseg.core.unet import UNet
from training.config import OptimiserConfig, RunConfig, TrainingConfig, config_values
from training.data import BatchPlan, SliceCache, load_batch
from training.ema import ExponentialMovingAverage
from training.known_patients import find_training_patients
from training.objectives import TrainingLoss, make_objective
from training.prefetch import Prefetcher
from training.processes import ONE_PROCESS, Processes
from training.shares import BatchRandom
from training.state import STATE_NAME, count_images, load_state, save_state
from training.warm_start import InitialWeights

_MAX_SKIPPED = 20
"""Steps in a row; the scale begins at 65,536, and each step that is skipped halves it."""


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
    images: int
    """Slices that were trained on until then, each as often as it was seen."""
    loss: float
    terms: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True)
class Batch:
    """What a step sees: its slices, and its random numbers from there on."""

    images: Tensor
    masks: Tensor
    random: BatchRandom


class Trainer:
    """A run in a folder: the network, its average, the optimiser and the step number.

    Attributes
    ----------
    loads_ahead : bool
        Whether :meth:`loading_ahead` does; not on the CPU, which has nothing to wait for.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        cache: SliceCache,
        device: torch.device,
        provenance: dict[str, Any],
        processes: Processes = ONE_PROCESS,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self._cache, self._provenance, self._processes = cache, dict(provenance), processes
        objective = make_objective(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = objective.make_network()
        for module in self.network.modules():
            if isinstance(module, UNet):
                module.recompute = config.run.recompute_activations
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen: list[nn.Module] = []
        if isinstance(self.network, DiffusionModel) and not config.optimiser.train_prior_encoder:
            encoders = (self.network.prior_encoder, self.network.second_encoder)
            self._frozen = [encoder for encoder in encoders if encoder is not None]
        for encoder in self._frozen:
            encoder.requires_grad_(False)
        self._loss = processes.connect(TrainingLoss(self.network, objective))
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
        self._autocast_type = resolve_precision(config.run, device)
        self._scaler = torch.amp.GradScaler(
            device.type, enabled=self._autocast_type == torch.float16
        )
        self.loads_ahead = device.type != "cpu"
        self._batches: Prefetcher[Batch] | None = None
        self._n_skipped = 0  # steps in a row, by the scaler
        self.step = 0
        self.images = 0
        self.seconds = 0.0
        self.resumed_processes: int | None = None

    def resume(self) -> bool:
        """Go on from the folder's state, if it has one."""
        path = self.folder / STATE_NAME
        if not path.exists():
            return False
        record = load_state(path, self.network, self.ema, self._optimiser)
        self.step, self.seconds = int(record["step"]), float(record["seconds"])
        self.images = count_images(record)
        # Whoever was trained on before is known to the weights, whatever the split says now.
        self._provenance["training_patients"] = sorted(
            find_training_patients(record["provenance"])
            | {*self._provenance.get("training_patients", ())}
        )
        for origin in {*ORIGINS} & set(record["provenance"]):
            self._provenance[origin] = record["provenance"][origin]
        self.resumed_processes = int(record.get("processes", 1))
        if "loss_scale" in record:
            self._scaler.load_state_dict(record["loss_scale"])
        return True

    def start_from(self, initial: InitialWeights) -> None:
        """Begin with the weights of a model, as their average too; its record is kept."""
        weights = {**self.network.state_dict(), **initial.weights}
        self.network.load_state_dict(weights)
        self.ema.load(weights)
        self._provenance |= initial.origins

    def save(self) -> Path:
        """Write the folder's state: the main process does, for all."""
        path = self.folder / STATE_NAME
        if self._processes.is_main:
            save_state(path, self.network, self.ema, self._optimiser, self.record())
        return path

    def record(self) -> dict[str, Any]:
        """Return what belongs to the weights as JSON: step, configuration, provenance."""
        record = {
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "processes": self._processes.count,
            "config": config_values(self.config),
            "provenance": self._provenance,
        }
        if self._scaler.is_enabled():
            record["loss_scale"] = self._scaler.state_dict()
        return record

    def run_step(self) -> StepResult:
        """Take one optimiser step."""
        started = time.perf_counter()
        config = self.config
        parts = config.run.accumulate
        batches = self._batches
        batch = self._load_batch(self.step) if batches is None else batches.take(self.step)
        rate = compute_learning_rate(self.step, config.optimiser, config.run.total_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        for encoder in self._frozen:
            encoder.eval()
        self._optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part, (image, mask) in enumerate(
            zip(batch.images.chunk(parts), batch.masks.chunk(parts), strict=True), start=1
        ):
            with self._processes.keeping_gradients(self._loss, wanted=part < parts):
                terms = self._loss(
                    self._to_device(image), self._to_device(mask), batch.random, self._autocast
                )
                loss = torch.stack(list(terms.values())).sum() / parts
                torch.autograd.backward(self._scaler.scale(loss))
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach() / parts
        self._scaler.unscale_(self._optimiser)
        limit = config.optimiser.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.step += 1
        self.images += config.run.batch_size
        self.ema.update(self.network, self.step)
        values = self._processes.mean(torch.stack(list(sums.values()))).tolist()
        gradient_norm = float(norm)
        # The numbers are there: an accelerator, which is only told what to do, is done.
        seconds = time.perf_counter() - started
        self.seconds += seconds
        terms = dict(zip(sums, values, strict=True))
        return StepResult(self.step, self.images, sum(values), terms, rate, gradient_norm, seconds)

    def _load_batch(self, step: int) -> Batch:
        """Prepare the batch of a step: a pure function of the seed and the step."""
        config = self.config
        random = BatchRandom(
            step_generator(config.run.seed, step),
            self._processes.share,
            groups=config.run.accumulate,
        )
        images, masks = load_batch(self._cache, self._plan, step, config.augmentation, random)
        if self._is_pinned:
            with torch.cuda.device(self.device):  # a thread begins on the first one
                images, masks = images.pin_memory(), masks.pin_memory()
        return Batch(images, masks, random)

    @property
    def _is_pinned(self) -> bool:
        return self.device.type == "cuda"

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=self._is_pinned)

    @contextlib.contextmanager
    def loading_ahead(self) -> Iterator[None]:
        """Prepare each batch while the step before is taken, where that saves time."""
        if not self.loads_ahead:
            yield
            return
        with Prefetcher(self._load_batch, self.config.run.total_steps) as batches:
            self._batches = batches
            try:
                yield
            finally:
                self._batches = None

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
            Whether the last step was reached; False if ``should_stop`` (asked after each step, of
            every process) ended the run, whose state is then saved.

        Raises
        ------
        FloatingPointError
            If a loss or a gradient is not finite; the state on the disk is the last good one.
        """
        with self.loading_ahead():
            return self._train(on_step, on_validation, should_stop)

    def _train(
        self,
        on_step: Callable[[StepResult], None],
        on_validation: Callable[[Trainer], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        run = self.config.run
        while self.step < run.total_steps:
            if self._processes.any(should_stop()):
                self.save()
                return False
            result = self.run_step()
            self._check_finite(result)
            on_step(result)
            if self.step == run.total_steps or self.step % run.checkpoint_every == 0:
                self.save()
            if self.is_validation_step():
                self._optimiser.zero_grad(set_to_none=True)  # as large as the network
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
        self._n_skipped = 0 if math.isfinite(result.gradient_norm) else self._n_skipped + 1
        if self._scaler.is_enabled() and self._n_skipped >= _MAX_SKIPPED:
            raise FloatingPointError(
                f"The gradients of the last {self._n_skipped} steps, up to {result.step}, were not "
                f"finite in float16. The last state in {self.folder} is intact: resume with "
                'run.precision="bfloat16" or "float32".'
            )
        for name, value, matters in (
            ("loss", result.loss, True),
            ("gradient", result.gradient_norm, gradient_matters),
        ):
            if matters and not math.isfinite(value):
                raise FloatingPointError(
                    f"The {name} of step {result.step} is not finite. The last state in "
                    f"{self.folder} is intact: lower optimiser.learning_rate and resume."
                )
