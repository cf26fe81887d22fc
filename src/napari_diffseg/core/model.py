"""The diffusion model: a denoiser that sees the image prior at every step.

``paper``: the MR image itself is concatenated to the noised mask, as published. ``fast``: an
encoder U-Net reads the image once per slice (it is the same at every step); its features and its
own mask logits are what is concatenated, and a light denoiser corrects these logits. A second
encoder, of another family, may answer beside it: members of odd number begin from its logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_diffseg.core.diffusion import Denoised, Denoiser, DiffusionConfig, decode_output
from napari_diffseg.core.errors import ParameterError
from napari_diffseg.core.schedule import NoiseSchedule
from napari_diffseg.core.segnet import SegNet, SegNetConfig
from napari_diffseg.core.unet import UNet, UNetConfig


@dataclass(frozen=True)
class ModelConfig:
    """Networks of a diffusion model; the defaults are the published one."""

    denoiser: UNetConfig = UNetConfig()
    """The network that is run at every step."""
    prior_encoder: UNetConfig | None = None
    """The network that is run once per slice; None: the image itself is concatenated."""
    second_encoder: SegNetConfig | None = None
    """A network of another family, whose mask logits take the place of the prior encoder's for
    every second member; None: all members begin from the same."""

    def __post_init__(self) -> None:
        encoder, denoiser = self.prior_encoder, self.denoiser
        if not denoiser.time_conditioned:
            raise ParameterError("The denoiser must be conditioned on the timestep.")
        if encoder is None:
            if self.second_encoder is not None:
                raise ParameterError("A second encoder needs a prior encoder beside it.")
            return
        if encoder.time_conditioned or encoder.out_channels != 1:
            raise ParameterError("The prior encoder has one output channel and no timestep.")
        if denoiser.patch_size % encoder.patch_size or denoiser.in_channels != 2:
            raise ParameterError(
                "The denoiser's patch_size must be a multiple of the encoder's, and it needs two "
                "channels (noised mask and prior logits)."
            )
        features = encoder.base_channels * encoder.channel_multipliers[0]
        features *= self.features_patch_size**2
        if denoiser.context_channels != features:
            raise ParameterError(f"The denoiser's context_channels must be {features}.")

    @property
    def features_patch_size(self) -> int:
        """Factor of the pixel-unshuffle from the encoder's features to the denoiser's grid."""
        encoder = self.prior_encoder
        return 1 if encoder is None else self.denoiser.patch_size // encoder.patch_size

    @property
    def n_prior_channels(self) -> int:
        """Channels of the image prior: modalities of the slice, and of its neighbours if any."""
        if self.prior_encoder is not None:
            return self.prior_encoder.in_channels
        return self.denoiser.in_channels - 1

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the networks whose answers members begin from, in turn; none in ``paper``."""
        names = (("U-Net", self.prior_encoder), ("SegNet", self.second_encoder))
        return tuple(name for name, encoder in names if encoder is not None)

    @property
    def stride(self) -> int:
        """Factor by which height and width of a slice must be divisible."""
        encoder = 1 if self.prior_encoder is None else self.prior_encoder.stride
        return max(encoder, self.denoiser.stride)


@dataclass(frozen=True)
class EncodedPrior:
    """What the denoiser is given of the image, computed once per slice.

    Attributes
    ----------
    image : (B, C, Y, X)
        Concatenated to the noised mask: the MR image, or the encoder's logits (C = 1).
    features : (B, F, Y / patch_size, X / patch_size) or None
        On the denoiser's grid; concatenated after its stem's pixel-unshuffle.
    second : (B, 1, Y, X) or None
        The second encoder's logits; see :meth:`with_second`.
    """

    image: Tensor
    features: Tensor | None = None
    second: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> EncodedPrior:
        def take(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[index]

        return EncodedPrior(self.image[index], take(self.features), take(self.second))

    def with_second(self, chosen: Tensor) -> EncodedPrior:
        """Return this with the second encoder's logits where ``chosen``, (B,) bool, says so.

        Without a second encoder it is the same.
        """
        if self.second is None:
            return self
        image = torch.where(chosen[:, None, None, None], self.second, self.image)
        return EncodedPrior(image, self.features)


class DiffusionModel(nn.Module):
    """Networks and diffusion of one model; see :class:`ModelConfig` for its two forms."""

    def __init__(self, config: ModelConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        if config.denoiser.out_channels != diffusion.out_channels:
            raise ParameterError(
                f"The denoiser has {config.denoiser.out_channels} output channels, the diffusion "
                f"needs {diffusion.out_channels}."
            )
        if config.prior_encoder is not None and diffusion.prediction != "x_0":
            raise ParameterError("A prior encoder needs x_0 prediction.")
        self.config = config
        self.diffusion = diffusion
        self.denoiser = UNet(config.denoiser)
        self.prior_encoder = None if config.prior_encoder is None else UNet(config.prior_encoder)
        self.second_encoder: SegNet | None = None
        if config.second_encoder is not None:
            self.second_encoder = SegNet(config.second_encoder, config.n_prior_channels)

    def encode_prior(self, prior_image: Tensor, *, ask_second: bool = True) -> EncodedPrior:
        """Return what the denoiser needs of ``prior_image`` (B, n_prior_channels, Y, X).

        Without ``ask_second`` the second encoder, if there is one, is spared its work.
        """
        if self.prior_encoder is None:
            return EncodedPrior(prior_image)
        features = self.prior_encoder.compute_features(prior_image)
        logits = self.prior_encoder.predict(features)
        second: Tensor | None = None
        if self.second_encoder is not None and ask_second:
            second = self.second_encoder(prior_image)
        features = F.pixel_unshuffle(features, self.config.features_patch_size)
        return EncodedPrior(logits, features, second)

    def forward(self, x_t: Tensor, t: Tensor, prior: EncodedPrior) -> Tensor:
        """Return the raw output (B, out_channels, Y, X) at timesteps ``t`` (B,)."""
        if self.prior_encoder is None:
            out: Tensor = self.denoiser(torch.cat([prior.image, x_t], dim=1), t)
            return out
        # Logits are squashed as an input (their scale grows without limit during training) and
        # enter the sum as they are, so the denoiser starts from the encoder's answer.
        squashed = torch.tanh(prior.image.float() / 4.0).to(prior.image.dtype)
        pair = torch.cat([x_t.to(squashed.dtype), squashed], dim=1)
        correction: Tensor = self.denoiser(pair, t, prior.features)
        return prior.image + correction

    def bind(self, prior: EncodedPrior) -> Denoiser:
        """Return the denoiser of one batch of slices, as samplers take it."""

        def denoise(x_t: Tensor, row: Tensor, schedule: NoiseSchedule) -> Denoised:
            t = torch.from_numpy(schedule.timesteps)[row.cpu()].to(x_t.device)
            return decode_output(self(x_t, t, prior), x_t, row, schedule, self.diffusion)

        return denoise


def begins_from_second(member: int) -> bool:
    """Return whether a member begins from the second encoder's answer, where the model has one."""
    return member % 2 == 1


def fast_model_config(
    encoder_channels: int = 64,
    denoiser_channels: int = 64,
    encoder_multipliers: tuple[int, ...] = (1, 2, 4),
    denoiser_multipliers: tuple[int, ...] = (1, 2),
    n_prior_channels: int = 4,
    patch_size: int = 4,
) -> ModelConfig:
    """Return the networks of the ``fast`` preset."""
    encoder = UNetConfig(
        in_channels=n_prior_channels,
        out_channels=1,
        base_channels=encoder_channels,
        channel_multipliers=encoder_multipliers,
        n_res_blocks=2,
        attention_factors=(),
        patch_size=patch_size,
        time_conditioned=False,
        n_groups=8,
    )
    denoiser = UNetConfig(
        in_channels=2,
        out_channels=1,
        base_channels=denoiser_channels,
        channel_multipliers=denoiser_multipliers,
        n_res_blocks=1,
        attention_factors=(),
        middle_attention=False,
        patch_size=patch_size,
        context_channels=encoder_channels * encoder_multipliers[0],
        n_groups=8,
    )
    return ModelConfig(denoiser, encoder)


def fast_diffusion_config() -> DiffusionConfig:
    """Return the diffusion of the ``fast`` preset."""
    return DiffusionConfig(
        schedule="cosine", prediction="x_0", variance="fixed_small", signal=(-0.2, 0.2)
    )
