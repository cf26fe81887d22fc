"""What the training record of a model says: all runs that led to it, and what they took.

A run may begin from the weights of other models. The record of each of these is kept in its own,
so that the outermost record alone, which may be of a short last run, says little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ORIGINS = ("init", "init_encoder", "init_second_encoder")
"""Names, in the provenance of a trained network, of what its weights began from."""


@dataclass(frozen=True)
class TrainingEffort:
    """What all runs that led to a model took together."""

    images: int
    """Slices that were trained on, each as often as it was seen."""
    seconds: float


def find_records(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of a model and of all that it began from, each once, its own first."""
    found: dict[str, Mapping[str, Any]] = {"": provenance}

    def visit(record: Mapping[str, Any]) -> None:
        for name in ORIGINS:
            origin = record.get(name)
            if not isinstance(origin, Mapping):
                continue
            parent, key = origin.get("provenance"), str(origin.get("sha256", len(found)))
            if parent and isinstance(parent, Mapping) and key not in found:
                found[key] = parent
                visit(parent)

    visit(provenance)
    return list(found.values())


def sum_effort(provenance: Mapping[str, Any]) -> TrainingEffort | None:
    """Return what a model took, with all that it began from; None if no record tells it."""
    records = find_records(provenance)
    if not any("images_seen" in record for record in records):
        return None
    return TrainingEffort(
        images=int(sum(_read_number(record, "images_seen") for record in records)),
        seconds=sum(_read_number(record, "training_s") for record in records),
    )


def _read_number(record: Mapping[str, Any], name: str) -> float:
    """Return a number of a record; 0 where there is none, as files may say what they like."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
