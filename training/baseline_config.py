"""Settings of the systems that the diffusion ensemble is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.segnet import SegNetConfig
from napari_diffseg.core.unet import UNetConfig


@dataclass(frozen=True)
class BaselineConfig:
    """A network that answers at once, from the image to the mask, without any diffusion."""

    segnet: SegNetConfig | None = None
    unet: UNetConfig | None = None
    sample_dropout: bool = False
    """Whether dropout stays on after training, so that every pass is another member (Gal and
    Ghahramani 2016, 1506.02142)."""

    def __post_init__(self) -> None:
        if (self.segnet is None) == (self.unet is None):
            raise ParameterError("A baseline is either [baseline.segnet] or [baseline.unet].")
        if self.unet is not None and (
            self.unet.time_conditioned or self.unet.out_channels != 1 or self.unet.context_channels
        ):
            raise ParameterError(
                "The U-Net of a baseline has one output channel, no timestep "
                "(time_conditioned = false) and no context_channels."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ParameterError(f"Dropout must be from 0 to less than 1, not {self.dropout}.")
        if self.sample_dropout and not self.dropout:
            raise ParameterError("sample_dropout needs dropout: all members would be the same.")

    @property
    def dropout(self) -> float:
        """Share of the activations that dropout removes."""
        network = self.unet or self.segnet
        assert network is not None
        return network.dropout

    @property
    def stride(self) -> int:
        """Factor by which height and width of a slice must be divisible."""
        return 1 if self.unet is None else self.unet.stride

    @property
    def system(self) -> str:
        """Name of the system: its row of the table."""
        if self.unet is not None:
            return "mc_dropout_unet" if self.sample_dropout else "unet"
        return "bayesian_segnet" if self.sample_dropout else "segnet"
