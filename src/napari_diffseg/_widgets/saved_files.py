"""What is saved in a folder already: what a save would lose, and what it would leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_diffseg._widgets.found import Found, find_result
from napari_diffseg.core.export import EDITED, RECORD, find_earlier, output_paths
from napari_diffseg.core.reopen import find_changed_mask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from napari_diffseg._widgets.snapshot import Snapshot


class SavedFiles:
    """Remembers what this dock has written, as long as nobody else has written it since."""

    def __init__(self) -> None:
        self._times_ns: dict[Path, int] = {}

    def note(self, paths: Iterable[Path]) -> None:
        """Remember files that have been written just now."""
        self._times_ns.update({path: path.stat().st_mtime_ns for path in paths if path.exists()})

    def ask_what(self, snapshot: Snapshot, folder: Path) -> str:
        """Return what to ask before a snapshot is saved there; empty if nothing would be lost.

        A result would be lost that somebody has edited, here or in another program, that has more
        samples or other slices, or that is of other images; or a file that is no result. Who paints
        and saves in turn is not asked each time.
        """
        case = snapshot.case
        found = find_result(folder, case.files, case.sha256)
        edited = _edited_path(folder, case.name)
        paths = output_paths(folder, case.name, samples=True, edited=snapshot.edit is not None)
        if found == Found():
            there = (path for path in paths.values() if path.exists() and not self._is_own(path))
            foreign = next(there, None)
            return f"Replace {foreign.name}, which belongs to no saved result?" if foreign else ""
        is_mask_changed = not (
            found.other_images
            or self._is_own(paths["mask"])
            or find_changed_mask(paths[RECORD]) is None
        )
        is_edited = found.is_edited or (snapshot.edit is not None and edited.exists())
        goes_on = snapshot.edit is not None and self._is_own(edited)
        has_more = found.n_members > snapshot.n_drawn or has_other_slices(found, snapshot)
        loses_more = has_more or bool(found.other_images) or is_mask_changed
        if not loses_more and (goes_on or not is_edited):
            return ""
        samples = f"{found.n_members} sample{'s' * (found.n_members != 1)}"
        samples += "" if found.is_whole else " of some slices"
        by_hand = " (edited by hand)" if is_edited and not is_mask_changed else ""
        others = f", which is of {found.other_images}" if found.other_images else ""
        changed = ", whose mask has been edited in another program" if is_mask_changed else ""
        return f"Replace the result with {samples}{by_hand}{others}{changed}?"

    def find_left_over(self, folder: Path, name: str, written: Iterable[Path]) -> list[str]:
        """Return the names of files that an earlier save has left beside those just written."""
        left = find_earlier(folder, name) - {*written}
        # A report that was written from the dock is of its own.
        return sorted(
            path.name for path in left if path.suffix != ".html" or not self._is_own(path)
        )

    def _is_own(self, path: Path) -> bool:
        return path.exists() and path.stat().st_mtime_ns == self._times_ns.get(path)


def has_other_slices(found: Found, snapshot: Snapshot) -> bool:
    """Whether a saved result is of slices that a snapshot is not of."""
    if snapshot.is_whole or not found.n_members:
        return False
    geometry = snapshot.case.geometry
    numbers = [geometry.to_source_slice(z) for z in range(geometry.shape[0])]
    left_out = (k for k, judged in zip(numbers, snapshot.judged, strict=True) if not judged)
    return found.is_whole or any(
        first <= k <= last for k in left_out for first, last in found.judged
    )


def _edited_path(folder: Path, name: str) -> Path:
    return output_paths(folder, name, edited=True)[EDITED]
