"""The slice layout of the paper's code: names that its loader reads.

The loader (Wolleb et al. 2021, ``bratsloader.py``) takes every folder without subfolders for one
slice. The files in it are one for each modality, and one with the labels for training; which is
which is the fourth part of their names between underscores::

    training/brats_train_001_080/brats_train_001_t1_080_w.nii.gz

The name of the slice's folder becomes the name of the masks that are drawn for it
(``brats_train_001_080_output0``). Slices are counted from the lowest, from 0.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_diffseg.core.case_files import natural_key, some
from napari_diffseg.core.case_names import LABEL, MODALITIES, parse_name
from napari_diffseg.core.errors import CaseError

Kind = Literal[
    "t1",
    "t1ce",
    "t2",
    "flair",
    "seg",
    "mask",
    "mean",
    "variance",
    "disagreement",
    "edited",
    "output",
]

OUTPUT: Kind = "output"
"""A mask that the paper's code has drawn: a tensor, saved by ``torch.save``."""

MASK_KINDS: tuple[Kind, ...] = (LABEL, "mask", "edited")  # type: ignore[assignment]
"""What holds labels and not grey values."""

_N_PARTS = 3  # of a name before the modality
_NUMBERED = r"(?P<case>.+)_(?P<number>\d{1,5})"
_OUTPUT_NAME = re.compile(rf"{_NUMBERED}_output(?P<member>\d{{1,4}})", re.IGNORECASE)
_MAP_NAME = re.compile(
    rf"{_NUMBERED}_(?P<kind>mask|mean|variance|disagreement|edited)\.nii(?:\.gz)?", re.IGNORECASE
)


@dataclass(frozen=True)
class SliceFile:
    """One file about one slice, as its name describes it.

    Attributes
    ----------
    path
        The file.
    case
        Name of the case.
    kind
        A modality or "seg"; a map of ours; or "output".
    number
        Of the slice.
    member
        Which of the masks that the paper's code has drawn; otherwise 0.
    """

    path: Path
    case: str
    kind: Kind
    number: int
    member: int = 0


def parse_slice_name(path: Path) -> SliceFile | None:
    """Recognise a file about one slice by its name, or return None."""
    if match := _OUTPUT_NAME.fullmatch(path.name):
        return SliceFile(path, match["case"], OUTPUT, int(match["number"]), int(match["member"]))
    if path.name.startswith("."):
        return None
    if match := _MAP_NAME.fullmatch(path.name):
        kind: Kind = match["kind"].lower()  # type: ignore[assignment]
        return SliceFile(path, match["case"], kind, int(match["number"]))
    file = parse_name(path)
    if file is None or file.family != "slices" or file.number is None:
        return None
    if file.role not in (*MODALITIES, LABEL):
        return None
    return SliceFile(path, file.case, file.role, file.number)  # type: ignore[arg-type]


def make_slice_case(case_name: str) -> str:
    """Return the name of a case with three parts between underscores, as the loader needs it.

    Names like ``BraTS20_Training_001`` stay as they are; ``BraTS2021_00006`` becomes
    ``brats_case_BraTS2021-00006``.
    """
    if len(case_name.split("_")) == _N_PARTS and all(case_name.split("_")):
        return case_name
    return f"brats_case_{case_name.replace('_', '-')}"


def slice_folder_name(slice_case: str, number: int) -> str:
    """Return the name of the folder of one slice."""
    return f"{slice_case}_{number:03d}"


def slice_file_name(slice_case: str, role: str, number: int) -> str:
    """Return the name of the file of one modality, or of the labels, of one slice."""
    return f"{slice_case}_{role}_{number:03d}_w.nii.gz"


def find_slices(
    folder: Path, *, case: str | None = None, kind: Kind | None = None
) -> list[SliceFile]:
    """Find the files about slices of one case and one kind, in a folder or its subfolders.

    Parameters
    ----------
    folder
        As `slice_export` writes it or the paper's code (``results/generated_masks``), or with all
        files in it.
    case, kind
        Which, if there are several.

    Returns
    -------
    list
        At least one, by number and member.

    Raises
    ------
    CaseError
        There is nothing, there are several cases or kinds to choose from, or two files are for the
        same slice.
    """
    files = list(_scan(folder))
    if not files:
        raise CaseError(
            f"{folder} and its subfolders hold no file of a slice. Expected are names like "
            "CASE_seg_080_w.nii.gz, CASE_080_mask.nii.gz or, of the paper's code, CASE_080_output0."
        )
    files = _choose(files, "cases", "--case", "case", case, folder)
    files = _choose(files, "kinds of files", "--what", "kind", kind, folder)
    files.sort(key=lambda file: (file.number, file.member))
    for first, second in itertools.pairwise(files):
        if (first.number, first.member) == (second.number, second.member):
            raise CaseError(
                f"{first.path} and {second.path} are for the same slice. Move one of them away."
            )
    return files


def _scan(folder: Path) -> Iterable[SliceFile]:
    """Yield what is in a folder and in its visible subfolders."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: natural_key(entry.name),
            )
        folders = [folder, *(Path(entry.path) for entry in visible if entry.is_dir())]
        for each in folders:
            for path in sorted(each.iterdir()):
                file = parse_slice_name(path)
                if file is not None and path.is_file():
                    yield file
    except OSError as error:
        raise CaseError(f"{error.filename} cannot be read: {error.strerror or error}.") from error


def _choose(
    files: list[SliceFile],
    what: str,
    option: str,
    attribute: Literal["case", "kind"],
    wanted: str | None,
    folder: Path,
) -> list[SliceFile]:
    groups: dict[str, list[SliceFile]] = {}
    for file in files:
        groups.setdefault(str(getattr(file, attribute)).casefold(), []).append(file)
    names = [getattr(group[0], attribute) for group in groups.values()]
    if wanted is not None:
        if wanted.casefold() not in groups:
            raise CaseError(f"{folder} has no slices of {wanted}. There are {some(names)}.")
        return groups[wanted.casefold()]
    if len(groups) > 1:
        raise CaseError(
            f"{folder} has {len(groups)} {what} ({some(names)}). Choose one ({option})."
        )
    return files
