"""The files of one case, chosen by their names: one per modality, or the reason why not."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from napari_diffseg.core.case_names import (
    LABEL,
    MODALITIES,
    CaseFile,
    Family,
    adopt_label,
    counterpart_folder,
    is_image_name,
    parse_name,
)
from napari_diffseg.core.errors import CaseError

EXPECTED_NAMES = (
    "A case has four files: <case>_t1, _t1ce, _t2, _flair (BraTS 2017-2021), <case>-t1n, -t1c, "
    "-t2w, -t2f (2023 and later) or <case>_T1w, _ce-gadolinium_T1w, _T2w, _FLAIR (BIDS), .nii or "
    ".nii.gz; or it is one 4-D file in imagesTr (Decathlon); or slices like <case>_t1_080_w.nii.gz."
)

_MAX_LISTED = 6


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes
    ----------
    name
        Name of the case; a single slice of the paper's layout has its number in it.
    family
        "brats2017", "brats2023", "bids", "decathlon" or "slices".
    modalities
        File of each modality, in the order of `MODALITIES`. Decathlon: the same file four times.
        Slices: the files of the first slice.
    label
        File of the expert labels (of the first slice), or None.
    slices
        Family "slices" only: slice number, ascending, to the files of its modalities and "seg".
    problem
        Why this case cannot be loaded (a modality is missing, or there are two candidates), None
        if nothing is wrong with the names. Only `discover_cases` returns such cases, so that a
        batch can report them and go on; `load_case` raises the text as `CaseError`.
    """

    name: str
    family: Family
    modalities: Mapping[str, Path]
    label: Path | None = None
    slices: Mapping[int, Mapping[str, Path]] = field(default_factory=dict)
    problem: str | None = None


class Folders:
    """The files of folders, each read once: a folder may hold the files of a thousand cases."""

    def __init__(self) -> None:
        self._scans: dict[Path, _Scan] = {}

    def scan(self, folder: Path) -> _Scan:
        """Return the files of known name directly in a folder; see `scan_folder` for errors."""
        if folder not in self._scans:
            self._scans[folder] = _Scan(scan_folder(folder))
        return self._scans[folder]


class _Scan:
    def __init__(self, files: Sequence[CaseFile]) -> None:
        self.by_path = {file.path: file for file in files}
        self.by_group: dict[tuple[str, str], list[CaseFile]] = {}
        for file in files:
            self.by_group.setdefault(file.group, []).append(file)


def build_case(
    files: Sequence[CaseFile],
    *,
    folder: Path,
    preferred: Iterable[Path] = (),
    folders: Folders | None = None,
) -> CaseFiles:
    """Choose one file per modality; what prevents this becomes the `problem`.

    Parameters
    ----------
    files
        At least one, all of one case (`CaseFile.group`).
    folder
        Where they were looked for, for messages.
    preferred
        Files that win over others for the same modality. In the slice layout they also select the
        slices.
    folders
        What is known of folders already, for those who build many cases.
    """
    chosen = set(preferred)
    if folder.name in ("", ".."):  # "missing in .." would be read as the folder above
        folder = folder.resolve()
    if files[0].family == "decathlon":
        return _build_decathlon(files, chosen, folders or Folders())
    if files[0].family == "slices":
        return _build_slices(files, chosen, folder)
    case = files[0].case
    picked, problem = _pick(files, chosen)
    if missing := _missing_text(picked):
        problem = problem or f"{case}: {missing} in {folder}.{found_text(folder)} {EXPECTED_NAMES}"
    return CaseFiles(
        case,
        _find_family(files, picked),
        _modalities(picked),
        picked.get(LABEL),
        problem=problem,
    )


def _find_family(files: Sequence[CaseFile], picked: Mapping[str, Path]) -> Family:
    """Tell the family by the names of the images that were chosen.

    "t1c" and "t2w" occur in other schemes, too, with the labels of before 2023: only "t1n" and
    "t2f" tell.
    """
    families = {file.role: file.family for file in files if picked[file.role] == file.path}
    if "bids" in families.values():
        return "bids"
    is_2023 = families.get("t1") == families.get("flair") == "brats2023"
    return "brats2023" if is_2023 else "brats2017"


def scan_folder(folder: Path) -> list[CaseFile]:
    """Return the files of known name directly in a folder.

    Raises
    ------
    CaseError
        The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if is_image_name(e.name) and e.is_file()]
    except OSError as error:
        raise CaseError(f"{folder} cannot be read: {error.strerror or error}.") from error
    parsed = (parse_name(folder / name) for name in sorted(names, key=natural_key))
    return adopt_label([file for file in parsed if file is not None])


def found_text(folder: Path) -> str:
    """Tell which images are in a folder, for the reader who looks for the wrong name."""
    try:
        with os.scandir(folder) as entries:
            there = [entry for entry in entries if is_image_name(entry.name)]
            names = sorted(entry.name for entry in there if entry.is_file())
            links = sorted(e.name for e in there if not e.is_file() and not e.is_dir())
    except OSError:
        return ""
    broken = ""
    if links:  # as of DataLad before its `get`
        broken = f" Links to files that are not there: {some(links)}. Get these files first."
    if links and not names:
        return broken
    return (f" Found: {some(names)}." if names else " No .nii or .nii.gz file is in it.") + broken


def some(items: Sequence[str | Path]) -> str:
    """Join names for a message, at most six."""
    shown = ", ".join(str(item) for item in items[:_MAX_LISTED])
    rest = len(items) - _MAX_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown


def hash_images(files: CaseFiles) -> dict[str, str]:
    """Return the SHA-256 of each modality's file, or of all its slice files one after the other.

    Empty if one of them cannot be read.
    """
    hashes = {}
    try:
        for modality in files.modalities:
            states = ((path, path.stat()) for path in _files_of(modality, files))
            key = tuple((path, state.st_size, state.st_mtime_ns) for path, state in states)
            hashes[modality] = _hash_files(key)
    except OSError:
        return {}
    return hashes


def find_last_change(files: CaseFiles) -> int:
    """Return when the youngest of the images was written, in ns; 0 if one is not there."""
    paths = (path for modality in files.modalities for path in _files_of(modality, files))
    try:
        return max((path.stat().st_mtime_ns for path in paths), default=0)
    except OSError:
        return 0


def _files_of(modality: str, files: CaseFiles) -> tuple[Path, ...]:
    stack = tuple(members[modality] for members in files.slices.values())
    return stack or (files.modalities[modality],)


@lru_cache(maxsize=8192)  # of two thousand cases
def _hash_files(states: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash files one after the other; size and time tell those that have changed since."""
    digest = hashlib.sha256()
    for path, _, _ in states:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key in which case_9 comes before case_10."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def _build_slices(files: Sequence[CaseFile], chosen: set[Path], folder: Path) -> CaseFiles:
    case = files[0].case
    wanted = {file.number for file in files if file.path in chosen}
    by_number: dict[int, list[CaseFile]] = {}
    for file in files:
        if file.number is not None and (not wanted or file.number in wanted):
            by_number.setdefault(file.number, []).append(file)
    slices: dict[int, Mapping[str, Path]] = {}
    problem = None
    for number in sorted(by_number):
        picked, doubt = _pick(by_number[number], chosen)
        if missing := _missing_text(picked):
            doubt = doubt or f"{case}, slice {number}: {missing} in {folder}.{found_text(folder)}"
        problem = problem or doubt
        slices[number] = picked
    unlabelled = [str(number) for number, members in slices.items() if LABEL not in members]
    if 0 < len(unlabelled) < len(slices):
        problem = problem or (
            f"{case}: slices {some(unlabelled)} have no seg file in {folder}, the others have. "
            "Add these files, or move all seg files away."
        )
    number, first = next(iter(slices.items()))
    return CaseFiles(
        f"{case}_{number:03d}" if len(slices) == 1 else case,
        "slices",
        _modalities(first),
        first.get(LABEL),
        slices,
        problem,
    )


def _build_decathlon(files: Sequence[CaseFile], chosen: set[Path], folders: Folders) -> CaseFiles:
    """Complete an image by its label, or a label by its image, from the folder beside."""
    first = files[0]
    folder = first.path.parent
    beside = _folder_beside(folder)
    known = {file.path for file in files}
    others = [
        file
        for file in (folders.scan(beside).by_group.get(first.group, []) if beside else [])
        if file.path not in known
    ]
    picked, problem = _pick([*files, *others], chosen)
    image = picked.get("all")
    if image is None:
        problem = problem or (
            f"{first.path} is a label and its image is missing: no {first.case}.nii.gz in "
            f"{beside or folder.with_name('imagesTr')}."
        )
    modalities = {} if image is None else dict.fromkeys(MODALITIES, image)
    return CaseFiles(first.case, "decathlon", modalities, picked.get(LABEL), problem=problem)


def _folder_beside(folder: Path) -> Path | None:
    """Find labelsTr for imagesTr and the other way round, whatever the case of the letters."""
    wanted = counterpart_folder(folder)
    parent = folder.parent if folder.name else folder.resolve().parent
    if wanted is None:
        return None
    try:
        with os.scandir(parent) as entries:
            names = [e.name for e in entries if e.name.lower() == wanted and e.is_dir()]
    except OSError:
        return None
    return parent / names[0] if names else None


def _pick(files: Sequence[CaseFile], chosen: set[Path]) -> tuple[dict[str, Path], str | None]:
    """Return one file per role, and the complaint about a role that has two."""
    picked: dict[str, Path] = {}
    problem = None
    for role in dict.fromkeys(file.role for file in files):
        candidates = [file.path for file in files if file.role == role]
        preferred = [path for path in candidates if path in chosen] or candidates
        picked[role] = preferred[0]
        if len(preferred) > 1:
            what = "the image" if role == "all" else role
            problem = problem or (
                f"{files[0].case}: there are {len(preferred)} files for {what}: "
                f"{' and '.join(str(path) for path in preferred)}. "
                "Move all but one away, or open the case by the file that you want."
            )
    return picked, problem


def _modalities(picked: Mapping[str, Path]) -> dict[str, Path]:
    return {modality: picked[modality] for modality in MODALITIES if modality in picked}


def _missing_text(picked: Mapping[str, Path]) -> str:
    missing = [modality for modality in MODALITIES if modality not in picked]
    if not missing:
        return ""
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
