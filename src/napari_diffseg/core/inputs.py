"""What somebody names on a command line -- folders, files, many of them -- as a list of cases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from napari_diffseg.core.case_discovery import discover_case, discover_cases, tell_apart
from napari_diffseg.core.case_files import CaseFiles, Folders
from napari_diffseg.core.case_names import parse_name
from napari_diffseg.core.errors import CaseError


def expand_inputs(paths: Iterable[str | Path]) -> list[CaseFiles | CaseError]:
    """Return the cases that are meant, in the order given; no image is opened.

    A folder with several cases stands for all of them. Files of one case (``case/*.nii.gz``) make
    one case together. The same case given twice counts once.

    What cannot be used stands in the list as the error, so that the others can go on: nothing
    found, a modality missing or there twice, and a second case with a name that was there before
    (results are named after the case, so the second would replace those of the first). Cases
    whose folders only are called alike are told apart by the folders around them (`tell_apart`).
    """
    items = _drop_repeated(_discover(paths))
    names = iter(tell_apart([item for item in items if isinstance(item, CaseFiles)]))
    found: list[CaseFiles | CaseError] = []
    seen: set[str] = set()
    for each in items:
        item = each if isinstance(each, CaseError) else next(names)
        if isinstance(item, CaseError) or item.name.casefold() not in seen:
            found.append(item)
            seen.update([] if isinstance(item, CaseError) else [item.name.casefold()])
            continue
        found.append(
            CaseError(
                f"{next(iter(item.modalities.values()))}: another case is called {item.name}, too, "
                "and results are named after the case. Run it with another --out."
            )
        )
    return found


def _drop_repeated(items: Iterable[CaseFiles | CaseError]) -> list[CaseFiles | CaseError]:
    """Drop cases that were there before, by their files."""
    kept: list[CaseFiles | CaseError] = []
    seen: set[tuple[object, ...]] = set()
    for item in items:
        if isinstance(item, CaseFiles):
            key = (*(path.resolve() for path in item.modalities.values()), *item.slices)
            if key in seen:
                continue
            seen.add(key)
        kept.append(item)
    return kept


def _discover(paths: Iterable[str | Path]) -> list[CaseFiles | CaseError]:
    """Return every case of every path; files that belong together are taken together."""
    groups: dict[object, list[Path]] = {}
    for path in dict.fromkeys(map(Path, paths)):
        file = None if path.is_dir() else parse_name(path)
        groups.setdefault(path if file is None else (path.parent, *file.group), []).append(path)
    cases: list[CaseFiles | CaseError] = []
    folders = Folders()
    for group in groups.values():
        several = _cases_of_folder(group[0])
        if len(several) > 1:
            cases.extend(several)
            continue
        try:
            cases.append(discover_case(group, folders))
        except CaseError as error:
            cases.extend(several or [error])
    return cases


def _cases_of_folder(path: Path) -> list[CaseFiles | CaseError]:
    """Return the cases in a folder; nothing for anything else and for a lone unusable one.

    Incomplete sets of files in the folders below a case's own are strays.
    """
    if not path.is_dir():
        return []
    try:
        cases = discover_cases(path)
    except CaseError:
        return []
    usable = [case for case in cases if not case.problem]
    if len(usable) == 1 and path in _find_folders(usable[0]):
        cases = [case for case in cases if not case.problem or path in _find_folders(case)]
    if len(cases) == 1 and cases[0].problem:
        return []
    return [CaseError(case.problem) if case.problem else case for case in cases]


def _find_folders(case: CaseFiles) -> set[Path]:
    return {file.parent for file in case.modalities.values()}
