"""The sections of a report that are words and figures: all of them come from the record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from napari_diffseg.core import report_page as page
from napari_diffseg.core.consensus import USES_THRESHOLD
from napari_diffseg.core.profile_svg import draw_profile
from napari_diffseg.core.uncertainty import (
    N_LIKELY_HELD,
    N_MEASURED,
    N_RANGE_HELD,
    POSSIBLE_ABOVE,
    SURE_ABOVE,
)

if TYPE_CHECKING:
    from napari_diffseg.core.record import ResultRecord, VolumeRecord

DASH = "–"
_N_LISTED = 12


def tell_notes(record: ResultRecord) -> Iterator[str]:
    """Warn about the scan, and say that the mask was edited."""
    for note in record.case.notes:
        yield page.make_paragraph(f"About the scan: {note}", "warning")
    if record.edited is not None:
        edit = record.edited
        yield page.make_paragraph(
            f"The mask was edited by hand: {edit.n_added} voxels were added and {edit.n_removed} "
            f"removed, {edit.volume_ml:.2f} mL are left (Dice with the model's mask "
            f"{edit.dice_with_model:.3f}). The pictures show the edited mask; every other figure "
            "is about the model's.",
            "warning",
        )


def tell_figures(record: ResultRecord) -> Iterator[str]:
    """Give the figures to be read at a glance, and what they are about."""
    volume, scores = record.volume, record.scores
    tiles = [
        ("Volume", f"{volume.mask_ml:.2f} mL", say_interval(volume)),
        *_likely_tiles(volume),
        ("Expected volume", f"{volume.expected_ml:.2f} mL", "every voxel by its probability"),
    ]
    if record.confidence is not None:
        meaning = "mean pairwise Dice of the samples"
        tiles.append(("Confidence", f"{record.confidence:.3f}", meaning))
    if scores is not None:
        hd95 = DASH if scores.hd95_mm is None else f"{scores.hd95_mm:.1f} mm"
        tiles.append(("Dice with the truth", f"{scores.dice:.3f}", f"HD95 {hd95}"))
    yield page.make_tiles(tiles)
    verdict = record.verdict
    if verdict is not None:
        yield page.make_paragraph(verdict.text, "warning" if verdict.is_warning else "")
    parts = [f"{a}" if a == b else f"{a} to {b}" for a, b in record.maps.judged_slices]
    what = "the whole volume" if record.maps.whole_volume else f"slices {', '.join(parts)} only"
    yield page.make_paragraph(
        f"All figures are about {what}. Slices have the numbers that the file has, from 0.", "soft"
    )
    if volume.likely_low_ml is not None:
        yield page.make_paragraph(
            f"Likely volume: from that where the mean probability is above {SURE_ABOVE:g} to that "
            f"where it is above {POSSIBLE_ABOVE:g}. It held the true volume of {N_LIKELY_HELD} of "
            f"{N_MEASURED} patients, the range of the samples' own volumes that of {N_RANGE_HELD} "
            "(5 samples of networks of five folds that were trained for a shorter time, slices 80 "
            "to 128): no guarantee, and other scanners may differ.",
            "soft",
        )
    if record.is_part:
        yield page.make_paragraph(
            "The mask reaches the end of these slices: the volume is that of a part of the tumour.",
            "warning",
        )


def _likely_tiles(volume: VolumeRecord) -> Iterator[tuple[str, str, str]]:
    if volume.likely_low_ml is not None and volume.likely_high_ml is not None:
        # As many digits as stay on one line.
        digits = sum(volume.likely_high_ml < limit for limit in (10, 100))
        likely = f"{volume.likely_low_ml:.{digits}f}–{volume.likely_high_ml:.{digits}f}"
        yield "Likely volume, mL", likely, "by the mean probability"


def say_interval(volume: VolumeRecord) -> str:
    """Say what the members' volumes span."""
    if volume.low_ml is None or volume.high_ml is None or len(volume.members_ml) < 2:
        return "of the mask; an interval takes two complete samples"
    span = f"{volume.low_ml:.2f} to {volume.high_ml:.2f} mL"
    cut = "" if volume.members_threshold == 0.5 else f", cut at {volume.members_threshold:g}"
    return f"{span}, {volume.interval} of {len(volume.members_ml)} samples{cut}"


def tell_profile(record: ResultRecord) -> Iterator[str]:
    """Draw the volume of each slice."""
    drawing = draw_profile(record.slices)
    if drawing:
        yield page.make_heading("Volume of each slice")
        truth = " The dashed line is the expert labels'." if record.scores is not None else ""
        cut = f", cut at {record.volume.members_threshold:g}"
        yield page.make_paragraph(f"Line: mask. Band: the samples{cut}.{truth}", "soft")
        yield f"<figure>{drawing}</figure>"


def tell_work_list(record: ResultRecord) -> Iterator[str]:
    """List the slices to look at first."""
    yield page.make_heading("Where to look first")
    listed = record.work_list[:_N_LISTED]
    if not listed:
        compared = record.maps.n_members > 1
        told = "There is no slice on which the samples disagree."
        yield page.make_paragraph(told if compared else "It takes two samples to disagree.")
        return
    rest = len(record.work_list) - len(listed)
    more = f" {rest} more slices with less of it are in the record." if rest else ""
    yield page.make_paragraph(
        "Slices on which the samples' outlines are farthest apart (1 - mean pairwise Dice, times "
        f"the radius of what they outline).{more}",
        "soft",
    )
    entries = {entry.slice: entry for entry in record.slices}
    rows = []
    for rank, work in enumerate(listed, start=1):
        entry = entries[work.slice]
        band = f"{_number(entry.low_ml, 3)} to {_number(entry.high_ml, 3)}"
        rows.append(
            (
                str(rank),
                str(work.slice),
                f"{work.disagreement_mm:.2f}",
                _number(entry.mask_ml, 3),
                band,
                _number(entry.dice, 3),
            )
        )
    headings = ("", "Slice", "Disagreement, mm", "Mask, mL", "Samples, mL", "Dice with truth")
    yield page.make_table(headings, rows)


def tell_lesions(record: ResultRecord) -> Iterator[str]:
    """List the connected components of the mask."""
    yield page.make_heading("Lesions")
    if record.lesions is None or not record.lesions.lesions:
        yield page.make_paragraph("The mask is empty.")
        return
    rows = [
        (
            str(lesion.number),
            f"{lesion.volume_ml:.2f}",
            f"{lesion.mean_probability:.2f}",
            _number(lesion.disagreement, 2),
            str(lesion.largest_slice),
            str(lesion.n_slices),
            ", ".join(f"{mm:.0f}" for mm in lesion.centroid_ras_mm),
        )
        for lesion in record.lesions.lesions[:_N_LISTED]
    ]
    headings = ("", "mL", "Mean p", "Disagreement", "Largest on", "Slices", "Centre R, A, S in mm")
    yield page.make_table(headings, rows)
    rest = record.lesions.lesions[_N_LISTED:]
    n_more = len(rest) + record.lesions.n_more
    if n_more:
        more_ml = record.lesions.more_ml + sum(lesion.volume_ml for lesion in rest)
        yield page.make_paragraph(f"{n_more} smaller ones, {more_ml:.2f} mL together.", "soft")


def tell_making(record: ResultRecord) -> Iterator[str]:
    """Tell how the result was made."""
    run, maps, case = record.run, record.maps, record.case
    rule: str = maps.consensus
    if maps.consensus in USES_THRESHOLD:
        rule = f"{rule} > {maps.threshold:g}"
    spacing = " × ".join(f"{edge:.3g}" for edge in reversed(case.spacing_zyx_mm))
    yield page.make_heading("How it was made")
    facts = [
        ("Mask", f"{rule}, of {maps.n_members} samples' {maps.of}"),
        ("Samples drawn", str(len(record.members) or maps.n_members)),
        ("Sampler", f"{run.sampler}, {run.n_steps} steps, seed {run.seed}"),
        ("Every second sample mirrored", "yes" if run.mirror else "no"),
        ("Contrast varied between samples", "yes" if run.vary_contrast else "no"),
        ("Device", run.device),
        ("Time", DASH if run.elapsed_s is None else f"{run.elapsed_s:.1f} s"),
        ("Scan", f"{' × '.join(map(str, case.shape_xyz))} voxels of {spacing} mm"),
        *((f"Image {name}", path) for name, path in case.files.items()),
        ("Expert labels", case.label or "none"),
        ("Model", f"{run.model.name} ({run.model.file})"),
        ("What the model is", run.model.description or DASH),
        ("Samples begin from", " and ".join(run.model.encoders) or DASH),
        ("SHA-256 of the model", run.model.sha256),
        *(("Note", message) for message in run.messages),
        ("Software", ", ".join(f"{name} {value}" for name, value in record.software.items())),
    ]
    if run.eta is not None:
        facts.insert(3, ("Eta", f"{run.eta:g}"))
    yield page.make_facts(facts)


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"
