"""What a folder holds of a case's results, and whether it is what the dock asks for. No Qt."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_diffseg.core.consensus import find_watched
from napari_diffseg.core.params import SegmentParams
from napari_diffseg.core.resume import DrawKey, find_wanted_key

if TYPE_CHECKING:
    from pathlib import Path

    from napari_diffseg._widgets.run import Recipe, View
    from napari_diffseg.core.checkpoint import LoadedModel
    from napari_diffseg.core.summary import CaseSummary


@dataclass(frozen=True)
class Found:
    """What a folder holds of a case's results."""

    n_members: int = 0
    is_whole: bool = True
    """Whether they are of the whole volume."""
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
        """Whether a result of the whole volume was drawn differently; not one that was edited."""
        return not found.is_edited and found.n_whole > 0 and bool(self.find_differences(found))

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


def find_result(folder: Path, name: str) -> Found:
    """Return what is saved of a case; nothing if its record is missing or cannot be read."""
    from napari_diffseg.core.export import RECORD, output_paths

    path = output_paths(folder, name)[RECORD]
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        maps, run = record["maps"], record.get("run", {})
        n_members, is_whole = int(maps["n_members"]), bool(maps["whole_volume"])
        drawn = [member["slices"] for member in record.get("members", [])[:n_members]]
        if is_whole and drawn:  # later members may have been drawn on some slices only
            n_members = sum(1 for _ in itertools.takewhile(lambda has: has == drawn[0], drawn))
        return Found(
            n_members,
            is_whole,
            is_edited=record.get("edited") is not None,
            drawing=_read_key(run),
            stable_within=_read_stability(run, n_members),
            watched=_read_watched(run),
            summary=_summarise(record, path.name),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Found()


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


def _summarise(values: Mapping[str, Any], name: str) -> CaseSummary | None:
    from napari_diffseg.core.errors import ParameterError
    from napari_diffseg.core.record import ResultRecord
    from napari_diffseg.core.serialisation import from_dict
    from napari_diffseg.core.summary import summarise_record

    values = dict(values)
    files = values.pop("files", {})
    try:
        return summarise_record(from_dict(ResultRecord, values), files, name)
    except (ParameterError, TypeError):
        return None
