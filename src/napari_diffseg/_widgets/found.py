"""What a folder holds of a case's results, and whether it is what the dock asks for. No Qt."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_diffseg.core.case_files import find_last_change
from napari_diffseg.core.consensus import find_watched
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.resume import (
    DrawKey,
    find_wanted_key,
    is_changed,
    is_of_images,
    is_of_slices,
)

if TYPE_CHECKING:
    from pathlib import Path

    from napari_diffseg._widgets.run import Recipe, View
    from napari_diffseg.core.case_files import CaseFiles
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.reopen import ChangedMask
    from napari_diffseg.core.summary import CaseSummary


@dataclass(frozen=True)
class Found:
    """What a folder holds of a case's results."""

    n_members: int = 0
    """Those in the file of samples; those that the maps are made of if there is none."""
    is_whole: bool = True
    """Whether they are of the whole volume."""
    judged: tuple[tuple[int, int], ...] = ()
    """First and last slice of what volume and scores are about, in the source file's numbers."""
    other_images: str = ""
    """What it is of, if not of the images of the case as they are now."""
    is_edited: bool = False
    drawing: DrawKey = DrawKey()
    stable_within: float | None = None
    """The tolerance with which more members would not change the mask; None: not stable."""
    watched: tuple[float, str] = (0.5, "probabilities")
    """Which mask that was (`consensus.find_watched`)."""
    summary: CaseSummary | None = None
    """None without a result, and of a record that this version cannot read in full."""

    @property
    def n_whole(self) -> int:
        """Members of the whole volume."""
        return self.n_members if self.is_whole else 0


@dataclass(frozen=True)
class Wanted:
    """What the queue would draw of every case."""

    n_samples: int = 1
    tolerance: float | None = None
    """Fewer are enough when more would change the mask no more than this; None: draw all."""
    drawing: DrawKey = DrawKey()
    watched: tuple[float, str] = (0.5, "probabilities")
    """Which mask has to be stable (`consensus.find_watched`)."""

    def is_of_another(self, found: Found) -> bool:
        """Whether a result is of other images, or of the whole volume and drawn differently.

        Not one that was edited.
        """
        if found.is_edited:
            return False
        return bool(found.other_images or (found.n_whole and self.find_differences(found)))

    def find_differences(self, found: Found) -> tuple[str, ...]:
        """Return in what a result was drawn differently, by the names of `DrawKey`."""
        return self.drawing.find_differences(found.drawing)

    def is_complete(self, found: Found) -> bool:
        """Whether nothing would be added to a result that was drawn like this."""
        is_stable = (
            self.tolerance is not None
            and found.stable_within is not None
            and found.stable_within <= self.tolerance
            and found.watched == self.watched
        )
        return found.n_whole >= self.n_samples or (found.n_whole > 0 and is_stable)


def make_wanted(
    recipe: Recipe,
    n_samples: int,
    tolerance: float | None,
    view: View,
    model: LoadedModel | None,
) -> Wanted:
    """Put in what the model recommends, if it is loaded."""
    watched = find_watched(view.consensus, view.threshold, view.of)
    if model is None:
        key = DrawKey(
            sampler=recipe.sampler,
            n_steps=recipe.n_steps,
            seed=recipe.seed,
            eta=0.0 if recipe.sampler == "ddim" else None,
        )
        return Wanted(n_samples, tolerance, key, watched)
    sampler = recipe.sampler or model.card.recommended_sampler
    params = SegmentParams(sampler=sampler, n_steps=recipe.n_steps, seed=recipe.seed)
    return Wanted(n_samples, tolerance, find_wanted_key(params, model), watched)


def is_to_do(found: Found, wanted: Wanted, may_replace: Found | None = None) -> bool:
    """Whether a run would bring something.

    What somebody has edited is left alone, and what was drawn differently, too, unless it is the
    very result that the user lets be replaced.
    """
    if found.is_edited:
        return False
    if wanted.is_of_another(found):
        return found == may_replace
    return not wanted.is_complete(found)


def find_result(folder: Path, files: CaseFiles, loaded: Mapping[str, str] | None = None) -> Found:
    """Return what is saved of a case; nothing if its record is missing or cannot be read.

    Parameters
    ----------
    folder
        Where results are.
    files
        The case.
    loaded
        What was in the images when they were loaded (`Case.sha256`), if it is about these; by
        default it is about the images as they are now.
    """
    path = find_record(folder, files)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        maps, run = record["maps"], record.get("run", {})
        is_whole = bool(maps["whole_volume"])
        case = record.get("case", {})
        n_members = _count_members(record, is_whole=is_whole)
        changed = _find_later_change(path)
        return Found(
            n_members,
            is_whole,
            judged=tuple((int(first), int(last)) for first, last in maps.get("judged_slices", ())),
            other_images=_find_other_images(case, files, path, loaded),
            is_edited=record.get("edited") is not None or changed is not None,
            drawing=_read_key(run),
            stable_within=_read_stability(run, n_members),
            watched=_read_watched(run),
            summary=_summarise(record, path.name, changed),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Found()


def _find_other_images(
    case: Mapping[str, Any], files: CaseFiles, path: Path, loaded: Mapping[str, str] | None
) -> str:
    images, sha256 = case.get("files", {}), case.get("sha256")
    if not images:
        return ""
    if not is_of_images(images, files, path.parent, sha256):
        return f"other images, {images.get('t1', 'unknown ones')} among them"
    if not is_of_slices(case.get("slice_numbers", ()), files):
        return "other slices of the same stack"
    if sha256 and loaded:
        has_changed = sha256 != loaded
    else:
        has_changed = is_changed(sha256, files, case.get("written_ns", 0))
    return "images that have been changed since" if has_changed else ""


def find_record(folder: Path, files: CaseFiles) -> Path:
    """Return the path of the record that a folder has, or would have, of a case."""
    from napari_diffseg.core.export import RECORD, output_paths

    return output_paths(folder, files.name)[RECORD]


@dataclass(frozen=True)
class Look:
    """What was found of a case, and of which state of the files."""

    state: tuple[int, ...]
    """When record, mask and images were changed last, in ns; and the record's bytes."""
    found: Found


def look(folder: Path, files: CaseFiles, before: Look | None = None) -> Look:
    """Look for the result of a case; its record, some 50 kB, is read if something has changed."""
    try:
        stat = find_record(folder, files).stat()
    except OSError:
        return Look((), Found())
    state = stat.st_mtime_ns, stat.st_size, find_last_change(files), _find_mask_time(folder, files)
    if before is not None and before.state == state:
        return before
    return Look(state, find_result(folder, files))


def _find_mask_time(folder: Path, files: CaseFiles) -> int:
    from napari_diffseg.core.export import output_paths

    try:
        return output_paths(folder, files.name)["mask"].stat().st_mtime_ns
    except OSError:
        return 0


def look_at_all(folder: Path, cases: Sequence[CaseFiles]) -> dict[str, Look]:
    """Look for the results of many cases, by name, which takes seconds for hundreds of them.

    Where images have been moved they are read, to know whether they are the same.
    """
    return {files.name: look(folder, files) for files in cases if not files.problem}


def _count_members(record: Mapping[str, Any], *, is_whole: bool) -> int:
    n_members = int(record["maps"]["n_members"])
    drawn = [member["slices"] for member in record.get("members", [])]
    if "samples" not in record.get("files", {}):
        drawn = drawn[:n_members]
    if not drawn:
        return n_members
    # Later members may have been drawn on some slices only.
    return sum(1 for _ in itertools.takewhile(lambda has: not is_whole or has == drawn[0], drawn))


def _read_key(run: Mapping[str, Any]) -> DrawKey:
    if not run:
        return DrawKey()
    return DrawKey(
        model_sha256=run["model"]["sha256"],
        sampler=run["sampler"],
        n_steps=run["n_steps"],
        seed=run["seed"],
        eta=run.get("eta"),
        mirror=run.get("mirror", False),  # records of before do not have it
        vary_contrast=run.get("vary_contrast", False),
    )


def _read_stability(run: Mapping[str, Any], n_members: int) -> float | None:
    stopping = run.get("stopping")
    if stopping is None or stopping["stable_with"] is None or stopping["stable_with"] > n_members:
        return None
    return float(stopping["tolerance"])


def _read_watched(run: Mapping[str, Any]) -> tuple[float, str]:
    stopping = run.get("stopping") or {}  # records of before do not have it: it was always this
    return float(stopping.get("threshold", 0.5)), str(stopping.get("of", "probabilities"))


def _find_later_change(path: Path) -> ChangedMask | None:
    from napari_diffseg.core.reopen import find_later_change

    return find_later_change(path)


def _summarise(
    values: Mapping[str, Any], name: str, changed: ChangedMask | None
) -> CaseSummary | None:
    from napari_diffseg.core.errors import ParameterError
    from napari_diffseg.core.record import ResultRecord
    from napari_diffseg.core.serialisation import from_dict
    from napari_diffseg.core.summary import summarise_record

    values = dict(values)
    files = values.pop("files", {})
    try:
        return summarise_record(from_dict(ResultRecord, values), files, name, changed)
    except (ParameterError, TypeError):
        return None
