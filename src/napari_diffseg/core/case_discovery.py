"""Finding cases in folders, by names only: no file is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from napari_diffseg.core.case_files import (
    EXPECTED_NAMES,
    CaseFiles,
    Folders,
    build_case,
    found_text,
    natural_key,
    scan_folder,
    some,
)
from napari_diffseg.core.case_names import (
    LABEL,
    MODALITIES,
    CaseFile,
    is_label_folder,
    parse_name,
)
from napari_diffseg.core.errors import CaseError

_MAX_DEPTH = 4  # root / MICCAI_..._TrainingData / HGG / case, and one to spare
_MAX_DEPTH_ONE_CASE = 2  # somebody may drop a home folder
_MAX_PEEKED_FOLDERS = 20

_Groups = list[list[CaseFile]]
_NOT_OURS = ("lost+found", "System Volume Information", "$RECYCLE.BIN")
"""Folders that no user may read, or that hold what was thrown away, at the top of many disks."""


def discover_case(
    paths: str | Path | Sequence[str | Path], folders: Folders | None = None
) -> CaseFiles:
    """Find all files of the one case that the input belongs to.

    Parameters
    ----------
    paths
        A folder (or a folder around just one case), any one file of a case (its siblings are
        found), or several files of one case; a file that is given wins over a sibling for the same
        modality. Files of the slice layout stand for their slices, a folder for all its slices.
    folders
        What is known of folders already, for those who ask for many cases.

    Raises
    ------
    CaseError
        Nothing found, several cases, a missing modality or two candidates for one.
    """
    given = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not given:
        raise CaseError(f"No file was given. {EXPECTED_NAMES}")
    for path in given:
        if not path.exists():
            raise CaseError(f"{path} does not exist.")
    if len(given) == 1 and given[0].is_dir():
        files = _from_folder(given[0])
    elif any(path.is_dir() for path in given):
        raise CaseError(f"Open one case at a time: a folder or its files, not {some(given)}.")
    else:
        files = _from_files(given, folders or Folders())
    if files.problem:
        raise CaseError(files.problem)
    return files


def discover_cases(folder: str | Path) -> list[CaseFiles]:
    """Find the cases in and below a folder, in natural order; stray files are ignored.

    Works on folders of case folders, up to four levels deep, on Decathlon folders and on folders
    with the files of many cases. Cases that would be called alike because their folders are, as in
    ``sub-01/anat``, get the names of the folders around these, too (`tell_apart`).

    An incomplete case is returned with its `problem`, see `CaseFiles`, and so is a folder that
    cannot be read; a lone file beside other cases is a stray. An empty list means that nothing
    looks like a case.

    Raises
    ------
    CaseError
        `folder` is no folder or cannot be read.
    """
    folder = Path(folder)
    folders = Folders()
    cases = _build_all(_groups(scan_folder(folder)), folder, folders)
    return tell_apart(cases + _cases_below(folder, _MAX_DEPTH, folders))


def folder_names(files: CaseFiles) -> list[str]:
    """Return what a case may be called that has no name but that of its folder, the shortest first.

    That name, and longer ones with those of the folders around it: "anat", "sub-01_anat" and so on.
    Empty if the files bear the case's own name.
    """
    path = next(iter(files.modalities.values()), None)
    file = None if path is None else parse_name(path)
    if path is None or file is None or not file.is_named_by_folder:
        return []
    suffix = f"_{next(iter(files.slices)):03d}" if len(files.slices) == 1 else ""
    parts = Path(os.path.abspath(path.parent)).parts[1:]  # noqa: PTH100 (without "..")
    return ["_".join(parts[-n:]) + suffix for n in range(1, len(parts) + 1)]


def tell_apart(cases: Sequence[CaseFiles]) -> list[CaseFiles]:
    """Name cases whose folders are called alike by the folders around these, too.

    ``sub-01/anat`` and ``sub-02/anat`` become "sub-01_anat" and "sub-02_anat"; with as many folders
    as it takes. Cases whose files bear their name keep it: two of one name are likely one case.
    """
    named = [folder_names(case) for case in cases]
    groups: dict[str, list[int]] = {}
    for index, names in enumerate(named):
        if names:
            groups.setdefault(names[0].casefold(), []).append(index)
    told = [*cases]
    for group in groups.values():
        for n in range(max(len(named[index]) for index in group)):
            names = [named[index][: n + 1][-1] for index in group]
            if len({name.casefold() for name in names}) == len(group):
                for index, name in zip(group, names, strict=True):
                    told[index] = replace(cases[index], name=name)
                break
    return told


def is_brats_path(path: str | Path | Sequence[str | Path]) -> bool:
    """Whether names look like a BraTS case: cheap, opens nothing, never raises.

    True for a file (or several) with a name of a known family, a folder with such files, and a
    folder whose subfolders have them. Whether the case is complete is for `discover_case` to say.
    """
    try:
        given = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
        return bool(given) and all(_looks_like_brats(p) for p in given)
    except (CaseError, OSError, TypeError, ValueError):
        return False


def _looks_like_brats(path: Path) -> bool:
    if not path.is_dir():
        return parse_name(path) is not None
    if _groups(scan_folder(path)):
        return True
    return any(_groups(scan_folder(sub)) for sub in _subfolders(path)[:_MAX_PEEKED_FOLDERS])


def _from_folder(folder: Path) -> CaseFiles:
    groups = _groups(scan_folder(folder))
    complete = [group for group in groups if _is_complete(group)]
    below = [] if complete else _cases_below(folder, _MAX_DEPTH_ONE_CASE, Folders())
    below = [case for case in below if case.modalities]  # not folders that cannot be read
    if groups and not any(case.problem is None for case in below):
        candidates = complete or _fullest(groups)
        names = [group[0].case for group in candidates]
        if len(candidates) == 1:
            return build_case(candidates[0], folder=folder)
    else:
        names = [case.name for case in below]
        if len(below) == 1:
            return below[0]
    if not names:
        raise CaseError(f"{folder} holds no BraTS case.{found_text(folder)} {EXPECTED_NAMES}")
    names.sort(key=natural_key)
    raise CaseError(f"{folder} holds {len(names)} cases ({some(names)}). Open one of them.")


def _from_files(given: Sequence[Path], folders: Folders) -> CaseFiles:
    scans = [folders.scan(folder) for folder in dict.fromkeys(path.parent for path in given)]
    files = []
    for path in given:
        scanned = (scan.by_path.get(path) for scan in scans)
        file = next((file for file in scanned if file is not None), None) or parse_name(path)
        if file is None:
            raise CaseError(f"{path} has no name of a BraTS file. {EXPECTED_NAMES}")
        files.append(file)
    if len({file.group for file in files}) > 1:
        names = sorted({file.case for file in files}, key=natural_key)
        raise CaseError(
            f"The files belong to {len(names)} cases ({some(names)}). Open one case at a time."
        )
    known = {file.path for file in files}
    siblings = [
        sibling
        for scan in scans
        for sibling in scan.by_group.get(files[0].group, [])
        if sibling.path not in known
    ]
    return build_case([*files, *siblings], folder=given[0].parent, preferred=known, folders=folders)


def _cases_below(folder: Path, depth: int, folders: Folders) -> list[CaseFiles]:
    cases: list[CaseFiles] = []
    for sub in _subfolders(folder) if depth else []:
        try:
            files = scan_folder(sub)
        except CaseError as error:
            cases.append(CaseFiles(str(sub), "brats2017", {}, problem=str(error)))
            continue
        cases += _build_all(_groups(files), sub, folders)
        cases += _cases_below(sub, depth - 1, folders)
    return cases


def _build_all(groups: _Groups, folder: Path, folders: Folders) -> list[CaseFiles]:
    """Build the cases of one folder; one lone file beside others is a stray and no case."""
    cases = [group for group in groups if _is_complete(group) or len(group) > 1] or groups
    return [build_case(group, folder=folder, folders=folders) for group in cases]


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, without those of Decathlon labels or the system."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError:
        return []
    subfolders = [folder / name for name in sorted(names, key=natural_key)]
    return [s for s in subfolders if s.name not in _NOT_OURS and not is_label_folder(s)]


def _groups(files: Iterable[CaseFile]) -> _Groups:
    """Sort files into cases; lone labels, for example somebody's predictions, are strays."""
    groups: dict[tuple[str, str], list[CaseFile]] = {}
    for file in files:
        groups.setdefault(file.group, []).append(file)
    return [group for group in groups.values() if _roles(group) != {LABEL}]


def _fullest(groups: _Groups) -> _Groups:
    """Of incomplete cases the one with most modalities is meant; the others are misnamed."""
    most = max(len(_roles(group)) for group in groups)
    return [group for group in groups if len(_roles(group)) == most]


def _is_complete(group: Sequence[CaseFile]) -> bool:
    return "all" in _roles(group) or _roles(group).issuperset(MODALITIES)


def _roles(group: Sequence[CaseFile]) -> set[str]:
    return {file.role for file in group}
