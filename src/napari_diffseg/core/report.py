"""A result as one HTML file: what to look at, how large, how sure, and how it was made.

Every figure comes from the record, which the page carries along as JSON.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from napari_diffseg.core import report_page as page
from napari_diffseg.core import report_sections as sections
from napari_diffseg.core.consensus import decide, make_mask
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import check_outputs, make_output_folder, record_to_json, write_page
from napari_diffseg.core.figures import MAX_VARIANCE, VIRIDIS, SlicePainter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_diffseg.core.brats import Case
    from napari_diffseg.core.ensemble import Ensemble
    from napari_diffseg.core.record import ResultRecord

DISCLAIMER = (
    "Research use only, not a medical device. The figures say how well the samples of one model "
    "agree with each other. They do not say that the segmentation is right: all samples can be "
    "wrong together."
)

N_PICTURES = 5
_APART_MM = 5.0


def save_report(
    path: Path,
    case: Case,
    ensemble: Ensemble,
    record: ResultRecord,
    edited: NDArray[np.bool_] | None = None,
) -> Path:
    """Write the report; an existing file is replaced.

    Raises
    ------
    DiffsegError
        The file cannot be written, or is one of the case's own.
    """
    check_outputs([path], case.files)
    make_output_folder(path.parent)
    text = make_report(case, ensemble, record, edited)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        write_page(temporary, text)
        temporary.replace(path)
    except OSError as error:
        raise DiffsegError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def make_report(
    case: Case,
    ensemble: Ensemble,
    record: ResultRecord,
    edited: NDArray[np.bool_] | None = None,
    made_at: datetime | None = None,
) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    case, ensemble, record
        The record is the one that `describe_result` made of the other two.
    edited : (Z, Y, X) bool, optional
        A mask that somebody has painted on: it is outlined instead of the model's.
    made_at
        Default: now.
    """
    date = (made_at or datetime.now(UTC).astimezone()).strftime("%Y-%m-%d %H:%M %Z")
    body = [
        f'<p class="soft">Brain tumour segmentation, {date}</p>',
        f"<h1>{escape(case.name)}</h1>",
        page.make_paragraph(DISCLAIMER, "warning"),
        *sections.tell_notes(record),
        *sections.tell_figures(record),
        *_show_slices(case, ensemble, record, edited),
        *sections.tell_profile(record),
        *sections.tell_work_list(record),
        *sections.tell_lesions(record),
        *sections.tell_making(record),
    ]
    return page.make_page(f"{case.name} – segmentation report", body, record_to_json(record, {}))


def choose_slices(record: ResultRecord, spacing_z_mm: float) -> list[tuple[int, str]]:
    """Choose slices to show, with the reason: the largest, and where members disagree most.

    Neighbours look alike, so slices less than 5 mm apart from one that is chosen are left out.
    Where nothing is marked and nobody disagrees, it is the one in the middle.
    """
    if not record.slices:
        return []
    largest = max(record.slices, key=lambda entry: entry.mask_mm2)
    is_marked = largest.mask_mm2 > 0
    chosen = [(largest.slice, "largest area of the mask")] if is_marked else []
    for rank, entry in enumerate(record.work_list, start=1):
        near = any(abs(entry.slice - other) * spacing_z_mm < _APART_MM for other, _ in chosen)
        is_largest = is_marked and entry.slice == largest.slice
        if near and not is_largest:
            continue
        reason = f"no. {rank} of the work list, disagreement {entry.disagreement_mm:.1f} mm"
        if is_largest:
            chosen[0] = (largest.slice, f"{chosen[0][1]}; {reason}")
        elif len(chosen) < N_PICTURES:
            chosen.append((entry.slice, reason))
    if not chosen:
        chosen = [(record.slices[len(record.slices) // 2].slice, "the middle, nothing is marked")]
    return chosen


def _show_slices(
    case: Case, ensemble: Ensemble, record: ResultRecord, edited: NDArray[np.bool_] | None
) -> Iterator[str]:
    maps = record.maps
    k, of = maps.n_members, maps.of
    mask = edited
    if mask is None:
        decision = decide(ensemble, maps.consensus, threshold=maps.threshold, k=k, of=of)
        mask = make_mask(ensemble, decision)
    variance = ensemble.variance_map(k, of)
    painter = SlicePainter(case)
    ramp = ", ".join(f"rgb{colour}" for colour in VIRIDIS)
    truth = ""
    if case.wt_truth is not None:
        truth = '<span class="key" style="border-color:#e69f00"></span>expert labels '
    yield page.make_heading("Slices to look at")
    yield (
        '<p class="soft"><span class="key" style="border-color:#56b4e9"></span>'
        f"{'edited mask' if edited is not None else 'mask'} {truth}on FLAIR. Right: variance 0"
        f'<span class="ramp" style="background:linear-gradient(90deg, {ramp})"></span>'
        f"{MAX_VARIANCE}, between the samples plus within each: high where they do not know. "
        "The patient's left is on the right.</p>"
    )
    for number, reason in choose_slices(record, case.geometry.spacing_mm[0]):
        z = case.geometry.from_source_slice(number)
        outlines = painter.paint_outlines(z, mask, case.wt_truth)
        yield (
            '<figure class="pair">'
            + page.make_picture(outlines, f"Slice {number} with the outline of the mask")
            + page.make_picture(painter.paint_variance(z, variance), f"Variance on slice {number}")
            + f"<figcaption><b>Slice {number}</b>: {escape(reason)}</figcaption></figure>"
        )
