"""Frozen dataclasses to and from plain dictionaries, as JSON and TOML have them.

Reading is strict: unknown names, missing values and wrong types are errors that name the field,
because these dictionaries come from files that anybody may have edited.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from napari_diffseg.core.errors import ParameterError

T = TypeVar("T")

_get_hints = functools.cache(get_type_hints)  # a record of a volume has hundreds of them


def to_dict(record: Any) -> dict[str, Any]:
    """Return a dataclass as nested dictionaries and lists; None values are left out."""
    return {
        field.name: _plain(getattr(record, field.name))
        for field in dataclasses.fields(record)
        if getattr(record, field.name) is not None
    }


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Return an instance of the dataclass ``cls``; fields that are left out keep their default.

    Raises
    ------
    ParameterError
        With the dotted name of the field that is unknown, missing or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ParameterError(f"{where or cls.__name__}: expected a table, not {values!r}.")
    hints = _get_hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        known = ", ".join(fields)
        raise ParameterError(f"Unknown setting {_join(where, unknown[0])}. Known here: {known}.")
    try:
        return cls(**{k: _typed(hints[k], v, _join(where, k)) for k, v in values.items()})
    except TypeError as error:
        raise ParameterError(f"{where or cls.__name__}: {error}.") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (a for a in arguments if a is not type(None))
        return _typed(hint, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ParameterError(f"{where} must be one of {list(arguments)}, not {value!r}.")
        return value
    if origin is tuple:
        return _typed_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ParameterError(f"{where} must be a table, not {value!r}.")
        return {k: _typed(arguments[1], v, _join(where, str(k))) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ParameterError(f"{where} is too large a number.") from error
    if hint is Any or (type(value) is hint if hint in (int, bool) else isinstance(value, hint)):
        return value
    raise ParameterError(f"{where} must be {getattr(hint, '__name__', hint)}, not {value!r}.")


def _typed_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ParameterError(f"{where} must be a list, not {value!r}.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ParameterError(f"{where} must have {len(arguments)} values, not {len(value)}.")
    return tuple(
        _typed(hint, item, f"{where}[{i}]")
        for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )
