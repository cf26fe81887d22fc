"""Case, model and parameters in; a stream of events out. Everybody drains this one generator."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_diffseg.core.brats import Case
from napari_diffseg.core.checkpoint import LoadedModel
from napari_diffseg.core.convergence import StabilityWatch, plan_rounds
from napari_diffseg.core.diffusion import Denoiser, decode_probability
from napari_diffseg.core.errors import DiffsegError, ParameterError
from napari_diffseg.core.events import (
    Cancelled,
    CancelToken,
    Downgraded,
    Event,
    Failed,
    Finished,
    MemberDone,
    SampleDone,
    Started,
    StepDone,
)
from napari_diffseg.core.levels import encode_probability
from napari_diffseg.core.model import ModelConfig, begins_from_second
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.preprocessing import PreparedCase, prepare_case
from napari_diffseg.core.sampling import iter_sample
from napari_diffseg.core.schedule import NoiseSchedule
from napari_diffseg.core.views import View, apply_views, choose_view

# Larger batches gain nothing (CPU) or little (GPU), and delay the first sample.
_LARGEST_BATCH = {"cpu": 10, "cuda": 64, "mps": 16}


@dataclass(frozen=True)
class _Job:
    """One member of one slice."""

    member: int
    z: int
    view: View


def segment(
    case: Case,
    model: LoadedModel,
    params: SegmentParams,
    cancel: CancelToken | None = None,
    prepared: PreparedCase | None = None,
) -> Iterator[Event]:
    """Draw members of the ensemble for a case; report everything as events.

    The first event is ``Started`` (or ``Failed``), the last one is ``Finished``, ``Cancelled`` or
    ``Failed``. Nothing is raised: errors, expected or not, become ``Failed``.

    A member of a slice depends on nothing but the model, the case, the sampler's parameters and
    (seed, member, source slice): not on the batch, the order or the number of other members.

    With ``mirror`` members of odd number see the slice mirrored left to right, and their masks are
    mirrored back; with ``vary_contrast`` every member but the first sees a contrast of its own
    (:mod:`napari_diffseg.core.views`).

    Of a model with a second encoder, members of odd number begin from that one's answer.

    With a ``tolerance`` members are completed one after the other, and the run ends with
    ``Converged`` and ``Finished`` as soon as the mask of their mean is stable. Only the members of
    this run count for that.

    Parameters
    ----------
    case, model, params
        What to segment, with what, and how.
    cancel
        Looked at before every sampling step.
    prepared
        The result of :func:`prepare_case` for this case and model, if it is at hand.
    """
    started = time.perf_counter()
    try:
        yield from _segment(case, model, params, cancel or CancelToken(), prepared, started)
    except DiffsegError as error:
        yield Failed(error, str(error))
    except Exception as error:  # Anything else is a defect, but the user must hear of it.
        yield Failed(error, f"{case.name}: sampling stopped ({type(error).__name__}: {error}).")


def _segment(
    case: Case,
    model: LoadedModel,
    params: SegmentParams,
    cancel: CancelToken,
    prepared: PreparedCase | None,
    started: float,
) -> Iterator[Event]:
    device = resolve_device(params.device)
    if prepared is None:
        prepared = prepare_case(case, model.preprocessing)
    order = order_slices(prepared.z_indices, params.z_range, params.priority_z)
    if not order:
        raise ParameterError(
            f"{case.name}: there is no brain in the chosen slices. Choose slices that show brain."
        )
    network = model.network
    schedule = network.diffusion.make_schedule().respaced(
        params.n_steps or model.card.recommended_steps
    )
    card = model.card
    mirror = card.mirror_members if params.mirror is None else params.mirror
    vary_contrast = card.vary_contrast if params.vary_contrast is None else params.vary_contrast
    views = {
        member: choose_view(params.seed, member, mirror=mirror, vary_contrast=vary_contrast)
        for member in params.members
    }
    rounds = _plan_jobs(order, params, views)
    sample_mb = estimate_sample_mb(network.config, prepared.window.shape)
    batch_size = int(np.clip(params.memory_budget_mb / sample_mb, 1, _largest_batch(device)))
    yield Started(
        z_indices=tuple(order),
        members=tuple(params.members),
        n_steps=len(schedule),
        device=str(device),
        batch_size=batch_size,
        n_network_calls=sum(map(len, rounds)) * len(schedule),
        mirror=mirror,
        vary_contrast=vary_contrast,
    )
    missing = {member: len(order) for member in params.members}
    rows = {int(z): row for row, z in enumerate(prepared.z_indices)}
    watch = StabilityWatch(order, params.tolerance, params.watched_threshold, params.watched_of)
    for jobs in rounds:
        while jobs:
            batch = _take_batch(jobs, batch_size)
            try:
                network.to(device)
                final: Tensor | None = None
                states = _iter_batch(
                    case, model, params, schedule, prepared, rows, batch, device, cancel
                )
                for step, x_t in enumerate(states, start=1):
                    yield StepDone(step, len(schedule), len(batch))
                    final = x_t
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                device, batch_size, message = _downgrade(error, device, len(batch))
                yield Downgraded(message, str(device), batch_size)
                continue
            if cancel.is_set() and (final is None or step < len(schedule)):
                yield Cancelled()
                return
            assert final is not None
            for job, probability in zip(
                batch, _finish_batch(final, model, prepared, batch), strict=True
            ):
                yield SampleDone(job.member, job.z, probability)
                watch.add(job.z, probability)
                missing[job.member] -= 1
                if not missing[job.member]:
                    yield MemberDone(job.member)
            del jobs[: len(batch)]
        if converged := watch.look():
            yield converged
            break
    yield Finished(time.perf_counter() - started)


def _plan_jobs(
    order: Sequence[int], params: SegmentParams, views: Mapping[int, View]
) -> list[list[_Job]]:
    """Return the jobs of each round; within one, all members of the first slice come first."""
    ends = list(plan_rounds(params.n_samples, params.tolerance))
    return [
        [_Job(m, z, views[m]) for z in order for m in params.members[first:end]]
        for first, end in itertools.pairwise([0, *ends])
    ]


def order_slices(
    z_indices: Sequence[int] | NDArray[np.int64],
    z_range: tuple[int, int] | None,
    priority_z: int | None,
) -> list[int]:
    """Return the slices to sample: the priority slice first, then outwards.

    Without a priority slice the order starts in the middle. A priority slice outside of the range
    or without brain stands for the nearest one that is sampled.
    """
    first, end = z_range if z_range is not None else (0, np.iinfo(np.int64).max)
    chosen = [int(z) for z in z_indices if first <= z < end]
    if not chosen:
        return []
    centre = chosen[len(chosen) // 2] if priority_z is None else priority_z
    return sorted(chosen, key=lambda z: (abs(z - centre), z))


def make_generator(seed: int, member: int, source_slice: int) -> torch.Generator:
    """Return the generator of one member of one slice.

    Always on the CPU, so that the noise is the same on every device.
    """
    sequence = np.random.SeedSequence([seed, member, source_slice])
    state = int(sequence.generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state % 2**63)


def resolve_device(name: str) -> torch.device:
    """Return the device that ``name`` stands for; ``auto``: CUDA, then MPS, then the CPU.

    Raises
    ------
    ParameterError
        If the device does not exist here.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ParameterError(f"Unknown device {name!r}: choose auto, cpu, cuda or mps.") from error
    available = {
        "cpu": True,
        "mps": has_mps,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not available.get(device.type, False):
        raise ParameterError(f"The device {name!r} is not available here. Choose 'auto' or 'cpu'.")
    return device


def has_accelerator() -> bool:
    """Whether there is another device than the CPU."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def estimate_sample_mb(config: ModelConfig, shape: tuple[int, int]) -> float:
    """Return an upper estimate of the working memory (MB) of one sample in a batch.

    Float32 feature maps: every skip connection is alive at once, beside about eight maps of the
    widest resolution that a residual block works on.
    """
    total = 0.0
    for unet in (config.denoiser, config.prior_encoder):
        if unet is None:
            continue
        area = shape[0] * shape[1] / unet.patch_size**2
        widths = [unet.base_channels * m for m in unet.channel_multipliers]
        skips = sum(w * (unet.n_res_blocks + 1) / 4**level for level, w in enumerate(widths))
        total += area * (skips + 8 * 2 * widths[0])
    if config.second_encoder is not None:
        # One level at a time: its input, its output, and where the maxima were.
        total += shape[0] * shape[1] * 4 * max(config.second_encoder.channels[0], 16)
    return total * 4 / 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device or the machine has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    hints = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    )
    return any(hint in text for hint in hints)


def _downgrade(
    error: BaseException, device: torch.device, batch_size: int
) -> tuple[torch.device, int, str]:
    """Return the next rung of the ladder: half the batch, then the CPU, then give up."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if batch_size > 1:
        smaller = batch_size // 2
        message = f"Memory ran out on {device}: going on with batches of {smaller}."
        return device, smaller, message
    if device.type != "cpu":
        message = f"Memory ran out on {device}: going on, more slowly, on the CPU."
        return torch.device("cpu"), 1, message
    raise error


def _largest_batch(device: torch.device) -> int:
    return _LARGEST_BATCH.get(device.type, 16)


def _take_batch(jobs: list[_Job], batch_size: int) -> list[_Job]:
    """Return the next jobs: as many whole slices as fit, or part of one slice."""
    batch = jobs[:batch_size]
    first_slice = [job for job in batch if job.z == batch[0].z]
    if len(batch) < len(jobs) and jobs[len(batch)].z == batch[-1].z:
        whole = [job for job in batch if job.z != batch[-1].z]
        return whole or first_slice
    return batch


def _iter_batch(
    case: Case,
    model: LoadedModel,
    params: SegmentParams,
    schedule: NoiseSchedule,
    prepared: PreparedCase,
    rows: dict[int, int],
    batch: Sequence[_Job],
    device: torch.device,
    cancel: CancelToken,
) -> Iterator[Tensor]:
    """Yield the state after each step; stop early when cancelled."""
    if cancel.is_set():
        return
    generators = [
        make_generator(params.seed, job.member, case.geometry.to_source_slice(job.z))
        for job in batch
    ]
    shape = (1, *prepared.window.shape)
    draw_noise = _noise_source(generators, shape, device)
    denoiser = _bind(model, prepared, rows, batch, device)
    for state in iter_sample(
        params.sampler, denoiser, schedule, draw_noise(), lambda _: draw_noise(), eta=params.eta
    ):
        yield state.x_t
        if cancel.is_set():
            return


def _noise_source(
    generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device
) -> Callable[[], Tensor]:
    def draw() -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)

    return draw


@torch.inference_mode()
def _bind(
    model: LoadedModel,
    prepared: PreparedCase,
    rows: Mapping[int, int],
    batch: Sequence[_Job],
    device: torch.device,
) -> Denoiser:
    """Encode each slice of the batch once in each view, and share it among members."""
    seen = [(rows[job.z], job.view) for job in batch]
    unique = list(dict.fromkeys(seen))
    images = torch.from_numpy(prepared.prior_images([row for row, _ in unique])).to(device)
    images = apply_views(images, [view for _, view in unique])
    images = images.contiguous(memory_format=torch.channels_last)
    is_second = [begins_from_second(job.member) for job in batch]
    prior = model.network.encode_prior(images, ask_second=any(is_second))
    index = torch.tensor([unique.index(one) for one in seen], device=device)
    return model.network.bind(prior[index].with_second(torch.tensor(is_second, device=device)))


@torch.inference_mode()
def _finish_batch(
    x_0: Tensor, model: LoadedModel, prepared: PreparedCase, batch: Sequence[_Job]
) -> list[NDArray[np.uint8]]:
    """Return each sample as 8-bit probability on the case's grid, 0 outside of the brain."""
    probability = decode_probability(x_0, model.network.diffusion)[:, 0].cpu().numpy()
    mirrored = np.array([job.view.is_mirrored for job in batch])
    probability[mirrored] = probability[mirrored, :, ::-1]
    restored = prepared.window.restore(probability)
    return [
        np.where(prepared.brain[job.z], encode_probability(p), np.uint8(0))
        for job, p in zip(batch, restored, strict=True)
    ]
