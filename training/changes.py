"""In what two sets of nested settings differ, one line for each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return ``section.name: old -> new`` for each setting that differs, in order of names."""
    old, new = _flatten(before), _flatten(after)
    return [
        f"{name}: {_text(old.get(name))} -> {_text(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return (
        str(list(value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )
