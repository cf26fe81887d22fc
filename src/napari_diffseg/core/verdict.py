"""How sure a result is, in a sentence for a person."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

SURE = 0.9
UNSURE = 0.8
VERY_UNSURE = 0.6
"""Mean pairwise Dice of the members: below `SURE` it is worth a look, below `UNSURE` the user is
warned."""

_MOST_SLICES = 3


@dataclass(frozen=True)
class Verdict:
    """A sentence, and whether it is a warning."""

    text: str
    is_warning: bool


def judge(
    confidence: float | None,
    work_list: Sequence[int],
    *,
    mask_ml: float,
    n_with_tumour: int,
    n_samples: int,
) -> Verdict:
    """Say how far a result can be relied on.

    Parameters
    ----------
    confidence
        Mean pairwise Dice of the members, 0 to 1; None with fewer than two.
    work_list
        Numbers of the slices to look at, worst first.
    mask_ml
        Volume of the mask.
    n_with_tumour, n_samples
        Members whose own mask has a voxel, of all that have a slice; a stopped run's last member
        may have some slices only, and counts.
    """
    if confidence is None:
        return Verdict("One sample cannot tell how sure it is: draw more.", is_warning=False)
    look = _name_slices(work_list)
    if mask_ml == 0:
        if not n_with_tumour:
            return Verdict("No sample shows a tumour.", is_warning=False)
        return Verdict(
            f"The mask is empty, but {n_with_tumour} of {n_samples} samples show a tumour: do not "
            f"take this for “no tumour”{f' without looking at {look}' if look else ''}.",
            is_warning=True,
        )
    if confidence < UNSURE:
        how = "hardly agree" if confidence < VERY_UNSURE else "disagree much"
        without = f" without looking at {look}" if look else ""
        return Verdict(
            f"The samples {how} ({confidence:.2f}): do not rely on this volume{without}.",
            is_warning=True,
        )
    if confidence < SURE:
        first = f" Look at {look} first." if look else ""
        return Verdict(f"The samples mostly agree ({confidence:.2f}).{first}", is_warning=False)
    return Verdict(f"The samples agree well ({confidence:.2f}).", is_warning=False)


def goes_on_beyond(with_mask: Iterable[int], judged: Collection[int], n_slices: int) -> bool:
    """Say whether a mask reaches a slice whose neighbour in the scan was not looked at.

    Its volume is then that of a part of the tumour.

    Parameters
    ----------
    with_mask, judged
        Positions of the slices on which the mask has a voxel, and of those that it is about.
    n_slices
        Of the scan.
    """
    neighbours = {k for z in with_mask for k in (z - 1, z + 1)}
    return any(0 <= k < n_slices and k not in judged for k in neighbours)


def _name_slices(numbers: Sequence[int]) -> str:
    """Return "slice 71", "slices 71 and 66", "slices 71, 66 and 70"."""
    names = [str(number) for number in numbers[:_MOST_SLICES]]
    if len(names) < 2:
        return f"slice {names[0]}" if names else ""
    return f"slices {', '.join(names[:-1])} and {names[-1]}"
