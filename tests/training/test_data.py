from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import training.data
from napari_diffseg.core.brats import load_case
from napari_diffseg.core.errors import CaseError
from napari_diffseg.core.preprocessing import PreprocessingConfig, prepare_case
from tests.training.tiny import TRAINING, TinyData, tiny_config
from training.cache_index import INDEX_NAME, check_index, read_index
from training.config import AugmentationConfig, DataConfig
from training.data import BatchPlan, SliceCache, hash_cases, load_batch, load_split
from training.make_split import find_patient, make_split
from training.make_split import main as make_split_command
from training.shares import BatchRandom, Share

SHARED = Path(training.data.__file__).parent / "splits" / "shared58.json"
EVERYTHING = DataConfig(tumour_fraction=0.0, min_brain_fraction=0.0)


def write_split(path: Path, **values: object) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_shipped_split_has_58_and_6_different_patients() -> None:
    split = load_split(SHARED)
    assert (len(split.training), len(split.validation)) == (58, 6)
    keys = json.loads(SHARED.read_text(encoding="utf-8"))["patient_key"]
    assert len({keys[case] for case in (*split.training, *split.validation)}) == 64


def test_patient_in_both_parts_is_refused(tmp_path: Path) -> None:
    path = write_split(
        tmp_path / "split.json",
        training=["Brats18_A_1", "B"],
        validation=["BraTS20_7"],
        patient_key={"Brats18_A_1": "patient 7", "BraTS20_7": "patient 7"},
    )
    with pytest.raises(CaseError, match=r"patient 7.*both"):
        load_split(path)


def test_visits_of_a_patient_in_both_parts_are_refused(tmp_path: Path) -> None:
    path = write_split(
        tmp_path / "split.json",
        training=["BraTS-GLI-00012-000"],
        validation=["BraTS-GLI-00012-001"],
    )
    with pytest.raises(CaseError, match=r"'BraTS-GLI-00012'.*both"):
        load_split(path)


def test_case_in_both_parts_is_refused(tmp_path: Path) -> None:
    path = write_split(tmp_path / "split.json", training=["A", "B"], validation=["B"])
    with pytest.raises(CaseError, match=r"'B'.*both"):
        load_split(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"training": []}', '{"training": 1}'])
def test_file_that_is_no_split_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CaseError, match=r"split\.json is not a split file"):
        load_split(path)


def test_hash_of_cases_ignores_their_order() -> None:
    assert hash_cases(["a", "b"]) == hash_cases(["b", "a"])
    assert hash_cases(["a", "b"]) != hash_cases(["ab"])


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00012-001", "BraTS-GLI-00012"),
        ("Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB"),
        ("Brats17_TCIA_105_2", "Brats17_TCIA_105"),
        ("BraTS19_2013_2_1", "BraTS19_2013_2"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS20_Training_001_080", "BraTS20_Training_001"),
        ("BraTS2021_00002_080", "BraTS2021_00002"),
        ("BraTS-GLI-00012-001_080", "BraTS-GLI-00012"),
        ("Brats18_CBICA_AAB_1_080", "Brats18_CBICA_AAB"),
        ("brats_train_001_080", "brats_train_001"),
        ("BraTS2021_00002", "BraTS2021_00002"),
        ("BRATS_001", "BRATS_001"),
        ("sub-01_ses-2_anat", "sub-01"),
        ("sub-01", "sub-01"),
        ("UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("UCSF-PDGM-0004_FU001d", "UCSF-PDGM-0004"),
        ("Patient-001_week-000-2", "Patient-001"),
        ("P01_visit2", "P01"),
        ("Case_3_session_2", "Case_3"),
        ("Anna_scan_2", "Anna_scan_2"),
        ("HGG_session_0001", "HGG_session_0001"),
        ("Study-TP-0007", "Study-TP-0007"),
    ],
)
def test_patient_is_found_in_the_name(case: str, patient: str) -> None:
    assert find_patient(case) == patient


def test_new_split_keeps_visits_of_a_patient_together() -> None:
    cases = [f"BraTS-GLI-{patient:05d}-{visit:03d}" for patient in range(20) for visit in range(3)]
    keys = {"BraTS2021_7": "BraTS-GLI-00007"}
    for seed in range(5):
        split = make_split([*cases, *keys], 0.25, seed, keys)
        sides = [
            {split["patient_key"][case] for case in split[p]} for p in ("training", "validation")
        ]
        assert len(sides[1]) == 5
        assert not sides[0] & sides[1]
        assert sorted(split["training"] + split["validation"]) == sorted([*cases, *keys])


def test_split_command_writes_what_training_reads(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "split.json"
    assert make_split_command([str(tiny_data.cache), str(out), "--validation", "0.25"]) == 0
    split = load_split(out)
    assert (len(split.training), len(split.validation)) == (3, 1)
    told = capsys.readouterr()
    assert "3 cases of 3 patients to train, 1 cases of 1 patients to validate" in told.out
    assert "each case counts as a patient of its own" in told.err
    assert make_split_command([str(tiny_data.cache), str(out)]) == 1  # a split is made once


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.1", "nan"])
def test_a_share_that_is_none_makes_no_split(
    tiny_data: TinyData, tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "split.json"
    assert make_split_command([str(tiny_data.cache), str(out), f"--validation={share}"]) == 1
    assert f"between 0 and 1, not {share}" in capsys.readouterr().err
    assert not out.exists()


def test_keys_put_cases_of_one_patient_on_one_side(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = read_index(tiny_data.cache)
    assert index is not None
    keys, out = tmp_path / "keys.json", tmp_path / "split.json"
    first, *others = sorted(index.cases)
    keys.write_text(json.dumps(dict.fromkeys([*others, "Nobody"], "one")))
    command = [str(tiny_data.cache), str(out), "--keys", str(keys), "--validation", "0.5"]
    assert make_split_command(command) == 0
    assert "names 1 cases that are not in the cache: Nobody." in capsys.readouterr().err
    split = load_split(out)
    assert {frozenset(split.training), frozenset(split.validation)} == {
        frozenset([first]),
        frozenset(others),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ("[]", "does not tell the patient of each case"),
        ('{"Case": 3}', "does not tell the patient of each case"),
        ('{"Nobody": "one"}', "names no case that is in the cache, but Nobody"),
    ],
)
def test_keys_that_tell_nothing_are_named(
    tiny_data: TinyData,
    tmp_path: Path,
    text: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys, out = tmp_path / "keys.json", tmp_path / "split.json"
    keys.write_text(text)
    assert make_split_command([str(tiny_data.cache), str(out), "--keys", str(keys)]) == 1
    error = capsys.readouterr().err
    assert f"{keys} {message}" in error
    assert not out.exists()


def plan_of(tumour: int, rest: int, batch_size: int, fraction: float, seed: int = 0) -> BatchPlan:
    has_tumour = np.array([True] * tumour + [False] * rest)
    return BatchPlan(has_tumour, batch_size, DataConfig(tumour_fraction=fraction), seed)


def test_each_slice_is_seen_equally_often_within_its_pool() -> None:
    plan = plan_of(tumour=9, rest=5, batch_size=4, fraction=0.75)
    seen = Counter(int(i) for step in range(15) for i in plan.indices(step))
    assert {seen[i] for i in range(9)} == {5}  # 45 of 60 are tumour
    assert {seen[i] for i in range(9, 14)} == {3}


def test_share_of_tumour_holds_in_every_batch() -> None:
    plan = plan_of(tumour=9, rest=50, batch_size=16, fraction=0.75)
    assert {int((plan.indices(step) < 9).sum()) for step in range(20)} == {12}


def test_parts_of_a_batch_are_alike() -> None:
    plan = plan_of(tumour=40, rest=50, batch_size=16, fraction=0.75)
    for step in range(5):
        parts = np.split(plan.indices(step) < 40, 4)
        assert [int(part.sum()) for part in parts] == [3, 3, 3, 3]


@pytest.mark.parametrize(("batch_size", "n_tumour"), [(2, 1), (3, 2)])
def test_small_batches_have_slices_of_both(batch_size: int, n_tumour: int) -> None:
    plan = plan_of(tumour=9, rest=50, batch_size=batch_size, fraction=0.75)
    assert {int((plan.indices(step) < 9).sum()) for step in range(20)} == {n_tumour}


def test_slices_without_tumour_are_given_one_of_others() -> None:
    plan = plan_of(tumour=40, rest=50, batch_size=16, fraction=0.75)
    indices, donors = plan.indices(3), plan.donors(3)
    assert sorted(indices) == sorted(donors)
    assert (donors[indices >= 40] < 40).all()


def test_without_a_share_all_slices_are_one_pool() -> None:
    plan = plan_of(tumour=3, rest=9, batch_size=5, fraction=0.0)
    seen = Counter(int(i) for step in range(12) for i in plan.indices(step))
    assert seen == dict.fromkeys(range(12), 5)


def test_order_differs_between_epochs_and_seeds() -> None:
    plan = plan_of(tumour=0, rest=20, batch_size=20, fraction=0.0)
    first, second = plan.indices(0), plan.indices(1)
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, plan_of(0, 20, 20, 0.0, seed=1).indices(0))


def test_plan_is_a_function_of_seed_and_step() -> None:
    plan = plan_of(tumour=9, rest=5, batch_size=4, fraction=0.75)
    forwards = [plan.indices(step) for step in range(8)]
    backwards = [
        plan_of(tumour=9, rest=5, batch_size=4, fraction=0.75).indices(step)
        for step in reversed(range(8))
    ]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert np.array_equal(one, other)


def test_cache_gives_images_and_masks_of_the_same_slice(tiny_data: TinyData) -> None:
    cache = SliceCache(tiny_data.cache, TRAINING, EVERYTHING)
    images, masks = cache.load(np.arange(len(cache)))
    assert images.shape == (len(cache), 4, 48, 48)
    assert masks.shape == (len(cache), 1, 48, 48)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert np.array_equal(masks.flatten(1).any(1).numpy(), cache.has_tumour)
    flair = images[:, 3:4]
    assert flair[masks > 0].mean() > flair[(masks == 0) & (flair > 0)].mean() + 0.3


def test_neighbours_follow_in_the_order_of_inference(tiny_data: TinyData) -> None:
    name = TRAINING[0]
    settings = tiny_config().preprocessing
    prepared = prepare_case(load_case(tiny_data.cases / name), settings)
    index = read_index(tiny_data.cache)
    assert index is not None
    cache = SliceCache(tiny_data.cache, [name], EVERYTHING, index.context_of([name]))
    rows = np.arange(len(cache))
    images, _ = cache.load(rows)
    assert images.shape[1] == settings.n_prior_channels == 12
    expected = torch.from_numpy(prepared.prior_images(rows))
    torch.testing.assert_close(images, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert not torch.equal(images[4, 4:8], images[4, 8:12])


def test_cache_leaves_out_what_the_configuration_says(tiny_data: TinyData) -> None:
    cache = SliceCache(tiny_data.cache, TRAINING, DataConfig(0.0, 0.0, (4, 7)))
    assert set(cache.source_slice) == {4, 5, 6}
    everything = SliceCache(tiny_data.cache, TRAINING, EVERYTHING)
    enough = SliceCache(tiny_data.cache, TRAINING, DataConfig(0.0, 0.2))
    assert 0 < len(enough) < len(everything)
    images, _ = enough.load(np.arange(len(enough)))
    assert (images.amax(1) > 0).float().mean((1, 2)).min() > 0.2


def test_start_does_not_read_the_images(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(0.0, 0.1, (1, 12))
    older = copy_cache(tiny_data, tmp_path / "older")
    for path in older.glob("*.content.npy"):
        path.unlink()
    read = SliceCache(older, TRAINING, config)
    shares = f"{TRAINING[0]}.content.npy"
    np.save(older / shares, np.zeros_like(np.load(tiny_data.cache / shares)))
    os.utime(older / shares, (1, 1))  # from before the case was prepared anew
    stale = SliceCache(older, TRAINING, config)
    monkeypatch.setattr(training.data, "measure_content", lambda *_: pytest.fail("all was read"))
    known = SliceCache(tiny_data.cache, TRAINING, config)
    assert 0 < known.has_tumour.sum() < len(known) < 3 * 11
    for name in ("case_of", "row_of", "source_slice", "has_tumour"):
        assert np.array_equal(getattr(known, name), getattr(read, name))
        assert np.array_equal(getattr(stale, name), getattr(read, name))


def test_many_cases_need_few_open_files(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    names = [f"Case_{number}" for number in range(130)]
    for name in names:
        np.save(tmp_path / f"{name}.images.npy", np.ones((1, 4, 16, 16), np.uint8))
        np.save(tmp_path / f"{name}.masks.npy", np.ones((1, 16, 16), np.uint8))
        np.save(tmp_path / f"{name}.slices.npy", np.zeros(1, np.int64))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "lowest").open("w") as file:
        first_free = file.fileno()
    # macOS allows 256 in all; training and validation have a cache each.
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 200, limits[1]))
    try:
        for cache in [SliceCache(tmp_path, names, EVERYTHING) for _ in range(2)]:
            images, _ = cache.load(np.arange(130))
            assert len(images) == 130
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_cache_needs_few_open_files(tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.data, "_MAX_OPEN_CASES", 1)
    few = SliceCache(tiny_data.cache, TRAINING, EVERYTHING)
    monkeypatch.undo()
    many = SliceCache(tiny_data.cache, TRAINING, EVERYTHING)
    indices = np.arange(len(many))[::-3]
    for one, other in zip(few.load(indices), many.load(indices), strict=True):
        assert torch.equal(one, other)


def test_batch_without_augmentation_is_the_slices_as_they_are(tiny_data: TinyData) -> None:
    cache = SliceCache(tiny_data.cache, TRAINING, EVERYTHING)
    plan = BatchPlan(cache.has_tumour, 4, EVERYTHING, seed=0)
    plain = load_batch(cache, plan, 3, None, BatchRandom(torch.Generator().manual_seed(0)))
    moved = load_batch(
        cache, plan, 3, AugmentationConfig(), BatchRandom(torch.Generator().manual_seed(0))
    )
    for batch, changed, expected in zip(plain, moved, cache.load(plan.indices(3)), strict=True):
        assert torch.equal(batch, expected)
        assert not torch.equal(changed, expected)


def test_processes_that_share_a_batch_paste_the_tumours_that_one_would(
    tiny_data: TinyData,
) -> None:
    cache = SliceCache(tiny_data.cache, TRAINING, EVERYTHING)
    plan = BatchPlan(cache.has_tumour, 8, EVERYTHING, seed=0)
    names = AugmentationConfig.__dataclass_fields__
    only_paste = AugmentationConfig(**{**dict.fromkeys(names, 0.0), "paste_tumour": 1.0})

    def load(share: Share) -> tuple[torch.Tensor, torch.Tensor]:
        random = BatchRandom(torch.Generator().manual_seed(0), share)
        return load_batch(cache, plan, 3, only_paste, random)

    images, masks = load(Share())
    halves = [load(Share(index, 2)) for index in range(2)]
    assert torch.equal(torch.cat([half[0] for half in halves]), images)
    assert torch.equal(torch.cat([half[1] for half in halves]), masks)
    assert (masks != cache.load(plan.indices(3))[1]).flatten(1).any(1).sum() >= 3


def test_nothing_left_is_an_error(tiny_data: TinyData) -> None:
    with pytest.raises(CaseError, match="none of the 3 cases"):
        SliceCache(tiny_data.cache, TRAINING, DataConfig(0.0, 0.0, (100, 110)))


def copy_cache(tiny_data: TinyData, folder: Path) -> Path:
    folder.mkdir()
    for path in tiny_data.cache.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_damaged_cache_is_named(tiny_data: TinyData, tmp_path: Path) -> None:
    cache = copy_cache(tiny_data, tmp_path / "cache")
    masks = np.load(cache / f"{TRAINING[1]}.masks.npy")
    np.save(cache / f"{TRAINING[1]}.masks.npy", masks[:-1])
    with pytest.raises(CaseError, match=f"cache of {TRAINING[1]} is damaged"):
        SliceCache(cache, TRAINING, EVERYTHING)
    (cache / f"{TRAINING[0]}.images.npy").unlink()
    with pytest.raises(CaseError, match=f"cache of {TRAINING[0]} cannot be read"):
        SliceCache(cache, TRAINING, EVERYTHING)


def test_windows_of_different_sizes_are_refused(tiny_data: TinyData, tmp_path: Path) -> None:
    cache = copy_cache(tiny_data, tmp_path / "cache")
    for kind in ("images", "masks"):
        path = cache / f"{TRAINING[1]}.{kind}.npy"
        np.save(path, np.load(path)[..., :32])
    with pytest.raises(CaseError, match="different sizes"):
        SliceCache(cache, TRAINING, EVERYTHING)


def test_cache_of_other_settings_or_cases_is_refused(tiny_data: TinyData) -> None:
    index = read_index(tiny_data.cache)
    assert index is not None
    settings = index.preprocessing
    assert check_index(tiny_data.cache, TRAINING, settings) == index
    with pytest.raises(CaseError, match=r"window \[48, 48\] instead of \[192, 160\]"):
        check_index(tiny_data.cache, TRAINING, PreprocessingConfig())
    with pytest.raises(CaseError, match="lacks 1 cases of the split, the first is Nobody"):
        check_index(tiny_data.cache, [*TRAINING, "Nobody"], settings)


def test_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="not a slice cache"):
        check_index(tmp_path, [], PreprocessingConfig())
    (tmp_path / INDEX_NAME).write_text('{"schema": 1, "cases": 3}', encoding="utf-8")
    with pytest.raises(CaseError, match=r"index\.json is damaged"):
        read_index(tmp_path)
