"""The index of a slice cache: which files each case was prepared from, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_diffseg.core.case_files import CaseFiles
from napari_diffseg.core.errors import CaseError, ParameterError
from napari_diffseg.core.preprocessing import PreprocessingConfig
from napari_diffseg.core.serialisation import from_dict, to_dict
from training.files import write_text

INDEX_NAME = "index.json"
_SCHEMA = 1


@dataclass(frozen=True)
class SourceFile:
    """One file of a case as it was when the case was prepared."""

    name: str
    n_bytes: int
    mtime_ns: int
    sha256: str

    def is_unchanged(self, path: Path) -> bool:
        """Whether ``path`` still has this content; it is only read if it was touched."""
        if path.name != self.name or not path.is_file():
            return False
        status = path.stat()
        if status.st_size != self.n_bytes:
            return False
        return status.st_mtime_ns == self.mtime_ns or hash_file(path) == self.sha256


@dataclass(frozen=True)
class CachedCase:
    """One prepared case."""

    sources: tuple[SourceFile, ...]
    n_slices: int
    n_tumour_slices: int
    context: tuple[int, ...] = ()
    """Steps in z to the neighbours that the network is given too."""
    messages: tuple[str, ...] = ()
    """What a user should know, for example that the brain is larger than the window."""


@dataclass(frozen=True)
class CacheIndex:
    """All prepared cases of a folder; only what is listed here is complete on the disk."""

    preprocessing: PreprocessingConfig
    cases: Mapping[str, CachedCase]

    def context_of(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Return the steps to the neighbouring slices by case."""
        return {name: self.cases[name].context for name in names}

    def hash_sources(self, names: Iterable[str]) -> str:
        """Return the SHA-256 of the files that these cases were prepared from."""
        lines = [
            f"{name} {source.sha256}"
            for name in sorted(names)
            for source in sorted(self.cases[name].sources, key=lambda s: s.name)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_paths(files: CaseFiles) -> list[Path]:
    """Return every file of a case once."""
    paths = [*files.modalities.values(), *([files.label] if files.label else [])]
    for members in files.slices.values():
        paths += members.values()
    return list(dict.fromkeys(paths))


def describe_source(path: Path) -> SourceFile:
    """Return size, time and SHA-256 of a file."""
    status = path.stat()
    return SourceFile(path.name, status.st_size, status.st_mtime_ns, hash_file(path))


def read_index(folder: Path) -> CacheIndex | None:
    """Return the index of a cache, or None if the folder has none.

    Raises
    ------
    CaseError
        If it is damaged or from a later version.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] > _SCHEMA:
            raise CaseError(f"{path} is from a later version. Choose another folder.")
        preprocessing = from_dict(PreprocessingConfig, values["preprocessing"], "preprocessing")
        cases = {k: from_dict(CachedCase, v, k) for k, v in values["cases"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParameterError) as error:
        raise CaseError(
            f"{path} is damaged ({error}). Delete it and run `python -m training.prepare` again."
        ) from error
    return CacheIndex(preprocessing, cases)


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write the index, complete or not at all."""
    values = {
        "schema": _SCHEMA,
        "preprocessing": to_dict(index.preprocessing),
        "cases": {name: to_dict(index.cases[name]) for name in sorted(index.cases)},
    }
    write_text(folder / INDEX_NAME, json.dumps(values, indent=1) + "\n")


def check_index(
    folder: Path, names: Iterable[str], preprocessing: PreprocessingConfig
) -> CacheIndex:
    """Return the index after making sure that it has these cases, prepared as a model needs.

    Raises
    ------
    CaseError
        If cases are missing, or were prepared with other settings.
    """
    index = read_index(folder)
    if index is None:
        raise CaseError(
            f"{folder} is not a slice cache: it has no {INDEX_NAME}. "
            "Make one with `python -m training.prepare CASES_DIR CACHE`."
        )
    if index.preprocessing != preprocessing:
        raise CaseError(
            f"{folder} was prepared with other settings than the configuration has "
            f"({describe_difference(index.preprocessing, preprocessing)}). "
            "Run `python -m training.prepare` with --config, into a folder of its own."
        )
    missing = sorted(set(names) - set(index.cases))
    if missing:
        raise CaseError(
            f"{folder} lacks {len(missing)} cases of the split, the first is {missing[0]}. "
            "Run `python -m training.prepare` on all of them."
        )
    return index


def describe_difference(there: PreprocessingConfig, wanted: PreprocessingConfig) -> str:
    """Return in words what of the preprocessing is otherwise than it is wanted."""
    old, new = to_dict(there), to_dict(wanted)
    return ", ".join(f"{k} {old[k]} instead of {new[k]}" for k in new if old[k] != new[k])


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
