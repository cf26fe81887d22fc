from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.augmentation import MAX_MARGIN, augment, paste_tumours
from training.config import AugmentationConfig
from training.shares import BatchRandom

OFF = AugmentationConfig(**dict.fromkeys(AugmentationConfig.__dataclass_fields__, 0.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(seed: int = 0) -> BatchRandom:
    return BatchRandom(generator(seed))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Give eight brains of 40x30 voxels in slices of 64x48, with a square tumour."""
    images = torch.zeros(8, 4, 64, 48)
    images[..., 12:52, 9:39] = torch.rand((8, 4, 40, 30), generator=generator(1)) * 0.8 + 0.2
    masks = torch.zeros(8, 1, 64, 48)
    masks[..., 20:30, 12:26] = 1.0
    return images, masks


def test_nothing_switched_on_changes_nothing(batch: tuple[Tensor, Tensor]) -> None:
    images, masks = augment(*batch, OFF, numbers())
    torch.testing.assert_close(images, batch[0], atol=1e-5, rtol=0)
    assert torch.equal(masks, batch[1])


def test_image_and_mask_move_together(batch: tuple[Tensor, Tensor]) -> None:
    _, masks = batch
    moves = AugmentationConfig(**{**vars(AugmentationConfig()), **intensities_off()})
    as_image, as_mask = augment(masks.expand(-1, 4, -1, -1), masks, moves, numbers())
    assert not torch.equal(as_mask, masks)
    for modality in range(4):
        assert torch.equal((as_image[:, modality : modality + 1] > 0.5).float(), as_mask)


def intensities_off() -> dict[str, float]:
    names = ("log_gamma", "gain", "offset", "bias", "noise", "blur", "low_resolution")
    return dict.fromkeys((*names, "modality_dropout"), 0.0)


def test_background_stays_zero_and_intensities_in_range(batch: tuple[Tensor, Tensor]) -> None:
    moves_off = dict.fromkeys(
        ("flip", "rotation_deg", "log_scale", "shear", "shift_voxels", "elastic_voxels"), 0.0
    )
    strong = AugmentationConfig(**{**moves_off, "offset": 0.5, "noise": 0.5, "blur": 1.0})
    images, _ = augment(*batch, strong, numbers())
    background = (batch[0] == 0).all(1, keepdim=True).expand_as(images)
    # Interpolation at the identity leaves at most rounding errors outside of the brain.
    assert images[background].max() < 1e-4
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    assert (images - batch[0]).abs().mean() > 0.05


def test_masks_stay_binary(batch: tuple[Tensor, Tensor]) -> None:
    _, masks = augment(*batch, AugmentationConfig(), numbers())
    assert set(masks.unique().tolist()) == {0.0, 1.0}


def test_at_least_one_modality_is_kept(batch: tuple[Tensor, Tensor]) -> None:
    always = AugmentationConfig(**{**vars(OFF), "modality_dropout": 1.0})
    images, _ = augment(*batch, always, numbers())
    assert (images.flatten(2).amax(2) > 0).any(1).all()


def test_modalities_are_dropped_as_often_as_it_says() -> None:
    half = AugmentationConfig(**{**vars(OFF), "modality_dropout": 0.5})
    images, _ = augment(torch.ones(400, 4, 32, 32), torch.zeros(400, 1, 32, 32), half, numbers())
    n_kept = (images.flatten(2).amax(2) > 0).sum(1)
    # All four missing (1 / 16) is turned into all four kept.
    assert n_kept.min() == 1
    assert (4 - n_kept).float().mean() == pytest.approx(2.0 - 4 / 16, abs=0.15)


def test_a_pasted_tumour_brings_its_mask_and_its_surroundings() -> None:
    images, donors = torch.full((64, 4, 40, 40), 0.3), torch.full((64, 4, 40, 40), 0.9)
    images[..., :8] = 0.0  # no brain there: nothing is pasted
    masks, donor_masks = torch.zeros(64, 1, 40, 40), torch.zeros(64, 1, 40, 40)
    masks[..., 30:35, 30:35] = 1.0
    donor_masks[:48, :, 18:22, 4:14] = 1.0  # the last ones have no tumour to give
    before = images.clone(), masks.clone()
    pasted, labels = paste_tumours(images, masks, donors, donor_masks, 0.5, numbers())
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    changed = (pasted != images).flatten(1).any(1)
    assert 12 < changed.sum() < 36
    assert not changed[48:].any()
    assert torch.equal(labels[~changed], masks[~changed])
    inside = donor_masks[changed][:, 0] > 0
    inside[..., :8] = False
    assert (labels[changed][:, 0][inside] == 1).all()
    assert (labels[changed].sum((1, 2, 3)) == 25 + 4 * 6).all()
    taken = pasted[changed] == 0.9
    assert taken.all(1).any(0)[19, 15]
    assert not taken[..., :8].any()
    # The margin differs from slice to slice, up to 8 voxels.
    rows = taken[:, 0].any(2).sum(1)
    assert len(rows.unique()) > 3
    assert rows.max() <= 4 + 2 * MAX_MARGIN


def test_a_coarse_slice_has_lost_detail_and_keeps_its_size(batch: tuple[Tensor, Tensor]) -> None:
    always = AugmentationConfig(**{**vars(OFF), "low_resolution": 1.0})
    images, masks = augment(*batch, always, numbers())
    assert images.shape == batch[0].shape
    assert torch.equal(masks, batch[1])
    inside = (slice(None), slice(None), slice(14, 50), slice(11, 37))
    assert images[inside].std() < 0.8 * batch[0][inside].std()
    torch.testing.assert_close(images[inside].mean(), batch[0][inside].mean(), atol=0.02, rtol=0)


def test_same_generator_same_result(batch: tuple[Tensor, Tensor]) -> None:
    config = AugmentationConfig()
    one, two, other = (augment(*batch, config, numbers(seed)) for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_input_is_left_alone(batch: tuple[Tensor, Tensor]) -> None:
    before = batch[0].clone(), batch[1].clone()
    augment(*batch, AugmentationConfig(), numbers())
    assert torch.equal(batch[0], before[0])
    assert torch.equal(batch[1], before[1])


def test_flip_is_left_right(batch: tuple[Tensor, Tensor]) -> None:
    always = AugmentationConfig(**{**vars(OFF), "flip": 1.0})
    images, masks = augment(*batch, always, numbers())
    torch.testing.assert_close(images, batch[0].flip(-1), atol=1e-5, rtol=0)
    assert torch.equal(masks, batch[1].flip(-1))


def with_neighbours(batch: tuple[Tensor, Tensor]) -> Tensor:
    """Slice, one above, one below: told apart by their intensity."""
    return torch.cat([batch[0] * factor for factor in (1.0, 0.5, 0.25)], 1)


@pytest.mark.parametrize(
    ("change", "factors"),
    [({"context_swap": 1.0}, (1.0, 0.25, 0.5)), ({"context_dropout": 1.0}, (1.0, 1.0, 1.0))],
)
def test_neighbours_are_swapped_or_replaced(
    batch: tuple[Tensor, Tensor], change: dict[str, float], factors: tuple[float, ...]
) -> None:
    config = AugmentationConfig(**{**vars(OFF), **change})
    images, masks = augment(with_neighbours(batch), batch[1], config, numbers())
    expected = torch.cat([batch[0] * factor for factor in factors], 1)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)
    assert torch.equal(masks, batch[1])


def test_neighbours_are_changed_like_the_slice(batch: tuple[Tensor, Tensor]) -> None:
    config = AugmentationConfig(**{**vars(AugmentationConfig()), "noise": 0.0, "blur": 0.0,
        "low_resolution": 0.0, "context_swap": 0.0, "context_dropout": 0.0,
        "modality_dropout": 0.5})  # fmt: skip
    images, _ = augment(batch[0].repeat(1, 3, 1, 1), batch[1], config, numbers())
    assert torch.equal(images[:, :4], images[:, 4:8])
    assert torch.equal(images[:, :4], images[:, 8:])
    assert not torch.equal(images[:, :4], batch[0])


def test_each_change_of_neighbours_is_as_frequent_as_it_says() -> None:
    slices = torch.tensor([1.0, 0.5, 0.25]).repeat_interleave(4).view(1, 12, 1, 1)
    images = slices.expand(2000, 12, 16, 16)
    config = AugmentationConfig(**{**vars(OFF), "context_swap": 0.4, "context_dropout": 0.15})
    above = augment(images, torch.zeros(2000, 1, 16, 16), config, numbers())[0][:, 4, 8, 8]
    assert (above - 0.25).abs().lt(0.01).float().mean() == pytest.approx(0.4, abs=0.04)
    assert (above - 1.0).abs().lt(0.01).float().mean() == pytest.approx(0.15, abs=0.03)
