"""Cases to a slice cache on the disk: ``python -m training.prepare CASES_DIR OUT``.

What the network will see is computed once, by the preprocessing that inference uses, and kept
with 8 bits per voxel. Cases are independent: they run in parallel, those that are done are
skipped the next time, and one that cannot be used does not stop the others.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_diffseg.core.brats import CaseFiles, discover_cases, load_case
from napari_diffseg.core.errors import CaseError, DiffsegError
from napari_diffseg.core.preprocessing import PreprocessingConfig
from training.cache_index import (
    CachedCase,
    CacheIndex,
    describe_difference,
    describe_source,
    read_index,
    source_paths,
    write_index,
)
from training.config import find_config, load_config
from training.files import locked
from training.pools import LOST_PROCESS, open_pool
from training.slice_content import find_content, measure_content, read_content
from training.slices import prepare_training_slices

_INDEX_EVERY_S = 5.0  # of a thousand cases it has a megabyte
_TYPES = {"images": np.uint8, "masks": np.uint8, "slices": np.int64}

Result = CachedCase | str
"""The index entry of a case, or the reason why it has none."""


def prepare_cache(
    cases: Sequence[CaseFiles],
    out: Path,
    config: PreprocessingConfig,
    workers: int,
    report: Callable[[CaseFiles, Result, bool], None],
    *,
    replace_others: bool = False,
) -> CacheIndex:
    """Bring a cache up to date.

    Parameters
    ----------
    cases
        All cases; those whose files and settings have not changed are skipped.
    out
        Folder of the cache; made if necessary.
    workers
        Processes; 1: everything in this one.
    report
        Called once for each case, with whether it was prepared just now.
    replace_others
        Whether a cache with other settings is given up.

    Raises
    ------
    CaseError
        The folder holds cases that were prepared with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "preparing cases"):
        return _prepare_cache(cases, out, config, workers, report, replace_others)


def _prepare_cache(
    cases: Sequence[CaseFiles],
    out: Path,
    config: PreprocessingConfig,
    workers: int,
    report: Callable[[CaseFiles, Result, bool], None],
    replace_others: bool,
) -> CacheIndex:
    index = read_index(out)
    if index is None or index.preprocessing != config:
        if index is not None and index.cases and not replace_others:
            raise CaseError(
                f"{out} holds {len(index.cases)} cases that were prepared with other settings "
                f"({describe_difference(index.preprocessing, config)}). Choose another folder or "
                "--config, or give them up with --replace."
            )
        index = CacheIndex(config, {})
    todo: dict[str, CaseFiles] = {}
    seen: set[str] = set()
    for files in cases:
        entry = index.cases.get(files.name)
        if files.name in seen:
            report(files, "another case has the same name; this one is left out.", True)
        elif entry is not None and is_current(entry, files, out, config):
            if read_content(out, files.name, entry.n_slices) is None:
                _add_content(out, files.name)
            report(files, entry, False)
        else:
            todo[files.name] = files
        seen.add(files.name)
    # What is written anew is not listed until it is complete: then it is added to `kept`.
    kept = {name: entry for name, entry in index.cases.items() if name not in todo}
    index = replace(index, cases=kept)
    write_index(out, index)
    written_s = time.monotonic()
    try:
        for files, result in _prepare_all([*todo.values()], out, config, workers):
            if isinstance(result, CachedCase):
                kept[files.name] = result
                if time.monotonic() - written_s > _INDEX_EVERY_S:
                    write_index(out, index)
                    written_s = time.monotonic()
            report(files, result, True)
    finally:
        write_index(out, index)
    return index


def prepare_one(files: CaseFiles, out: Path, config: PreprocessingConfig) -> CachedCase:
    """Write the arrays of one case, each complete or not at all; return its index entry.

    Raises
    ------
    CaseError
        If the case cannot be used.
    """
    sources = tuple(describe_source(path) for path in source_paths(files))
    prepared = prepare_training_slices(load_case(files), config)
    for kind in _TYPES:
        _save(out / f"{files.name}.{kind}.npy", getattr(prepared, kind))
    content = measure_content(prepared.images, prepared.masks)
    _save(find_content(out, files.name), content)
    n_tumour = int(np.count_nonzero(content[:, 1]))
    return CachedCase(sources, len(prepared.slices), n_tumour, prepared.context, prepared.messages)


def _save(path: Path, array: NDArray[Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _add_content(out: Path, name: str) -> None:
    """Measure a case that is from before this was kept, or was copied."""
    images, masks = (
        np.load(out / f"{name}.{kind}.npy", allow_pickle=False) for kind in ("images", "masks")
    )
    _save(find_content(out, name), measure_content(images, masks))


def is_current(entry: CachedCase, files: CaseFiles, out: Path, config: PreprocessingConfig) -> bool:
    """Whether the arrays of a case are complete and its files are what they were."""
    paths = source_paths(files)
    if len(paths) != len(entry.sources):
        return False
    if not all(s.is_unchanged(p) for s, p in zip(entry.sources, paths, strict=True)):
        return False
    n = entry.n_slices
    shapes = {"images": (n, 4, *config.window), "masks": (n, *config.window), "slices": (n,)}
    try:
        for kind, shape in shapes.items():
            path = out / f"{files.name}.{kind}.npy"
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.shape != shape or array.dtype != _TYPES[kind]:
                return False
    except (OSError, ValueError):
        return False
    return True


def _prepare_all(
    cases: Sequence[CaseFiles], out: Path, config: PreprocessingConfig, workers: int
) -> Iterator[tuple[CaseFiles, Result]]:
    if workers == 1 or len(cases) < 2:
        for files in cases:
            yield files, _try_one(files, out, config)
        return
    with open_pool(workers) as pool:
        futures: dict[Future[Result], CaseFiles] = {
            pool.submit(_try_one, files, out, config): files for files in cases
        }
        for future in as_completed(futures):
            try:
                result = future.result()
            except BrokenProcessPool:
                result = LOST_PROCESS
            yield futures[future], result


def _try_one(files: CaseFiles, out: Path, config: PreprocessingConfig) -> Result:
    try:
        return prepare_one(files, out, config)
    except DiffsegError as error:
        return str(error)
    except Exception as error:  # the other cases shall go on, whatever it is
        return f"{type(error).__name__}: {error}"


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        "python -m training.prepare", description="Prepare the slices of labelled BraTS cases."
    )
    parser.add_argument("cases_dir", type=Path, help="folder with BraTS cases, at any depth")
    parser.add_argument("out", type=Path, help="folder of the cache; can be completed later")
    parser.add_argument(
        "--config",
        default="fast",
        help="configuration whose [preprocessing] is used (default: %(default)s)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="give up what was prepared with other settings"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes; each takes about 1 GB (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0: every case is in the cache, 1: some failed, 2: it could not run."""
    from tqdm import tqdm

    options = make_parser().parse_args(arguments)
    counts = {"new": 0, "unchanged": 0, "failed": 0}
    try:
        config = load_config(find_config(options.config)).preprocessing
        cases = discover_cases(options.cases_dir)
        if not cases:
            raise CaseError(f"{options.cases_dir} holds no BraTS case.")
        with tqdm(total=len(cases), unit="case", desc="prepare", file=sys.stderr) as bar:

            def report(files: CaseFiles, result: Result, fresh: bool) -> None:
                bar.update()
                if isinstance(result, str):
                    counts["failed"] += 1
                    text = result.removeprefix(f"{files.name}: ")
                    bar.write(f"FAILED {files.name}: {text}", sys.stderr)
                    return
                counts["new" if fresh else "unchanged"] += 1
                for message in result.messages:
                    bar.write(f"note {files.name}: {message}", sys.stderr)

            index = prepare_cache(
                cases,
                options.out,
                config,
                max(1, options.workers),
                report,
                replace_others=options.replace,
            )
    except (DiffsegError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where this one was.", file=sys.stderr)
        return 130
    n_slices = sum(entry.n_slices for entry in index.cases.values())
    n_tumour = sum(entry.n_tumour_slices for entry in index.cases.values())
    summary = ", ".join(f"{n} {what}" for what, n in counts.items())
    print(f"{options.out}: {len(index.cases)} cases ({summary})", end=", ")
    print(f"{n_slices} slices, {n_tumour} of them with tumour.")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
