"""Records from JSON: dataclasses of numbers, text and other records, which ``dataclasses.asdict`` and JSON wrote."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_plain(kind: type[T], value: object) -> T:
    """An instance of ``kind``, as its type hints say, from JSON's types.

    JSON knows neither NaN nor ∞, which are written as null; a null where a number is wanted becomes NaN.

    Args:
        kind: a dataclass.
        value: what ``asdict`` made of one, and JSON of that.

    Returns:
        The record.

    Raises:
        TypeError: if a field is missing or unknown, or a value is not of its field's type.
    """
    return _of(kind, value, kind.__name__)


def _of(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 — a type hint, and what JSON has in its place
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        return _first(arguments, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin in (list, Sequence):
        return [_of(arguments[0], entry, where) for entry in _checked(value, Sequence, where)]
    if origin in (dict, Mapping):
        entries = _checked(value, Mapping, where).items()
        return {arguments[0](key): _of(arguments[1], entry, f"{where}.{key}") for key, entry in entries}
    if is_dataclass(kind):
        return _record(kind, _checked(value, Mapping, where), where)
    return _scalar(kind, value, where)


def _first(kinds: Sequence[Any], value: object, where: str) -> object:
    """The value as the first of the types that takes it."""
    for kind in kinds:
        try:
            return _of(kind, value, where)
        except TypeError:
            continue
    raise TypeError(f"{where} cannot be {value!r}")


def _tuple(kinds: Sequence[Any], value: object, where: str) -> tuple:
    entries = _checked(value, Sequence, where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_of(kinds[0], entry, where) for entry in entries)
    if len(kinds) != len(entries):
        raise TypeError(f"{where} has {len(entries)} entries instead of {len(kinds)}")
    return tuple(_of(kind, entry, where) for kind, entry in zip(kinds, entries, strict=True))


def _record(kind: Any, values: Mapping[str, Any], where: str) -> object:  # noqa: ANN401 — a dataclass
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind) if field.init}
    if set(values) - known:
        raise TypeError(f"{where} has no field {sorted(set(values) - known)[0]}")
    return kind(**{name: _of(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _scalar(kind: Any, value: Any, where: str) -> object:  # noqa: ANN401 — as _of
    if kind is float and value is None:
        return math.nan
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is object or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    raise TypeError(f"{where} cannot be {value!r}")


def _checked(value: Any, kind: Any, where: str) -> Any:  # noqa: ANN401 — as _of
    if isinstance(value, str) or not isinstance(value, kind):
        raise TypeError(f"{where} cannot be {value!r}")
    return value
