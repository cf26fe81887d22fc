"""The processes that train one model together, and what they tell each other.

``accelerate launch -m training.train ...`` (or torchrun) starts the same command several times, on
one machine or on many. Hugging Face Accelerate connects the processes; a run that is started
without it is one process, and does not import it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from napari_diffseg.core.errors import DiffsegError, ParameterError
from napari_diffseg.core.segment import resolve_device
from training.shares import Share

# What torchrun and `accelerate launch` set, and what MPI does.
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_OTHER_WAYS = ("DEEPSPEED", "FSDP", "MEGATRON_LM")

_T = TypeVar("_T")


class Processes:
    """The processes of a run; the methods are called by all of them at the same point.

    Parameters
    ----------
    accelerator
        The ``accelerate.Accelerator`` that connects them; None: there is one process.

    Attributes
    ----------
    share : Share
        What is this process's own of each batch.
    is_main : bool
        Whether this process is the one that writes files and talks to the user.
    """

    def __init__(self, accelerator: Any | None = None) -> None:
        self._accelerator = accelerator
        self.share = Share()
        if accelerator is not None:
            self.share = Share(accelerator.process_index, accelerator.num_processes)
        self.is_main = self.share.index == 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self.share.count

    @property
    def prefix(self) -> str:
        """What a message of this process begins with; nothing if it can only be from one."""
        return "" if self.is_main else f"Process {self.share.index + 1} of {self.count}: "

    def connect(self, module: nn.Module) -> nn.Module:
        """Return a module whose forward pass gives all processes the mean of their gradients."""
        if self._accelerator is None:
            return module
        # A batch has one mean and one variance, in however many shares it is.
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        connected: nn.Module = self._accelerator.prepare_model(module)
        return connected

    def keeping_gradients(self, module: nn.Module, *, wanted: bool) -> AbstractContextManager[Any]:
        """Leave out the exchange of gradients, ``wanted`` before the last part of a batch."""
        if self._accelerator is None or not wanted:
            return nullcontext()
        kept: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return kept

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes."""
        if self._accelerator is None:
            return values
        mean: Tensor = self._accelerator.reduce(values, "mean")
        return mean

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in one of them."""
        if self._accelerator is None:
            return flag
        flags = torch.tensor(float(flag), device=self._accelerator.device)
        return bool(self._accelerator.reduce(flags, "sum") > 0)

    def gather(self, item: _T) -> list[_T]:
        """Return what each of them has, in their order."""
        if self._accelerator is None:
            return [item]
        from accelerate.utils import gather_object

        items: list[_T] = gather_object([item])
        return items

    def wait(self) -> None:
        """Wait for the slowest."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Make an error in one process the end of all, so that none waits for the lost one.

        Raises
        ------
        DiffsegError
            In the main process, which tells the user.
        SystemExit
            In the others.
        """
        error: DiffsegError | OSError | None = None
        try:
            yield
        except (DiffsegError, OSError) as caught:
            error = caught
        messages = self.gather(None if error is None else f"{self.prefix}{error}")
        first = next((message for message in messages if message is not None), None)
        if first is None:
            return
        self.leave()
        if not self.is_main:
            raise SystemExit(1)
        raise error or DiffsegError(first)

    def have_lost_one(self, error: RuntimeError) -> bool:
        """Whether an error is only that another process has ended."""
        return self.count > 1 and (
            isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)
        )

    def leave(self) -> None:
        """Part in an orderly way, when all do."""
        if self._accelerator is not None:
            self._accelerator.end_training()


ONE_PROCESS = Processes()


def join_processes(device_name: str) -> tuple[Processes, torch.device]:
    """Find the other processes, if there are any, and return them with this one's device.

    Parameters
    ----------
    device_name
        What the user chose; with several processes ``cuda`` and ``auto`` give each its own GPU.

    Raises
    ------
    ParameterError
        If there is no such device, or several processes cannot share it.
    DiffsegError
        If Accelerate is not installed.
    """
    device = resolve_device(device_name)
    count = max(int(os.environ.get(name, "1")) for name in _COUNTS)
    if count == 1:
        return ONE_PROCESS, device
    if device.type not in ("cpu", "cuda") or ":" in device_name:
        raise ParameterError(
            f"{count} processes cannot train on the device {device_name}: leave --device away, or "
            "say cuda (each process takes a GPU of its own) or cpu."
        )
    for way in _OTHER_WAYS:
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true":
            raise ParameterError(
                f"Accelerate is configured for {way}, which shards the network. Here each process "
                "has all of it: choose plain multi-GPU training in `accelerate config`."
            )
    accelerator = _make_accelerator(device)
    if accelerator.num_processes != count:
        raise ParameterError(
            f"{count} processes were started, but Accelerate finds {accelerator.num_processes}."
        )
    return Processes(accelerator), device if device.type == "cpu" else accelerator.device


def _make_accelerator(device: torch.device) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise DiffsegError(
            "Several processes need Accelerate, which is not installed: "
            'pip install -c constraints.txt -e ".[training]"'
        ) from error
    # Precision and accumulation are the run's own (Trainer), whatever `accelerate config` says.
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        dynamo_backend="no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
