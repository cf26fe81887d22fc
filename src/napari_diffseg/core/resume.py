"""Whether the members of a saved result are those that a run would draw.

The number of samples alone says nothing: with another model, sampler or seed they are others.
"""

from __future__ import annotations

import filecmp
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING

from napari_diffseg.core.case_files import find_last_change, hash_images
from napari_diffseg.core.params import SamplerName, SegmentParams

if TYPE_CHECKING:
    from napari_diffseg.core.case_files import CaseFiles
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.record import CaseRecord, ResultRecord, RunRecord


@dataclass(frozen=True)
class DrawKey:
    """What decides a member beside the images and its number: equal keys draw equal members.

    What is not known is None: the model and what its card decides, as long as it is not loaded.
    """

    model_sha256: str | None = None
    """Of the model's file."""
    sampler: SamplerName | None = None
    n_steps: int | None = None
    eta: float | None = None
    """Of DDIM; None for the other samplers, which have none."""
    seed: int | None = None
    mirror: bool | None = None
    vary_contrast: bool | None = None

    def find_differences(self, other: DrawKey) -> tuple[str, ...]:
        """Return the names of what is known of both and not the same."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return tuple(name for name, (a, b) in pairs.items() if None not in (a, b) and a != b)


def find_run_key(run: RunRecord) -> DrawKey:
    """Return the key of the members that a record tells of."""
    return DrawKey(
        model_sha256=run.model.sha256,
        sampler=run.sampler,
        n_steps=run.n_steps,
        eta=run.eta,
        seed=run.seed,
        mirror=run.mirror,
        vary_contrast=run.vary_contrast,
    )


def find_wanted_key(params: SegmentParams, model: LoadedModel) -> DrawKey:
    """Return the key of the members that `segment` would draw; what is None the card decides."""
    card = model.card
    return DrawKey(
        model_sha256=model.sha256,
        sampler=params.sampler,
        n_steps=params.n_steps or card.recommended_steps,
        eta=params.eta if params.sampler == "ddim" else None,
        seed=params.seed,
        mirror=card.mirror_members if params.mirror is None else params.mirror,
        vary_contrast=card.vary_contrast if params.vary_contrast is None else params.vary_contrast,
    )


def count_drawn(record: ResultRecord, key: DrawKey) -> int:
    """Return how many members of this key the maps of a result are made of, from the first on.

    Only those count that have every slice that was asked for. 0 if the key is another one, if the
    run was stopped before its slices were done, or if it did not begin with the first member.
    Which slices they were (`MapsRecord.whole_volume`) is for the caller to ask.
    """
    maps = record.maps
    if find_run_key(record.run) != key or record.run.first_member != 0:
        return 0
    if record.schema_version < 2:  # all members were whole, and nothing was said about it
        return maps.n_members
    if maps.judged_slices != ((maps.first_slice, maps.last_slice),):
        return 0
    drawn = [member.slices for member in record.members[: maps.n_members]]
    return sum(1 for _ in itertools.takewhile(lambda slices: slices == drawn[0], drawn))


def is_of_images(
    recorded: Mapping[str, str],
    files: CaseFiles,
    folder: Path,
    sha256: Mapping[str, str] | None = None,
) -> bool:
    """Whether a result was made of these very files, by their paths or else by what is in them.

    Files that are where they were may have been changed since (`is_as_recorded`). Of records that
    do not tell what was in them: where images and result have been moved or copied together, all
    that is above the folder they share may differ. Other studies, too, have cases of the same name:
    if the file that was recorded is still there, it is compared with the present one.

    Parameters
    ----------
    recorded
        The file of each modality as it was written down (`CaseRecord.files`).
    files
        The case.
    folder
        Where the result is. The folder that it shares with the images is this one, or one or two
        levels above, as of ``derivatives/NAME`` in BIDS.
    sha256
        What was in the files (`CaseRecord.sha256`), if it is known.
    """
    if {name: Path(path).resolve() for name, path in recorded.items()} == {
        name: path.resolve() for name, path in files.modalities.items()
    }:
        return True
    if sha256:
        return sha256 == hash_images(files)
    return _lies_alike(recorded, files, folder)


def _lies_alike(recorded: Mapping[str, str], files: CaseFiles, folder: Path) -> bool:
    results = _without_detours(folder)
    for shared in (results, *results.parents[:2]):
        below = {
            name: path.relative_to(shared).parts
            for name, given in files.modalities.items()
            if (path := _without_detours(given)).is_relative_to(shared)
        }
        if len(below) == len(files.modalities):
            return recorded.keys() == below.keys() and all(
                parse_recorded(recorded[name]).parts[-len(parts) :] == parts
                and not _is_another(Path(recorded[name]), files.modalities[name])
                for name, parts in below.items()
            )
    return False


def is_of_slices(recorded: Iterable[Sequence[int]], files: CaseFiles) -> bool:
    """Whether a stack of slice files has the very slices of a result (`CaseRecord.slice_numbers`).

    True for images of other kinds.
    """
    numbers = {k for first, last in recorded for k in range(first, last + 1)}
    return not numbers or numbers == {*files.slices}


def is_changed(sha256: Mapping[str, str] | None, files: CaseFiles, written_ns: int) -> bool:
    """Whether images are no longer what they were; they are read only if somebody wrote them.

    Parameters
    ----------
    sha256
        What was in them (`CaseRecord.sha256`); False if it is not known.
    files
        The case.
    written_ns
        When the youngest of them had been written (`CaseRecord.written_ns`).
    """
    return bool(sha256) and find_last_change(files) != written_ns and sha256 != hash_images(files)


def is_as_recorded(case: CaseRecord, files: CaseFiles) -> bool:
    """Whether nothing has changed that a new result would depend on.

    That is what is in the images (not every record tells), which slices there are, and whether
    there are labels.
    """
    return (
        is_of_slices(case.slice_numbers, files)
        and (case.label is None) == (files.label is None)
        and (not case.sha256 or case.sha256 == hash_images(files))
    )


def _is_another(recorded: Path, present: Path) -> bool:
    """Whether a file that was recorded is still there, and not the same as the present one."""
    try:
        return recorded.is_file() and not filecmp.cmp(recorded, present, shallow=False)
    except OSError:
        return True


def parse_recorded(path: str) -> PurePath:
    """Return a path that was written down here or, on another system, on Windows."""
    windows = PureWindowsPath(path)
    return windows if os.name != "nt" and windows.drive else Path(path)


def _without_detours(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links out of the folder)
