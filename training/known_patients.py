"""Which patients a model was trained on, and so knows: its figures for these say little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_diffseg.core.provenance import find_records
from training.data import hash_cases, load_split, name_training_patients

SETTING = "patients_trained_on"
"""How many of an evaluation's patients they are, in its settings; empty if nobody knows."""
_SPLITS = Path(__file__).resolve().parent / "splits"


def find_training_patients(provenance: Mapping[str, Any]) -> frozenset[str]:
    """Return the patients that weights, or those that they began from, were trained on.

    Earlier records have the hash of their names alone; it tells where the split is one of ours.
    """
    found: set[str] = set()
    for record in find_records(provenance):
        if "training_patients" in record:
            found.update(map(str, record["training_patients"]))
        elif "data_hash" in record:
            for split in map(load_split, _SPLITS.glob("*.json")):
                if hash_cases(split.training) == record["data_hash"]:
                    found |= name_training_patients(split)
    return frozenset(found)


def describe_known_patients(settings: Mapping[str, str]) -> str:
    """Say that an evaluation has patients that its model was trained on; empty if it has none."""
    n_known = settings.get(SETTING, "")
    if not n_known.isdecimal() or int(n_known) == 0:
        return ""
    return (
        f"trained on {n_known} of the patients that it is evaluated on, so these figures are "
        "better than on others."
    )
