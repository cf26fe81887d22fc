"""A split by patient: ``python -m training.make_split CACHE OUT.json``.

Several scans of one patient always go to the same side, as far as the cases' names or ``--keys``
tell whose they are: a network that has seen a brain before does better on it than it ever will on
a stranger's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_diffseg.core.case_files import some
from napari_diffseg.core.errors import CaseError, DiffsegError
from training.cache_index import read_index
from training.data import find_patient
from training.files import write_text


def make_split(
    cases: Sequence[str], validation_fraction: float, seed: int, keys: Mapping[str, str]
) -> dict[str, Any]:
    """Return a split as :func:`training.data.load_split` reads it.

    Parameters
    ----------
    cases
        Names of all cases.
    validation_fraction
        Share of the patients for validation; at least one patient stays on each side.
    seed
        Decides who.
    keys
        Patient of a case, where the name does not tell.

    Raises
    ------
    CaseError
        If there are fewer than two patients, or the share is not between 0 and 1.
    """
    if not 0 < validation_fraction < 1:
        raise CaseError(
            f"The share of the patients for validation is between 0 and 1, not "
            f"{validation_fraction:g}."
        )
    patient_of = {case: keys.get(case, find_patient(case)) for case in sorted(cases)}
    patients = sorted(set(patient_of.values()))
    if len(patients) < 2:
        raise CaseError(f"A split needs at least two patients, not {len(patients)}.")
    n_validation = min(max(1, round(validation_fraction * len(patients))), len(patients) - 1)
    order = np.random.default_rng(seed).permutation(len(patients))
    return _divide(patient_of, {patients[i] for i in order[:n_validation]})


def make_folds(
    cases: Sequence[str], n_folds: int, seed: int, keys: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the splits of a cross-validation: each patient is for validation in one of them.

    Parameters
    ----------
    cases
        Names of all cases.
    n_folds
        How many splits; sizes differ by one patient at most.
    seed
        Decides who is with whom.
    keys
        Patient of a case, where the name does not tell.

    Raises
    ------
    CaseError
        If there are fewer than two folds, or fewer patients than folds.
    """
    patient_of = {case: keys.get(case, find_patient(case)) for case in sorted(cases)}
    patients = sorted(set(patient_of.values()))
    if len(patients) < 2:
        raise CaseError(f"A cross-validation needs at least two patients, not {len(patients)}.")
    if not 2 <= n_folds <= len(patients):
        raise CaseError(
            f"A cross-validation of {len(patients)} patients has 2 to {len(patients)} folds, "
            f"not {n_folds}."
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    return [_divide(patient_of, {patients[i] for i in order[k::n_folds]}) for k in range(n_folds)]


def _divide(patient_of: Mapping[str, str], validation: set[str]) -> dict[str, Any]:
    return {
        "validation": [case for case, patient in patient_of.items() if patient in validation],
        "training": [case for case, patient in patient_of.items() if patient not in validation],
        "patient_key": dict(patient_of),
    }


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.make_split", description="Divide the cases of a cache by patient."
    )
    parser.add_argument("cache", type=Path, help="cache of training.prepare")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--validation", type=float, default=0.1, help="share of the patients (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--keys",
        type=Path,
        help="JSON file of patient by case, for cases of one patient with different names "
        "(BraTS renames them from year to year)",
    )
    return parser


def _read_keys(path: Path, cases: Collection[str]) -> dict[str, str]:
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaseError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise CaseError(
            f'{path} does not tell the patient of each case: it needs {{"CASE": "PATIENT", ...}}.'
        )
    unknown = sorted(set(keys) - set(cases))
    if keys and len(unknown) == len(keys):
        raise CaseError(f"{path} names no case that is in the cache, but {some(unknown)}.")
    if unknown:
        print(
            f"note: {path} names {len(unknown)} cases that are not in the cache: {some(unknown)}.",
            file=sys.stderr,
        )
    return keys


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        index = read_index(options.cache)
        if index is None:
            raise CaseError(f"{options.cache} is not a slice cache: run training.prepare first.")
        if options.out.exists():
            raise CaseError(f"{options.out} exists: a split is made once. Choose another name.")
        keys = {} if options.keys is None else _read_keys(options.keys, index.cases)
        split = make_split([*index.cases], options.validation, options.seed, keys)
        write_text(options.out, json.dumps(split, indent=1) + "\n")
    except (DiffsegError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    patients = split["patient_key"]
    parts = [
        f"{len(split[part])} cases of {len({patients[case] for case in split[part]})} patients"
        for part in ("training", "validation")
    ]
    print(f"{options.out}: {parts[0]} to train, {parts[1]} to validate.")
    if options.keys is None and len(set(patients.values())) == len(patients):
        print(
            "note: each case counts as a patient of its own. If some are of one patient, say so "
            "with --keys: otherwise the same brain may be in both parts.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
