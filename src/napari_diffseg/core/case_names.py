"""What a file name says about its content: the families of BraTS names, and nothing else.

Everything here works on names and never opens a file. Names are compared without regard to case.

=========== ============================================================ ==========================
family      files                                                        known from
=========== ============================================================ ==========================
brats2017   ``<case>_t1 _t1ce _t2 _flair _seg``                          BraTS 2017 to 2021
brats2023   ``<case>-t1n -t1c -t2w -t2f -seg``                           BraTS 2023 and later
decathlon   ``imagesTr/BRATS_001``: FLAIR, T1w, T1gd, T2w in one file;   Medical Segmentation
            the label has the same name in ``labelsTr``                  Decathlon, Task01
slices      ``<case>_t1_080_w``: one 2-D file per modality and slice     Wolleb et al. 2021, code
=========== ============================================================ ==========================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Channel order of the prior image."""

DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")
"""Order of the volumes in a Decathlon file (its dataset.json: FLAIR, T1w, t1gd, T2w)."""

LABEL = "seg"

Family = Literal["brats2017", "brats2023", "decathlon", "slices"]

_ROLES = {
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    "seg": LABEL,
}
_NAMES_2023 = {"t1n", "t1c", "t2w", "t2f"}
_TOKEN = "|".join(sorted(_ROLES, key=len, reverse=True))
_SUFFIX = r"\.nii(?:\.gz)?"
_VOLUME = re.compile(rf"(?:(?P<stem>.*)[_-])?(?P<token>{_TOKEN}){_SUFFIX}", re.IGNORECASE)
_SLICE = re.compile(
    rf"(?:(?P<stem>.*)[_-])?(?P<token>{_TOKEN})[_-](?P<number>\d{{1,5}})(?:_w)?{_SUFFIX}",
    re.IGNORECASE,
)
_DECATHLON = re.compile(rf"(?P<stem>BRATS_\d+){_SUFFIX}", re.IGNORECASE)
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
        Name of the case: what stands before the modality, else the name of the folder.
    role
        A modality, "seg", or "all" for a file with four modalities.
    number
        Slice number (family "slices"), else None.
    """

    path: Path
    family: Family
    case: str
    role: str
    number: int | None = None

    @property
    def group(self) -> tuple[str, str]:
        """Key that all files of one case share."""
        kind = "volume" if self.family.startswith("brats") else self.family
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
        token = match["token"].lower()
        family: Family = "brats2023" if token in _NAMES_2023 else "brats2017"
        return CaseFile(path, family, match["stem"] or _folder_name(path.parent), _ROLES[token])
    if match := _SLICE.fullmatch(path.name):
        case = match["stem"] or _folder_name(path.parent)
        role = _ROLES[match["token"].lower()]
        return CaseFile(path, "slices", case, role, int(match["number"]))
    in_decathlon = folder in _IMAGE_FOLDERS or folder in _LABEL_FOLDERS
    match = _DECATHLON.fullmatch(path.name)
    if match is None and in_decathlon:
        match = _ANY_IMAGE.fullmatch(path.name)
    if match is None or (in_decathlon and _ONE_CHANNEL.fullmatch(match["stem"])):
        return None
    return CaseFile(path, "decathlon", match["stem"], LABEL if folder in _LABEL_FOLDERS else "all")


def _folder_name(folder: Path) -> str:
    return folder.name or folder.resolve().name  # Path(".") has no name of its own
