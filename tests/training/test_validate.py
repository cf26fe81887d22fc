from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_diffseg.core.errors import CaseError
from tests.models import TINY_SEGNET, tiny_network
from tests.training.tiny import VALIDATION, TinyData, tiny_config
from training.config import RunConfig
from training.previews import draw_preview, save_png
from training.validate import Validator, choose_slices, sample_slices

CPU = torch.device("cpu")
CONTEXT = dict.fromkeys(VALIDATION, (-2, 2))


@pytest.fixture
def run() -> RunConfig:
    return tiny_config("run.batch_size=2", "run.validation_samples=3").run


def test_slices_are_a_fixed_choice_with_tumour(tiny_data: TinyData) -> None:
    cache, chosen = choose_slices(tiny_data.cache, CONTEXT, 3, seed=0)
    _, again = choose_slices(tiny_data.cache, CONTEXT, 3, seed=0)
    assert np.array_equal(chosen, again)
    assert len(chosen) == 3
    assert cache.has_tumour[chosen].all()


def test_slices_are_the_papers_where_a_case_has_them(tmp_path: Path) -> None:
    numbers = np.arange(70, 140)
    np.save(tmp_path / "A.images.npy", np.full((70, 4, 16, 16), 200, np.uint8))
    np.save(tmp_path / "A.masks.npy", np.ones((70, 16, 16), np.uint8))
    np.save(tmp_path / "A.slices.npy", numbers)
    cache, chosen = choose_slices(tmp_path, {"A": ()}, 1000, seed=0)
    assert cache.source_slice[chosen].tolist() == list(range(80, 129))


def test_cases_without_tumour_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "A.images.npy", np.full((3, 4, 16, 16), 200, np.uint8))
    np.save(tmp_path / "A.masks.npy", np.zeros((3, 16, 16), np.uint8))
    np.save(tmp_path / "A.slices.npy", np.arange(3))
    with pytest.raises(CaseError, match="no slice of the validation cases has tumour"):
        choose_slices(tmp_path, {"A": ()}, 10, seed=0)


def test_member_is_the_same_in_any_batch(tiny_data: TinyData, run: RunConfig) -> None:
    validator = Validator(tiny_data.cache, CONTEXT, run)
    network = tiny_network(n_prior_channels=12).eval()
    images, _ = validator.cache.load(validator.indices)
    numbers = validator.cache.source_slice[validator.indices]
    many = sample_slices(network, images, numbers, n_samples=3, n_steps=2, seed=5)
    one = sample_slices(network, images[1:2], numbers[1:2], n_samples=2, n_steps=2, seed=5)
    np.testing.assert_allclose(one.members[:, 0], many.members[:2, 1], atol=1e-4)
    assert not np.allclose(many.members[0], many.members[1])


def test_noise_is_that_of_segment(tiny_data: TinyData, run: RunConfig) -> None:
    from napari_diffseg.core.brats import load_case
    from napari_diffseg.core.checkpoint import LoadedModel, ModelCard, prepare_network
    from napari_diffseg.core.events import SampleDone
    from napari_diffseg.core.params import SegmentParams
    from napari_diffseg.core.preprocessing import prepare_case
    from napari_diffseg.core.segment import segment

    settings = tiny_config().preprocessing
    network = prepare_network(tiny_network(n_prior_channels=12, second_encoder=TINY_SEGNET))
    model = LoadedModel(network, settings, ModelCard(), Path("tiny"), "")
    case = load_case(tiny_data.cases / VALIDATION[0])
    prepared = prepare_case(case, settings)
    row = len(prepared.z_indices) // 2
    z = int(prepared.z_indices[row])
    params = SegmentParams(n_samples=2, n_steps=2, seed=5, z_range=(z, z + 1), device="cpu")
    segmented = [e for e in segment(case, model, params) if isinstance(e, SampleDone)]
    images = torch.from_numpy(prepared.prior_images([row]))
    number = np.array([case.geometry.to_source_slice(z)])
    samples = sample_slices(network, images, number, n_samples=2, n_steps=2, seed=5)
    assert [sample.member for sample in segmented] == [0, 1]
    for sample, member in zip(segmented, samples.members, strict=True):
        restored = prepared.window.restore(member)[0]
        np.testing.assert_allclose(restored * 255.0, sample.probability, atol=1.0)


def test_perfect_and_useless_models_have_the_dice_they_deserve(
    tiny_data: TinyData, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = Validator(tiny_data.cache, CONTEXT, run)
    _, truth = validator.cache.load(validator.indices)
    network = tiny_network(n_prior_channels=12).eval()
    batches = iter(truth.split(run.batch_size))

    def answer(*_: object, **__: object) -> object:
        from training.validate import Samples

        right = next(batches)[:, 0].numpy()
        # Two members are right and one sees nothing: their mean is right.
        return Samples(np.stack([right, right, 0 * right]), 0 * right)

    monkeypatch.setattr("training.validate.sample_slices", answer)
    outcome = validator.validate(network, CPU)
    assert outcome is not None
    result, (images, shown, members) = outcome
    assert result.dice_single == pytest.approx(2 / 3)
    assert result.dice_ensemble == 1.0
    assert result.dice_prior == 0.0
    assert result.agreement == pytest.approx(1 / 3)
    assert result.n_slices == len(validator) == 4
    assert images.shape == (4, 12, 48, 48)
    assert members.shape == (3, 4, 48, 48)
    assert np.array_equal(shown, truth[:, 0].numpy() > 0.5)


def test_parts_of_a_batch_are_validated_one_after_the_other(
    tiny_data: TinyData, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny_network(n_prior_channels=12).eval()
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = Validator(tiny_data.cache, CONTEXT, run).validate(network, CPU)
    largest = max(sizes)
    sizes.clear()
    parts = replace(run, accumulate=run.batch_size)
    one_by_one = Validator(tiny_data.cache, CONTEXT, parts).validate(network, CPU)
    assert max(sizes) == 1 < largest  # what a card holds while it is trained
    assert whole is not None
    assert one_by_one is not None
    assert one_by_one[0].dice_single == pytest.approx(whole[0].dice_single, abs=0.01)


def test_validation_can_be_stopped(tiny_data: TinyData, run: RunConfig) -> None:
    validator = Validator(tiny_data.cache, CONTEXT, run)
    assert validator.validate(tiny_network(n_prior_channels=12).eval(), CPU, lambda: True) is None


def test_outside_of_the_brain_there_is_no_tumour(tiny_data: TinyData, run: RunConfig) -> None:
    validator = Validator(tiny_data.cache, CONTEXT, run)
    images, _ = validator.cache.load(validator.indices)
    numbers = validator.cache.source_slice[validator.indices]
    samples = sample_slices(
        tiny_network(n_prior_channels=12).eval(), images, numbers, n_samples=1, n_steps=1, seed=0
    )
    background = (images[:, :4] == 0).all(1).numpy()
    assert background.any()
    assert not samples.members[0][background].any()
    assert samples.prior is not None
    assert not samples.prior[background].any()


def test_preview_shows_samples_and_truth(tmp_path: Path) -> None:
    images = np.full((2, 4, 20, 30), 0.5, np.float32)
    truth = np.zeros((2, 20, 30), bool)
    truth[:, 5:10, 5:10] = True
    members = np.zeros((3, 2, 20, 30), np.float32)
    members[0, :, 12:18, 12:18] = 1.0
    picture = draw_preview(images, truth, members)
    n_rows = 2 + 3 + 2
    assert picture.shape[0] == n_rows * 20
    cells = picture[:, -60:].reshape(n_rows, 20, 2, 30, 3)
    flair, labels, first, second, _, mean, variance = (cells[i, :, 0].astype(int) for i in range(7))
    assert (flair == flair[0, 0]).all()
    assert labels[7, 7, 1] > labels[7, 7, 0]  # green
    assert first[15, 15, 0] > mean[15, 15, 0] > second[15, 15, 0]  # more and less orange
    assert (variance[15, 15] != variance[0, 0]).any()
    outline = second[4, 7]  # just above the truth, just below, and left of it
    assert (outline == second[10, 7]).all()
    assert (outline == second[7, 4]).all()
    assert outline[1] > outline[0]
    save_png(tmp_path / "previews" / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "previews" / "a.png")), picture)
