"""A run as it is at one moment, to be saved in another thread while samples still come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core.ensemble import Ensemble

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run, View
    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.record import EditRecord, ResultRecord, RunRecord


@dataclass(frozen=True, eq=False)
class Edit:
    """A mask that the user has painted on.

    Attributes
    ----------
    mask, copied : (Z, Y, X) bool
        As it is, and as it was when he began.
    run
        Whose mask was copied.
    earlier
        What had been painted before, in a result that was opened again.
    """

    mask: NDArray[np.bool_]
    copied: NDArray[np.bool_]
    run: str
    earlier: EditRecord | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is on screen of a run.

    Attributes
    ----------
    members : (S, Z, Y, X) uint8
        A view, not a copy: a slice of a member is written once, and `sampled` names those that
        have been. Copying 20 members would stall the window.
    sampled : (S, Z) bool
    judged : (Z,) bool
        Slices that volume and scores are about.
    z_range
        From the first to one past the last slice that was asked for.
    edit
        What the user has painted, if anything.
    """

    case: Case
    record: RunRecord
    view: View
    members: NDArray[np.uint8]
    sampled: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    z_range: tuple[int, int]
    edit: Edit | None = None

    @property
    def edited(self) -> NDArray[np.bool_] | None:
        """(Z, Y, X) bool: the mask that the user has painted on."""
        return None if self.edit is None else self.edit.mask

    @property
    def n_drawn(self) -> int:
        """Members that there are, whether or not they are looked at."""
        return len(self.members)

    @property
    def is_whole(self) -> bool:
        """Whether volume and scores are about every slice."""
        return bool(self.judged.all())

    def restore(self) -> tuple[Ensemble, ResultRecord]:
        """Make an ensemble and the record of the result, as they were; takes a second or two."""
        from napari_diffseg.core.consensus import decide, make_mask
        from napari_diffseg.core.describe import describe_result
        from napari_diffseg.core.findings import describe_edit

        ensemble = Ensemble.from_arrays(self.members, self.sampled)
        record = describe_result(
            self.case,
            ensemble,
            self.record,
            threshold=self.view.threshold,
            of=self.view.of,
            consensus=self.view.consensus,
            k=min(self.view.k, ensemble.n_members),
            z_range=self.z_range,
            judged=self.judged,
        )
        if self.edit is not None:
            maps = record.maps
            decision = decide(
                ensemble, maps.consensus, threshold=maps.threshold, k=maps.n_members, of=maps.of
            )
            mask, edit = make_mask(ensemble, decision), self.edit
            described = describe_edit(
                mask, edit.mask, edit.copied, self.case.geometry, edit.run, edit.earlier
            )
            record = replace(record, edited=described)
        return ensemble, record


def take_snapshot(run: Run, edit: Edit | None = None) -> Snapshot | None:
    """Take a snapshot of a run, in the thread that writes it; None before the first sample."""
    n_started = run.n_started
    if not n_started or run.record is None:
        return None
    asked = np.flatnonzero(run.asked | run.is_sampled)
    return Snapshot(
        case=run.case,
        record=run.record,
        view=run.view,
        members=run.ensemble.members_uint8(n_started),
        sampled=run.ensemble.sampled[:n_started].copy(),
        judged=run.evaluated.copy(),
        z_range=(int(asked[0]), int(asked[-1]) + 1),
        edit=edit,
    )


def save_snapshot(snapshot: Snapshot, folder: Path, *, samples: bool) -> dict[str, Path]:
    """Save mask, mean, variance, record and, if wanted, every sample; return where they are."""
    from napari_diffseg.core.export import save_result

    ensemble, record = snapshot.restore()
    return save_result(
        folder, snapshot.case, ensemble, record, samples=samples, edited=snapshot.edited
    )


def report_snapshot(snapshot: Snapshot, path: Path) -> Path:
    """Write the report of what is on screen; return where it is."""
    from napari_diffseg.core.report import save_report

    return save_report(path, snapshot.case, *snapshot.restore(), edited=snapshot.edited)
