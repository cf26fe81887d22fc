"""nnU-Net's trainer with a length that is part of its name, and a record of what it has cost.

``nnUNetTrainer_20epochs_50iterations`` trains 20 epochs of 50 iterations (nnU-Net's own: 1000 of
250) and is nnU-Net's default trainer otherwise, save for bfloat16 on a CPU. The length is in the
name because nnU-Net keeps results by it. nnU-Net looks for a class in every module of this folder,
so the module makes the class that it is asked for.
"""

from __future__ import annotations

import functools
import json
import os
import re
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_NAME = re.compile(r"nnUNetTrainer_(\d+)epochs_(\d+)iterations")
EFFORT_NAME = "effort.json"


class _Timed(nnUNetTrainer):
    epochs, iterations = 1000, 250

    # nnU-Net reads the names of these arguments and keeps them in its checkpoints.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - as in nnU-Net
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.epochs
        self.num_iterations_per_epoch = self.iterations
        self.num_val_iterations_per_epoch = max(1, self.iterations // 5)
        # A state every 50 epochs would be none at all in a short training.
        self.save_every = max(1, min(50, self.epochs // 10))
        self._ends: list[float] = []

    def initialize(self) -> None:
        """Build the network; on a CPU with bfloat16 units it computes in bfloat16.

        nnU-Net's own mixed precision is for CUDA only. Losses and weights stay float32.
        """
        super().initialize()
        cpu = torch.cpu  # there are no public names for these
        if self.device.type != "cpu" or not (
            cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported()  # noqa: SLF001
        ):
            return
        forward = self.network.forward

        def forward_in_bfloat16(images: torch.Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = forward(images)
            if isinstance(outputs, torch.Tensor):
                return outputs.float()
            return [output.float() for output in outputs]  # one for each level of supervision

        self.network.forward = forward_in_bfloat16

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take the step, and remember when it ended."""
        result: dict[str, Any] = super().train_step(batch)
        self._ends.append(time.monotonic())
        return result

    def on_train_end(self) -> None:
        """Write what the fold has cost beside its checkpoint."""
        super().on_train_end()
        times = [after - before for before, after in pairwise(self._ends)]
        effort = {
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "images_seen": self.epochs * self.iterations * self.batch_size,
            # The median, so that validations between epochs do not count.
            "seconds_per_iteration": statistics.median(times) if times else None,
        }
        path = Path(self.output_folder) / EFFORT_NAME
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(json.dumps(effort) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Do nothing: `training.evaluate` measures, on the cases that it measures for all."""


@functools.cache
def __getattr__(name: str) -> type[nnUNetTrainer]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise AttributeError(name)
    epochs, iterations = map(int, match.groups())
    return type(name, (_Timed,), {"epochs": epochs, "iterations": iterations})
