"""Numbers as cells of a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from training.bootstrap import Value, bootstrap_interval
from training.results import SliceRow


def score_cell(
    rows: Sequence[SliceRow], full: Sequence[SliceRow], score: Callable[[SliceRow], float]
) -> str:
    """Return mean [mean over non-empty predictions] (interval) of a score of slices."""
    bracket = f"{np.mean([score(row) for row in full]):.3f}" if full else "-"
    values = [(row.patient, score(row)) for row in rows]
    return mean_with_interval(values, 3, f" [{bracket}]")


def mean_with_interval(values: Sequence[Value], digits: int, bracket: str = "") -> str:
    """Return a mean with the 95 % interval over patients."""
    if not values:
        return "-"
    text = f"{np.mean([value for _, value in values]):.{digits}f}{bracket}"
    interval = bootstrap_interval(values)
    if interval is None:
        return text
    return f"{text} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def signed_mean(values: Sequence[Value]) -> str:
    """Return the mean of differences with their sign, and the interval over patients."""
    interval = bootstrap_interval(values)
    # Adding 0 turns -0.0, which rounding makes of small negative numbers, into 0.0.
    mean, *ends = (
        f"{round(number, 3) + 0.0:+.3f}"
        for number in (float(np.mean([value for _, value in values])), *(interval or ()))
    )
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is aligned as plain text as well."""
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (head, rule, *lines)
    )
