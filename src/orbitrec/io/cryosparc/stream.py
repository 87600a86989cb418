"""cryoSPARC's compressed tables: the streams that cryosparc-tools documents as ``CSDAT_FORMAT``.

Six bytes of magic, the length of a JSON header and the header (``dtype``, ``compression``, ``compressed_fields``), then
every column with its length before it; lengths are 4 bytes, little-endian. Until version 4.3 (magic 0x94) columns are
compressed with Snappy and text has a fixed width. Since then (0x95) it is LZ4, the header has the number of rows, and
text is a column of positions in the heap of null-terminated strings that ends the file.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

SNAPPY_STREAM, LZ4_STREAM = b"\x94CSDAT", b"\x95CSDAT"
Field = tuple[str, np.dtype, bool]
"""Name, type of an entry, and whether the entries are positions of strings in the heap."""


def read_stream(path: Path) -> np.ndarray:
    """The records of a compressed table.

    Args:
        path: a file that begins with one of the two magics.

    Returns:
        One numpy record for each particle; text is of a fixed width.

    Raises:
        ValueError: if the file is damaged.
    """
    with path.open("rb") as file:
        is_lz4 = file.read(6) == LZ4_STREAM
        header = json.loads(_read(file, _length(file)))
        fields = [_field(*entry) for entry in header["dtype"]]
        packed, rows = set(header["compressed_fields"]), header["length"] if is_lz4 else None
        columns: dict[str, np.ndarray] = {}
        for name, dtype, _ in fields if rows != 0 else []:
            data = _read(file, _length(file))
            if name in packed:
                data = _lz4_block(data, rows * dtype.itemsize) if rows is not None else _snappy(data)
            columns[name] = np.frombuffer(data, dtype)
        heap = file.read()
    return _records(fields, columns, heap, rows)


def _records(fields: list[Field], columns: dict[str, np.ndarray], heap: bytes, rows: int | None) -> np.ndarray:
    for name, _, is_text in fields:
        if is_text and name in columns:
            columns[name] = _strings(columns[name], heap)
    count = rows if rows is not None else len(next(iter(columns.values()), ()))
    out = np.zeros(
        count, [(name, columns[name].dtype if name in columns else "S1", dtype.shape) if is_text else (name, dtype)
                for name, dtype, is_text in fields],
    )  # fmt: skip
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(f"{name} has {len(column)} entries instead of {count}")
        out[name] = column
    return out


def _field(name: str, kind: str, shape: Sequence[int] = ()) -> Field:
    is_text = kind.endswith("O")
    dtype = np.dtype((np.dtype("<u8") if is_text else np.dtype(kind), tuple(shape)))
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    return str(name), dtype, is_text


def _strings(positions: np.ndarray, heap: bytes) -> np.ndarray:
    """The strings of the heap that begin at these positions."""
    distinct, inverse = np.unique(positions, return_inverse=True)
    if len(distinct) and int(distinct[-1]) >= len(heap):
        raise ValueError("a string lies beyond the end of the file")
    texts = np.array([heap[at : heap.index(b"\0", at)] for at in map(int, distinct)], dtype=bytes)
    return texts[inverse.reshape(positions.shape)] if len(distinct) else texts.astype("S1")


def _length(file: BinaryIO) -> int:
    return int.from_bytes(_read(file, 4), "little")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the file ends too early")
    return data


def _lz4_block(data: bytes, size: int) -> bytes:
    """A block of LZ4 of known size once it is unpacked: literals and copies in turns."""
    out, at = bytearray(), 0
    while at < len(data):
        token, at = data[at], at + 1
        literals, at = _lz4_count(data, at, token >> 4)
        if at + literals > len(data):
            raise ValueError("literals lie beyond the block")
        out += data[at : at + literals]
        at += literals
        if at == len(data):  # the last sequence has no copy
            break
        offset, at = int.from_bytes(data[at : at + 2], "little"), at + 2
        length, at = _lz4_count(data, at, token & 15)
        _copy(out, offset, length + 4, size)
    if len(out) != size:
        raise ValueError(f"a block has {len(out)} bytes instead of {size}")
    return bytes(out)


def _lz4_count(data: bytes, at: int, count: int) -> tuple[int, int]:
    """A count that goes on in further bytes where its four bits are all set, and where reading goes on."""
    if count == 15:
        while True:
            count, at = count + data[at], at + 1
            if data[at - 1] < 255:
                break
    return count, at


def _snappy(data: bytes) -> bytes:
    """Raw Snappy: the size, then literals and copies, the kind of each in the two lowest bits of its tag."""
    size, at, shift = 0, 0, 0
    while True:
        size, at, shift = size | (data[at] & 127) << shift, at + 1, shift + 7
        if data[at - 1] < 128:
            break
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:
            wide = max(length - 60, 0)  # 61 … 64 say that the length is in so many bytes
            if wide:
                length, at = int.from_bytes(data[at : at + wide], "little") + 1, at + wide
            if at + length > len(data):
                raise ValueError("literals lie beyond the block")
            out += data[at : at + length]
            at += length
            continue
        wide = (1, 2, 4)[kind - 1]
        offset, at = int.from_bytes(data[at : at + wide], "little"), at + wide
        if kind == 1:
            offset, length = offset | (tag >> 5) << 8, (tag >> 2 & 7) + 4
        _copy(out, offset, length, size)
    if len(out) != size:
        raise ValueError(f"a block has {len(out)} bytes instead of {size}")
    return bytes(out)


def _copy(out: bytearray, offset: int, length: int, size: int) -> None:
    """Append ``length`` bytes that begin ``offset`` before the end; they may overlap what they append."""
    start = len(out) - offset
    if offset == 0 or start < 0 or len(out) + length > size:
        raise ValueError("a copy lies beyond the block")
    if offset >= length:
        out += out[start : start + length]
    else:
        out += (bytes(out[start:]) * (length // offset + 1))[:length]
