"""The folder of a run: what it was started with, and whether it may go on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_diffseg.core.environment import describe_platform, software_versions
from napari_diffseg.core.errors import CheckpointError, ParameterError
from napari_diffseg.core.serialisation import from_dict
from training.cache_index import CacheIndex, hash_file
from training.changes import describe_changes
from training.config import TrainingConfig, config_values, format_config
from training.data import Split, hash_cases, name_training_patients
from training.files import write_text
from training.state import STATE_NAME, read_record

CONFIG_NAME, SPLIT_NAME, SESSIONS_NAME = "config.toml", "split.json", "run.json"

_DATA_KEYS = {
    "data_hash": "the training cases",
    "validation_hash": "the validation cases",
    "source_hash": "the files of the training cases",
    "validation_source_hash": "the files of the validation cases",
}
_CODE = (".", "../src")  # as seen from this folder
_OF_THE_WEIGHTS = ("model", "diffusion", "preprocessing", "baseline")


def collect_provenance(split: Split, index: CacheIndex) -> dict[str, Any]:
    """Return where weights come from: hashes of the data, commit, versions."""
    return {
        "data_hash": hash_cases(split.training),
        "validation_hash": hash_cases(split.validation),
        "source_hash": index.hash_sources(split.training),
        "validation_source_hash": index.hash_sources(split.validation),
        "n_training_cases": len(split.training),
        "n_validation_cases": len(split.validation),
        "training_patients": sorted(name_training_patients(split)),
        "commit": find_commit(),
        "versions": software_versions(),
    }


def find_commit() -> str | None:
    """Return the checkout's commit, with ``+changes`` if files differ from it; None without git."""
    try:
        commit = _ask_git("rev-parse", "HEAD").strip()
        changed = _ask_git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _find_patch() -> str:
    """Return in what the code differs from its commit; nothing without git."""
    try:
        return _ask_git("diff", "HEAD", "--", *_CODE)
    except (OSError, subprocess.SubprocessError):
        return ""


def _ask_git(*command: str) -> str:
    folder = Path(__file__).resolve().parent
    run = subprocess.run(
        ["git", "-C", str(folder), *command],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=30,
    )
    return run.stdout


def find_changes(
    record: Mapping[str, Any], config: TrainingConfig, provenance: Mapping[str, Any]
) -> list[str]:
    """Return what differs from the run that left ``record``, one line for each difference.

    Raises
    ------
    ParameterError
        If something differs that the weights depend on.
    """
    try:
        before = from_dict(TrainingConfig, record["config"])
    except ParameterError as error:
        raise CheckpointError(f"The run in this folder is from another version: {error}") from error
    changes = describe_changes(config_values(before), config_values(config))
    fixed = [c for c in changes if c.startswith(_OF_THE_WEIGHTS)]
    if fixed:
        raise ParameterError(
            "The weights in this folder are of another model. Choose another --run.\n  "
            + "\n  ".join(fixed)
        )
    for key, what in _DATA_KEYS.items():
        if record["provenance"].get(key, provenance[key]) != provenance[key]:
            changes.append(f"{what} are others")
    return changes


def find_other_origins(record: Mapping[str, Any], named: Mapping[str, Path | None]) -> list[str]:
    """Return which models that are named now a run did not begin from, one line for each.

    Parameters
    ----------
    record
        Of the run's state.
    named
        Files, by their names in `core.provenance.ORIGINS`. One that is gone counts as the same.
    """
    lines = []
    for origin, path in named.items():
        before = record["provenance"].get(origin)
        if path is None or (before is not None and not path.exists()):
            continue
        if before is None or before.get("sha256") != hash_file(path):
            lines.append(f"--{origin.replace('_', '-')} {path}: the run did not begin from it")
    return lines


def check_resumable(
    folder: Path,
    config: TrainingConfig,
    provenance: Mapping[str, Any],
    origins: Mapping[str, Path | None],
    *,
    resume: bool | None,
    allow_changes: bool,
) -> int | None:
    """Return the step at which a folder's run goes on, or None if there is none yet.

    Parameters
    ----------
    origins
        Models that are named to begin from, see `find_other_origins`.
    resume
        True: there must be a run; False: there must be none; None: either.
    allow_changes
        Whether another length, another learning rate, other data ... are meant.

    Raises
    ------
    DiffsegError
        If the folder is not what was expected, or the run differs; the message says in what.
    """
    path = folder / STATE_NAME
    if not path.exists():
        if resume:
            raise CheckpointError(f"{folder} holds no run to go on with ({STATE_NAME} is missing).")
        return None
    if resume is False:
        raise CheckpointError(
            f"{folder} holds a run, which --no-resume would overwrite. Choose another --run, or "
            "move the folder away."
        )
    record = read_record(path)
    if others := find_other_origins(record, origins):
        raise ParameterError(
            f"{folder} holds a run that goes on with its own weights:\n  "
            + "\n  ".join(others)
            + "\nChoose another --run, or leave the option out."
        )
    changes = find_changes(record, config, provenance)
    if changes and not allow_changes:
        raise ParameterError(
            f"{folder} was started with other settings:\n  "
            + "\n  ".join(changes)
            + "\nAdd --allow-changes to go on with the new ones, or choose another --run."
        )
    return int(record["step"])


def write_description(
    folder: Path,
    config: TrainingConfig,
    split_file: Path,
    provenance: Mapping[str, Any],
    session: Mapping[str, Any],
) -> None:
    """Write the resolved configuration and the split, and add this session to ``run.json``.

    Those of earlier sessions are kept where they were others, as ``config.until_STEP.toml``; so
    is what the code differs in from its commit, as ``changes-HASH.patch``.
    """
    from_step = int(session["from_step"])
    _write(folder / CONFIG_NAME, format_config(config), from_step)
    _write(folder / SPLIT_NAME, split_file.read_text(encoding="utf-8"), from_step)
    path = folder / SESSIONS_NAME
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        sessions = []
    started = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"started": started, "platform": describe_platform(), **session, **provenance}
    if patch := _find_patch():
        entry["patch"] = f"changes-{hashlib.sha256(patch.encode()).hexdigest()[:12]}.patch"
        _write(folder / entry["patch"], patch)
    _write(path, json.dumps({"sessions": [*sessions, entry]}, indent=1) + "\n")


def _write(path: Path, text: str, from_step: int = 0) -> None:
    """Write a file, complete or not at all; keep the one that was valid until ``from_step``."""
    kept = path.with_suffix(f".until_{from_step:07d}{path.suffix}")
    # If one is kept already, then what is replaced now was not valid for a single step.
    changes = path.exists() and path.read_text(encoding="utf-8") != text
    if from_step and changes and not kept.exists():
        os.replace(path, kept)
    write_text(path, text)
