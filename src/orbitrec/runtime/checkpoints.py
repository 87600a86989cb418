"""What an interrupted run goes on from: a folder with one file for each step that is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from orbitrec.io.tensors import read_tensors, write_tensors

KIND = "step of a run"

Record = Mapping[str, object]
"""Tensors, and what JSON knows, by name."""

T = TypeVar("T", bound=tuple)


def load_record(path: Path, remedy: str = "remove the folder of this run and begin anew") -> dict[str, Any]:
    """The record in a file of :func:`save_record`.

    Raises:
        InputError: if the file is broken; ``remedy`` is what it tells the user to do.
    """
    tensors, metadata = read_tensors(path, KIND, remedy)
    return {**tensors, **json.loads(metadata["record"])}


def save_record(path: Path | None, record: Record) -> dict[str, Any]:
    """Write a record, whole or not at all, and return it as it will be loaded; without a path only the latter.

    Tensors come back on the CPU, contiguous and aligned anew, since sums round by how memory is laid out: going on
    with what is returned gives the same numbers as going on from the file.

    Raises:
        WriteError: if the disk is full.
    """
    tensors = {key: value.cpu().contiguous().clone() for key, value in record.items() if isinstance(value, Tensor)}
    rest = json.dumps({key: value for key, value in record.items() if key not in tensors})
    if path is not None:
        write_tensors(path, KIND, tensors, {"record": rest})
    return {**tensors, **json.loads(rest)}


def flattened(state: tuple, prefix: str = "") -> dict[str, Tensor | float | int]:
    """The leaves of a named tuple of tensors, numbers and other named tuples, by their dotted names."""
    leaves: dict[str, Tensor | float | int] = {}
    for name, value in state._asdict().items():  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(value, tuple):
            leaves |= flattened(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def rebuilt(like: T, leaves: Record, prefix: str = "") -> T:
    """The named tuple of :func:`flattened`; ``like`` has its types."""
    parts = {
        name: rebuilt(value, leaves, f"{prefix}{name}.") if isinstance(value, tuple) else leaves[prefix + name]
        for name, value in like._asdict().items()  # pyright: ignore[reportAttributeAccessIssue]
    }
    return type(like)(**parts)


class Checkpoints:
    """Records of steps, written whole or not at all; without a folder nothing is kept.

    Args:
        folder: where they are; made if it is not there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(exist_ok=True)

    def load(self, name: str) -> dict[str, object] | None:
        """The record saved under ``name``, None if there is none.

        Raises:
            InputError: if it is broken.
        """
        path = self.file(name)
        if path is None or not path.exists():
            return None
        return load_record(path)

    def save(self, name: str, record: Record) -> dict[str, object]:
        """Keep a record in place of the last one of that ``name``, and return it as :func:`save_record` does.

        Raises:
            WriteError: if the disk is full.
        """
        return save_record(self.file(name), record)

    def file(self, name: str) -> Path | None:
        """Where the record of ``name`` is or will be."""
        return None if self._folder is None else self._folder / f"{name.replace(' ', '-')}.safetensors"
