"""The Preferences page of the plugin: what the manifest declares, read and checked.

napari makes the page from `contributions.configurations` and keeps the values in a file of its own;
it checks types and ranges. Here the texts are checked, and everything becomes one frozen record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUGIN = "napari-diffseg"

COLOUR_MAPS = ("magma", "inferno", "plasma", "viridis", "gray")
"""Those of napari that are perceptually uniform."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Settings:
    """What the user prefers; wrong values are replaced by the default and named in `problems`."""

    device: str = "auto"
    threads: int = 0
    """On the CPU; 0: as torch chooses."""
    model: Path | None = None
    """None: the bundled model."""
    samples: int = 5
    steps: int = 0
    """0: as the model recommends."""
    memory_budget_mb: int = 1500
    visible_slice_first: bool = True
    threshold: float = 0.5
    mask_colour: str = "#56b4e9"
    """Sky blue: one of Okabe and Ito's colours, all of which colour-blind people can tell apart."""
    truth_colour: str = "#e69f00"
    """Orange, of the same set, and the one that is farthest from sky blue."""
    mean_map: str = "magma"
    variance_map: str = "viridis"
    results_folder: Path | None = None
    """Where the queue saves; None: a folder beside the cases."""
    problems: tuple[str, ...] = ()
    """Sentences about values that could not be used."""


DEFAULTS = Settings()


def read_settings() -> Settings:
    """Return what the Preferences say now; the defaults where napari does not know the plugin."""
    from napari.settings import get_plugin_settings

    try:
        pages = get_plugin_settings(PLUGIN).model_dump()
    except KeyError:
        return DEFAULTS
    return parse_settings({key: value for page in pages.values() for key, value in page.items()})


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Make the record of values as the manifest names them; unknown names are ignored."""
    good: dict[str, Any] = {}
    problems = []
    for name, (title, read) in _READERS.items():
        try:
            good[name] = read(values[name])
        except KeyError:
            continue
        except ValueError as error:
            default = getattr(DEFAULTS, name)
            shown = "the bundled model" if name == "model" else default or "the default"
            problems.append(
                f"Preferences, {title}: {values[name]!r} {error}. {shown} is used instead."
            )
    return Settings(**good, problems=tuple(problems))


def _read_device(value: Any) -> str:
    if not _DEVICE.fullmatch(str(value)):
        raise ValueError("is not auto, cpu, mps, cuda or cuda:1")
    return str(value)


def _read_colour(value: Any) -> str:
    if not _COLOUR.fullmatch(str(value)):
        raise ValueError("is not a colour like #56b4e9")
    return str(value).lower()


def _read_map(value: Any) -> str:
    if value not in COLOUR_MAPS:
        raise ValueError(f"is none of {', '.join(COLOUR_MAPS)}")
    return str(value)


def _read_model(value: Any) -> Path | None:
    path = _read_path(value)
    try:
        if path is not None and not path.is_file():
            raise ValueError("is no file")
    except OSError as error:  # a folder that one may not look into, a name that is too long
        raise ValueError(f"cannot be looked at ({error.strerror or error})") from error
    return path


def _read_path(value: Any) -> Path | None:
    try:
        return Path(str(value)).expanduser() if value else None
    except RuntimeError as error:  # ~name of nobody
        raise ValueError("begins with no user's folder") from error


def _read_folder(value: Any) -> Path | None:
    path = _read_path(value)
    if path is not None and not path.is_absolute():
        raise ValueError("is no full path of a folder")
    return path


def _number(low: float, high: float, kind: Callable[[Any], Any] = int) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("is not a number")
        if not low <= value <= high:
            raise ValueError(f"is not between {low:g} and {high:g}")
        return kind(value)

    return read


_READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "device": ("Device", _read_device),
    "threads": ("CPU threads", _number(0, 1024)),
    "model": ("Model file", _read_model),
    "samples": ("Samples", _number(1, 100)),
    "steps": ("Steps", _number(0, 1000)),
    "memory_budget_mb": ("Memory (MB)", _number(100, 1_000_000)),
    "visible_slice_first": ("Slice on screen first", bool),
    "threshold": ("Threshold", _number(0.01, 0.99, float)),
    "mask_colour": ("Colour of the mask", _read_colour),
    "truth_colour": ("Colour of the truth", _read_colour),
    "mean_map": ("Colours of the mean", _read_map),
    "variance_map": ("Colours of the variance", _read_map),
    "results_folder": ("Folder for results", _read_folder),
}
