"""Files that must exist, and files written atomically: whole or not at all."""

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from orbitrec.errors import InputError, WriteError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def existing_file(path: Path | str) -> Path:
    """``path`` as a :class:`Path`, checked to be a file that can be read.

    Raises:
        InputError: if there is no such file, it is a folder, or it may not be read.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path} is not a file; name a file in it")
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions, or copy it") from error
    return path


def full_disk(path: Path, error: Exception) -> WriteError:
    """The error to raise where the disk had no room for ``path``."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return WriteError(f"cannot write {path}: {reason}; make room, or choose another disk for the output")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Context manager that gives a temporary name beside ``path`` to write to.

    On leaving, the temporary file takes the name ``path``; after an error it is removed. The temporary name keeps the
    suffix, for writers that choose a format by it.

    Raises:
        InputError: if the folder does not exist or cannot be written to.
        WriteError: if the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: no permission to write in {path.parent}; choose another output")
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: object) -> object:
    """``value`` in JSON's own types: paths as text, one-number tensors and arrays as numbers, NaN and ∞ as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays alike
        return _plain(value.tolist())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def printable(path: Path | str) -> str:
    """A path as text that any file can hold: bytes of it that are no text become question marks."""
    return str(path).encode(errors="replace").decode()


def to_json(data: Mapping[str, object]) -> str:
    """``data`` as indented JSON; numbers that JSON does not know (NaN, ∞) are null."""
    plain = _plain(data)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    # A path may have bytes that are no text: escaped, they come back as they were.
    return text if printable(text) == text else json.dumps(plain, indent=2, allow_nan=False)


def write_json(path: Path | str, data: Mapping[str, object]) -> None:
    """Write ``data`` as :func:`to_json` formats it, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(to_json(data) + "\n", encoding="utf-8")


def write_csv(path: Path | str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows`` as comma-separated values atomically; the columns are all keys, in order of first appearance."""
    with replacing(path) as temporary:
        pd.DataFrame([dict(row) for row in rows]).to_csv(temporary, index=False)


_BEGINNINGS = {
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x93NUMPY": "an array of numpy: a cryoSPARC table is one, and ends in .cs",
    b"\x94CSDAT": "a compressed cryoSPARC table: its name must end in .cs",
    b"\x95CSDAT": "a compressed cryoSPARC table: its name must end in .cs",
    b"\x89HDF": "an HDF5 file: convert it to MRC or STAR",
    b"\x80\x02": "a Python pickle, which is never read: it could run anything",
    b"\x80\x03": "a Python pickle, which is never read: it could run anything",
    b"\x80\x04": "a Python pickle, which is never read: it could run anything",
    b"II*\x00": "a TIFF image: convert it to MRC",
    b"MM\x00*": "a TIFF image: convert it to MRC",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
}


def what_it_is(path: Path) -> str:
    """What a file that cannot be used is instead, and what to do, as the rest of a sentence; empty if not known."""
    with path.open("rb") as file:
        begin = file.read(4096)
    for beginning, kind in _BEGINNINGS.items():
        if begin.startswith(beginning):
            return f" but {kind}"
    if not begin.strip():
        return ": it is empty; copy it again"
    if begin[208:212] == b"MAP ":
        return " but an MRC map or stack: its name must end in .mrc or .mrcs"
    if re.search(rb"^(results|group):", begin, re.MULTILINE) and b"metafile:" in begin:
        return " but a cryoSPARC result group: its name must end in .csg"
    if re.search(rb"^data_", begin, re.MULTILINE):
        return " but a STAR file: its name must end in .star"
    return ""
