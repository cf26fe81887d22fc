"""What a file name says about its content: the families of BraTS names, and nothing else.

Everything here works on names and never opens a file. Names are compared without regard to case.

=========== ============================================================ ==========================
family      files                                                        known from
=========== ============================================================ ==========================
brats2017   ``<case>_t1 _t1ce _t2 _flair _seg``                          BraTS 2017 to 2021
brats2023   ``<case>-t1n -t1c -t2w -t2f -seg``                           BraTS 2023 and later
bids        ``sub-01_T1w _ce-gadolinium_T1w _T2w _FLAIR``                Brain Imaging Data
                                                                         Structure
decathlon   ``imagesTr/BRATS_001``: FLAIR, T1w, T1gd, T2w in one file;   Medical Segmentation
            the label has the same name in ``labelsTr``                  Decathlon, Task01
slices      ``<case>_t1_080_w``: one 2-D file per modality and slice     Wolleb et al. 2021, code
=========== ============================================================ ==========================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Channel order of the prior image."""

DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")
"""Order of the volumes in a Decathlon file (its dataset.json: FLAIR, T1w, t1gd, T2w)."""

LABEL = "seg"

Family = Literal["brats2017", "brats2023", "bids", "decathlon", "slices"]

_ROLES = {
    "t1": "t1",
    "t1n": "t1",
    "t1w": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    "seg": LABEL,
    "segm": LABEL,
}
_NAMES_2023 = {"t1n", "t1c", "t2w", "t2f"}
_NAMES_BIDS = {"t1w", "t2w", "flair"}
_TOKEN = "|".join(sorted(_ROLES, key=len, reverse=True))
_SUFFIX = r"\.nii(?:\.gz)?"
_VOLUME = re.compile(rf"(?:(?P<stem>.*)[_-])?(?P<token>{_TOKEN}){_SUFFIX}", re.IGNORECASE)
_SLICE = re.compile(
    rf"(?:(?P<stem>.*)[_-])?(?P<token>{_TOKEN})[_-](?P<number>\d{{1,5}})(?:_w)?{_SUFFIX}",
    re.IGNORECASE,
)
_DECATHLON = re.compile(rf"(?P<stem>BRATS_\d+){_SUFFIX}", re.IGNORECASE)
_SUBJECT = re.compile(r"sub-[a-z0-9]+(?:_.*)?", re.IGNORECASE)
_OF_ONE_SCAN = re.compile(r"(?:^|_)(?P<entity>ce|acq|rec)-[a-z0-9]+(?=_|$)", re.IGNORECASE)
"""Entities of BIDS that tell one scan of a session from another, not the cases."""
_LONE_LABEL = re.compile(rf".*[_-]segm{_SUFFIX}", re.IGNORECASE)
_ANY_IMAGE = re.compile(rf"(?P<stem>[^.].*?){_SUFFIX}", re.IGNORECASE)
_ONE_CHANNEL = re.compile(r".*_\d{4}")  # nnU-Net's imagesTr: one file per channel
_IMAGE_FOLDERS = {"imagestr": "labelstr", "imagests": "labelsts"}
_LABEL_FOLDERS = {label: image for image, label in _IMAGE_FOLDERS.items()}


@dataclass(frozen=True)
class CaseFile:
    """One file of a case, as its name describes it.

    Attributes
    ----------
    path
        The file.
    family
        Family of the name; label files of 2017 and 2023 differ in nothing and count as 2017.
    case
        Name of the case: what stands before the modality, else the name of the folder. In BIDS
        without contrast agent, acquisition and reconstruction, which differ between modalities.
    role
        A modality, "seg", or "all" for a file with four modalities.
    number
        Slice number (family "slices"), else None.
    is_named_by_folder
        Whether nothing stands before the modality.
    """

    path: Path
    family: Family
    case: str
    role: str
    number: int | None = None
    is_named_by_folder: bool = False

    @property
    def group(self) -> tuple[str, str]:
        """Key that all files of one case share."""
        kind = self.family if self.family in ("decathlon", "slices") else "volume"
        return kind, self.case.casefold()


def is_image_name(name: str) -> bool:
    """Whether a name ends in .nii or .nii.gz and is not hidden (as macOS' ``._`` twins are)."""
    return _ANY_IMAGE.fullmatch(name) is not None


def counterpart_folder(folder: Path) -> str | None:
    """Name in lower case of the Decathlon folder with the labels of these images, or vice versa."""
    name = _folder_name(folder).lower()
    return _IMAGE_FOLDERS.get(name) or _LABEL_FOLDERS.get(name)


def is_label_folder(folder: Path) -> bool:
    """Whether a folder is ``labelsTr`` or ``labelsTs``."""
    return _folder_name(folder).lower() in _LABEL_FOLDERS


def parse_name(path: Path) -> CaseFile | None:
    """Recognise a file by its name (and that of its folder), or return None."""
    if not is_image_name(path.name):
        return None
    folder = _folder_name(path.parent).lower()
    if match := _VOLUME.fullmatch(path.name):
        return _parse_volume(path, match["stem"] or "", match["token"].lower())
    if match := _SLICE.fullmatch(path.name):
        stem, role = match["stem"], _ROLES[match["token"].lower()]
        case = stem or _folder_name(path.parent)
        return CaseFile(path, "slices", case, role, int(match["number"]), not stem)
    in_decathlon = folder in _IMAGE_FOLDERS or folder in _LABEL_FOLDERS
    match = _DECATHLON.fullmatch(path.name)
    if match is None and in_decathlon:
        match = _ANY_IMAGE.fullmatch(path.name)
    if match is None or (in_decathlon and _ONE_CHANNEL.fullmatch(match["stem"])):
        return None
    return CaseFile(path, "decathlon", match["stem"], LABEL if folder in _LABEL_FOLDERS else "all")


def _parse_volume(path: Path, stem: str, ending: str) -> CaseFile:
    """Read a name like ``<stem>_<ending>.nii.gz``."""
    role = _ROLES[ending]
    is_subject = _SUBJECT.fullmatch(stem) is not None
    family: Family = "brats2023" if ending in _NAMES_2023 else "brats2017"
    if ending == "t1w" or (ending == "t2w" and is_subject):
        family = "bids"
    rest = _OF_ONE_SCAN.sub("", stem)
    if is_subject or (ending in _NAMES_BIDS and not rest):
        entities = {match["entity"].lower() for match in _OF_ONE_SCAN.finditer(stem)}
        role = "t1ce" if role == "t1" and "ce" in entities else role
        stem = rest
    return CaseFile(
        path, family, stem or _folder_name(path.parent), role, is_named_by_folder=not stem
    )


def adopt_label(files: Sequence[CaseFile]) -> list[CaseFile]:
    """Give a lone label to the one case of a folder that has none, whatever its name.

    BraTS 2020 has ``W39_1998.09.19_Segm.nii`` beside the images of case 355. Only names that end in
    "segm" are meant: a lone "seg" may be somebody's prediction.
    """
    roles: dict[tuple[str, str], set[str]] = {}
    for file in files:
        roles.setdefault(file.group, set()).add(file.role)
    lone = [
        index
        for index, file in enumerate(files)
        if roles[file.group] == {LABEL} and _LONE_LABEL.fullmatch(file.path.name)
    ]
    complete = [
        group
        for group, there in roles.items()
        if group[0] == "volume" and there.issuperset(MODALITIES)
    ]
    if len(lone) != 1 or len(complete) != 1 or LABEL in roles[complete[0]]:
        return [*files]
    name = next(file.case for file in files if file.group == complete[0])
    adopted = replace(files[lone[0]], case=name)
    return [*files[: lone[0]], adopted, *files[lone[0] + 1 :]]


def _folder_name(folder: Path) -> str:
    # Path(".") and Path("..") have no name of their own
    return folder.name if folder.name not in ("", "..") else folder.resolve().name
