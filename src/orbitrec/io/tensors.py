"""Named tensors and text metadata in one safetensors file, whose metadata states its kind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, full_disk, replacing


def write_tensors(path: Path | str, kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, atomically.

    Args:
        path: the file to write.
        kind: what the file holds; :func:`read_tensors` refuses files of another kind.
        tensors: the tensors by name.
        metadata: text by name.

    Raises:
        InputError: if ``path`` cannot be written.
        WriteError: if the disk is full.
    """
    with replacing(path) as temporary:
        whole = {name: value.contiguous() for name, value in tensors.items()}
        try:
            save_file(whole, temporary, {"kind": kind, **metadata})
        except SafetensorError as error:  # the tensors are fine: it was the system that refused
            raise full_disk(Path(path), error) from error


def read_tensors(path: Path | str, kind: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write_tensors` wrote.

    Args:
        path: the file.
        kind: the kind that the file must be of.
        remedy: what the error message tells the user to do about a file that cannot be used.

    Returns:
        The tensors, on the CPU, and the metadata, by name.

    Raises:
        InputError: if the file is missing, broken, or of another kind.
    """
    with _opened(path, remedy) as file:
        metadata = file.metadata() or {}
        if metadata.get("kind") != kind:
            raise InputError(f"{path} holds no {kind}; {remedy}")
        # A copy: tensors lie in the file as its header's length leaves them, and products of vectors that are not
        # aligned round differently, so that a resumed run would not be the uninterrupted one.
        return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118, it is no dict


def require_whole(path: Path | str, remedy: str) -> None:
    """Refuse a safetensors file that is not whole, by its header and size; its tensors are not read.

    Args:
        path: the file.
        remedy: what the error message tells the user to do about it.

    Raises:
        InputError: if the file is missing or broken.
    """
    with _opened(path, remedy):
        pass


@contextmanager
def _opened(path: Path | str, remedy: str) -> Iterator[Any]:
    try:
        with safe_open(existing_file(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); {remedy}") from error
