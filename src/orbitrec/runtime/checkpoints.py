"""Checkpoints, from which an interrupted computation goes on. There is one format for all of them.

A checkpoint is a safetensors file. Its tensors lie under their names; everything else is JSON in the metadata entry
``record``. States that are NamedTuples or dataclasses are taken apart by :func:`flattened` and put together again by
:func:`rebuilt`.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.tensors import read_tensors, require_whole, write_tensors

KIND = "checkpoint"
_REMEDY = "remove the folder of this run and begin anew"
Record = Mapping[str, object]
"""Tensors and values that JSON can hold, by name."""
S = TypeVar("S")


def write_checkpoint(path: Path | str, record: Record, kind: str = KIND) -> None:
    """Write a record to a file, atomically.

    Args:
        path: the file.
        record: tensors and values that JSON can hold, by name.
        kind: what is saved; :func:`read_checkpoint` refuses checkpoints of another kind.

    Raises:
        WriteError: if the disk is full.
    """
    tensors = {name: value for name, value in record.items() if isinstance(value, Tensor)}
    write_tensors(path, kind, tensors, {"record": _json(record)})


def read_checkpoint(path: Path | str, kind: str = KIND, remedy: str = "remove it to begin anew") -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote.

    Args:
        path: the file.
        kind: the kind that the checkpoint must be of.
        remedy: what the error message tells the user to do about a file that cannot be used.

    Returns:
        The record; its tensors are on the CPU.

    Raises:
        InputError: if the file is missing, broken, or of another kind.
    """
    tensors, metadata = read_tensors(path, kind, remedy)
    try:
        return {**tensors, **json.loads(metadata["record"])}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a {kind} of another version; {remedy}") from error


def _json(record: Record) -> str:
    return json.dumps({name: value for name, value in record.items() if not isinstance(value, Tensor)})


class Checkpoints:
    """The records of a run's finished steps, each in a file of its own; without a folder nothing is kept.

    Args:
        folder: where the files are; it is made if it does not exist. None keeps nothing.
        part: put before every name, say of a run that is one of several in a folder.
    """

    def __init__(self, folder: Path | None = None, part: str = "") -> None:
        self._folder, self._part = folder, part
        if folder is not None:
            folder.mkdir(exist_ok=True)

    def load(self, name: str) -> dict[str, Any] | None:
        """The record saved under ``name``, None if there is none.

        Raises:
            InputError: if the file is broken.
        """
        path = self.file(name)
        if path is None or not path.exists():
            return None
        return read_checkpoint(path, remedy=_REMEDY)

    def require_whole(self) -> None:
        """Refuse damaged records at once, not after hours.

        Raises:
            InputError: if a file of the folder is broken.
        """
        for path in sorted(self._folder.glob("*.safetensors")) if self._folder is not None else []:
            require_whole(path, _REMEDY)

    def save(self, name: str, record: Record) -> dict[str, Any]:
        """Keep a record in place of the last one of that ``name``, and return it as it will be loaded.

        Tensors come back on the CPU, contiguous and in newly allocated memory, since sums round by how memory is laid
        out: a run that goes on with what is returned computes the same numbers as one that goes on from the file.

        Raises:
            WriteError: if the disk is full.
        """
        tensors = {key: value.cpu().contiguous().clone() for key, value in record.items() if isinstance(value, Tensor)}
        path = self.file(name)
        if path is not None:
            write_checkpoint(path, {**record, **tensors})
        return {**tensors, **json.loads(_json(record))}

    def file(self, name: str) -> Path | None:
        """Path of the record ``name``, whether it exists or not; None without a folder."""
        whole = f"{self._part} {name}".strip().replace(" ", "-")
        return None if self._folder is None else self._folder / f"{whole}.safetensors"

    def of(self, part: str) -> "Checkpoints":
        """The records of a part, beside these."""
        return Checkpoints(self._folder, f"{self._part} {part}".strip())


def flattened(state: object, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take a state apart into what a checkpoint holds.

    Args:
        state: a NamedTuple or a dataclass whose fields are tensors, numbers, other values that JSON can hold, or again
            NamedTuples and dataclasses.
        prefix: put before every name.

    Returns:
        The tensors, contiguous, on the CPU and in memory of their own, and all other values. Fields of fields have
        dotted names.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, value in _parts(state).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value.detach().cpu().contiguous().clone()
        elif _is_record(type(value)):
            inner_tensors, inner_numbers = flattened(value, f"{prefix}{name}.")
            tensors |= inner_tensors
            numbers |= inner_numbers
        else:
            numbers[prefix + name] = value
    return tensors, numbers


def rebuilt(like: S, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> S:
    """Put a state together again from what :func:`flattened` returned.

    Args:
        like: a state of the same type. Types, nesting and devices are taken from it, and none of its values; where it
            has None, the type of a nested state is taken from the annotation of the field.
        tensors: the tensors by dotted name.
        numbers: all other values by dotted name.

    Returns:
        A new state.

    Raises:
        KeyError: if a value is missing.
    """
    return _rebuilt(type(like), _parts(like), tensors, numbers, "")


def _rebuilt(
    kind: type[S], known: Mapping[str, Any], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], prefix: str
) -> S:
    leaves: dict[str, Any] = {}
    for name in _names(kind):
        key, value = prefix + name, known.get(name)
        if key in tensors:
            leaves[name] = tensors[key].to(value.device) if isinstance(value, Tensor) else tensors[key]
        elif key in numbers:
            leaves[name] = numbers[key]
        elif any(other.startswith(f"{key}.") for other in (*tensors, *numbers)):
            nested = type(value) if _is_record(type(value)) else _annotated_record(kind, name)
            inner = _parts(value) if _is_record(type(value)) else {}
            leaves[name] = _rebuilt(nested, inner, tensors, numbers, f"{key}.")
        else:
            raise KeyError(key)
    return kind(**leaves)


def _is_record(kind: type) -> bool:
    return is_dataclass(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def _names(kind: type) -> list[str]:
    """The fields that the constructor of a NamedTuple or dataclass takes."""
    if is_dataclass(kind):
        return [part.name for part in fields(kind) if part.init]
    return list(kind._fields)  # pyright: ignore[reportAttributeAccessIssue]


def _parts(state: object) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _names(type(state))}


def _annotated_record(kind: type, name: str) -> type:
    """The NamedTuple or dataclass among the types that the annotation of a field allows.

    Raises:
        KeyError: if there is none.
    """
    hint = get_type_hints(kind)[name]
    for each in (hint, *get_args(hint)):
        if isinstance(each, type) and _is_record(each):
            return each
    raise KeyError(name)
