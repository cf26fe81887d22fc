"""What the list of cases says of one case, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_diffseg._widgets.readout_section import format_ml, format_span

if TYPE_CHECKING:
    from napari_diffseg._widgets.case_queue import Entry
    from napari_diffseg.core.summary import CaseSummary

_OTHER_IMAGES = (
    "The result that is saved under this name is of {images}. {run_all}; "
    "choose another folder for results in the Preferences to keep both."
)
_ASKS, _LEAVES = "Run all asks before it is replaced", "It was edited, so Run all leaves it alone"
_ABOUT_STATE = {
    "other model": "{n}, drawn by another model ({model}) than the one below. "
    "Run all asks before it draws the case anew.",
    "other settings": "{n}, drawn with other settings than those below: {settings}. "
    "Run all asks before it draws the case anew.",
    "edited": "Somebody has painted on the mask: Run all leaves it alone.",
}
_SETTINGS = {
    "sampler": "sampler {sampler}",
    "n_steps": "{n_steps} steps",
    "seed": "seed {seed}",
    "eta": "eta {eta:g}",
    "mirror": "every second sample mirrored: {mirror}",
    "vary_contrast": "contrast varied: {vary_contrast}",
}


def describe_state(entry: Entry) -> str:
    """Say what there is to know of a case's state; often nothing."""
    if entry.state == "other images":
        run_all = _LEAVES if entry.found.is_edited else _ASKS
        return _OTHER_IMAGES.format(images=entry.found.other_images, run_all=run_all)
    if entry.problem or entry.summary is None:
        return entry.problem
    drawing = entry.found.drawing
    names = [_SETTINGS[name] for name in entry.differences if name in _SETTINGS]
    return _ABOUT_STATE.get(entry.state, "").format(
        n=f"{entry.n_members} sample{'s' * (entry.n_members != 1)}",
        model=entry.summary.model,
        settings=", ".join(name.format(**vars(drawing)) for name in names),
    )


def show_volume(entry: Entry) -> str:
    """Return the volume in mL of the mask, the edited one if there is one."""
    summary = entry.summary
    if summary is None:
        return ""
    return format_ml(summary.mask_ml if summary.edited_ml is None else summary.edited_ml)


def show_interval(entry: Entry) -> str:
    """Return what the samples' volumes span, in mL; nothing beside the volume of an edited mask."""
    summary = entry.summary
    return "" if summary is None or summary.edited else _show_span(summary)


def describe_volume(entry: Entry) -> str:
    """Say the same in a sentence, and how sure it is."""
    summary = entry.summary
    if summary is None:
        return ""
    parts = [f"Mask {format_ml(summary.mask_ml)} mL"]
    if summary.likely_low_ml is not None and summary.likely_high_ml is not None:
        parts.append(f"likely {format_span(summary.likely_low_ml, summary.likely_high_ml)} mL")
    span = _show_span(summary)
    if span:
        kind = "range" if summary.interval == "range" else summary.interval
        parts.append(f"samples {span} mL ({kind} of {summary.n_samples})")
    if summary.edited_ml is not None:
        parts.append(f"edited {format_ml(summary.edited_ml)} mL")
    if summary.confidence is not None:
        parts.append(f"confidence {summary.confidence:.2f}")
    return f"{', '.join(parts)}. {summary.verdict}".strip()


def _show_span(summary: CaseSummary) -> str:
    if summary.low_ml is None or summary.high_ml is None or summary.n_samples < 2:
        return ""
    return format_span(summary.low_ml, summary.high_ml)


def sort_key(entry: Entry) -> float:
    """Return what the least sure cases come first by; those without a confidence are last."""
    confidence = None if entry.summary is None else entry.summary.confidence
    return 2.0 if confidence is None else confidence
