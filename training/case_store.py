"""The protocol and cases of an evaluation; finished cases that an interrupted one goes on from."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_diffseg.core.brats import CaseFiles, discover_cases
from napari_diffseg.core.case_files import some
from napari_diffseg.core.errors import CaseError, DiffsegError
from napari_diffseg.core.serialisation import from_dict
from training.baselines.segmenter import Segmenter
from training.cache_index import hash_file, source_paths
from training.data import find_patient, load_split
from training.files import write_text
from training.measure import CaseMeasurements

PROTOCOL_VERSION = 5
"""To be raised when the same ensemble would give other numbers, or more of them."""

PAPER_SLICES = (80, 129)
"""First slice and one past the last, counted from 0 (Wolleb et al. 2021, section 3.1)."""


@dataclass(frozen=True)
class Protocol:
    """What is measured."""

    slices: tuple[int, int] = PAPER_SLICES
    """Slice numbers of the files, first and one past the last."""
    all_slices: bool = False
    """Sample the whole volume, for 3-D scores of all of it."""


def parse_slices(text: str) -> tuple[int, int]:
    """Return the range of a text such as ``80:129``, for command lines.

    Raises
    ------
    argparse.ArgumentTypeError
        It is none.
    """
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 80:129")
    return int(first), int(end)


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the cases, for a process of its own."""

    number: int
    """From 1."""
    count: int

    def of(self, cases: Sequence[CaseFiles]) -> list[CaseFiles]:
        """Return its cases; no other shard has them."""
        return [*cases[self.number - 1 :: self.count]]


def parse_shard(text: str) -> Shard:
    """Return the shard of a text such as ``1/4``, for command lines.

    Raises
    ------
    argparse.ArgumentTypeError
        It is none.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share like 1/4 (of 4: 1 to 4)")
    return Shard(int(number), int(count))


class CaseStore:
    """Measurements of finished cases, one JSON file each, with what they depend on.

    Parameters
    ----------
    folder
        Made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str, key: dict[str, Any]) -> CaseMeasurements | None:
        """Return what was saved under this key; None if nothing (readable) was."""
        try:
            values = json.loads(self._path(name).read_text(encoding="utf-8"))
            if values["key"] != key:
                return None
            return from_dict(CaseMeasurements, values["measurements"])
        except (OSError, ValueError, KeyError, TypeError, DiffsegError):
            return None

    def save(self, name: str, key: dict[str, Any], measurements: CaseMeasurements) -> None:
        """Write the file of a case, complete or not at all."""
        values = {"key": key, "measurements": dataclasses.asdict(measurements)}
        write_text(self._path(name), json.dumps(values, allow_nan=False))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def make_key(
    files: CaseFiles, patient: str, segmenter: Segmenter, protocol: Protocol
) -> dict[str, Any]:
    """Return, as JSON has it, all that the measurements of a case depend on, save the device."""
    key = {
        "protocol": PROTOCOL_VERSION,
        "system": segmenter.system,
        "segmenter": segmenter.key,
        "patient": patient,
        "slices": list(protocol.slices),
        "all_slices": protocol.all_slices,
        "files": _list_states(files),
    }
    plain: dict[str, Any] = json.loads(json.dumps(key))
    return plain


def _list_states(files: CaseFiles) -> list[tuple[str, str]]:
    """Return name and content, which are the same wherever a cluster's node has its copy."""
    return [(path.name, hash_file(path)) for path in source_paths(files)]


def hash_states(cases: Sequence[CaseFiles]) -> str:
    """Return the SHA-256 of names and contents of all files: what changed is another case."""
    return hashlib.sha256(json.dumps([*map(_list_states, cases)]).encode()).hexdigest()


def choose_cases(
    folder: Path, split: Path | None, part: str
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Return the cases to evaluate, and the patient of each by the case's name.

    Without a split file these are all cases in the folder, and their names tell the patients.

    Raises
    ------
    CaseError
        No case is there, or one of the part is missing.
    """
    cases = discover_cases(folder)
    found = {case.name: case for case in cases}
    if not found:
        raise CaseError(f"{folder} holds no BraTS case.")
    if split is None:
        _check_once(cases, found)
        return [*found.values()], {name: find_patient(name) for name in found}
    loaded = load_split(split)
    names: tuple[str, ...] = getattr(loaded, part)
    if not names:
        raise CaseError(f"{split} has no {part} cases.")
    if missing := [name for name in names if name not in found]:
        raise CaseError(
            f"{folder} lacks {len(missing)} of the {len(names)} {part} cases of {split}: "
            f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}."
        )
    _check_once(cases, names)
    return [found[name] for name in names], {name: loaded.patients[name] for name in names}


def _check_once(cases: Sequence[CaseFiles], names: Iterable[str]) -> None:
    places: dict[str, list[str]] = {name: [] for name in names}
    for case in cases:
        if case.name in places:
            image = next(iter(case.modalities.values()), None)
            places[case.name].append(str(image.parent if image else case.name))
    for name, folders in places.items():
        if len(folders) > 1:
            raise CaseError(
                f"{len(folders)} cases are called {name}, in {some(folders)}: which one is meant? "
                "Give a folder that holds one of them."
            )
