"""The folder of a run: what it was started with, and whether it may go on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from napari_diffseg.core.environment import describe_platform, software_versions
from napari_diffseg.core.errors import CheckpointError, DiffsegError, ParameterError
from napari_diffseg.core.serialisation import from_dict
from training.cache_index import CacheIndex
from training.changes import describe_changes
from training.config import TrainingConfig, config_values, format_config
from training.data import Split, hash_cases
from training.state import STATE_NAME, read_record

CONFIG_NAME, SPLIT_NAME, SESSIONS_NAME = "config.toml", "split.json", "run.json"

_DATA_KEYS = {
    "data_hash": "the training cases",
    "validation_hash": "the validation cases",
    "source_hash": "the files of the training cases",
}
_OF_THE_WEIGHTS = ("model", "diffusion", "preprocessing", "baseline")


def collect_provenance(split: Split, index: CacheIndex) -> dict[str, Any]:
    """Return where weights come from: hashes of the data, commit, versions."""
    return {
        "data_hash": hash_cases(split.training),
        "validation_hash": hash_cases(split.validation),
        "source_hash": index.hash_sources(split.training),
        "n_training_cases": len(split.training),
        "commit": find_commit(),
        "versions": software_versions(),
    }


def find_commit() -> str | None:
    """Return the checkout's commit, with ``+changes`` if files differ from it; None without git."""
    folder = Path(__file__).resolve().parent

    def ask(*command: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return run.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        changed = ask("status", "--porcelain", "--", ".", "../src")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


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


def check_resumable(
    folder: Path,
    config: TrainingConfig,
    provenance: Mapping[str, Any],
    *,
    resume: bool | None,
    allow_changes: bool,
) -> int | None:
    """Return the step at which a folder's run goes on, or None if there is none yet.

    Parameters
    ----------
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
    """Write the resolved configuration and the split, and add this session to ``run.json``."""
    (folder / CONFIG_NAME).write_text(format_config(config), encoding="utf-8")
    (folder / SPLIT_NAME).write_text(split_file.read_text(encoding="utf-8"), encoding="utf-8")
    path = folder / SESSIONS_NAME
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        sessions = []
    started = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"started": started, "platform": describe_platform(), **session, **provenance}
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps({"sessions": [*sessions, entry]}, indent=1) + "\n", "utf-8")
    os.replace(temporary, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a run's folder; the lock ends with the process, however it ends.

    Raises
    ------
    DiffsegError
        If another process has it.
    """
    with (folder / "lock").open("wb") as file:
        if not _try_lock(file):
            raise DiffsegError(f"Another process is training in {folder}. Wait for it, or stop it.")
        yield


def _try_lock(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
