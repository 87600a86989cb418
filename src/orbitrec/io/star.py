"""STAR files, read and written through the ``starfile`` package, or copied with only some columns changed."""

import linecache
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd
import starfile

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, replacing

Blocks = dict[str, pd.DataFrame | dict]
"""A STAR file's blocks by name: a loop is a table, a simple block a dictionary."""

_TOKEN = re.compile(r'"[^"]*"|\'[^\']*\'|\S+')


def read_star(path: Path | str) -> Blocks:
    """Read all blocks of a STAR file, in order.

    Columns named ``…Name`` stay text; others become numbers where all their values are numbers.

    Raises:
        InputError: if there is no such file, it cannot be parsed, or two blocks or columns have one name.
    """
    path = existing_file(path)
    labels, names = [], []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in map(str.strip, file):
            if line.startswith("data_"):
                names.append(line[5:])
            elif line.startswith("_"):
                labels.append(line.split()[0][1:])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} has two blocks named data_{twice}; put them in files of their own")
    text = sorted({label for label in labels if label.endswith("Name")})  # a micrograph may be called 0012
    try:
        blocks = cast(Blocks, starfile.read(path, always_dict=True, parse_as_string=text))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is not a well-formed STAR file ({_first_line(error)})") from error
    finally:
        linecache.clearcache()  # starfile reads through it and leaves it filled after an error
    blocks = {name: block for name, block in blocks.items() if block is not None}
    if not blocks:
        raise InputError(f"{path} is not a STAR file: it has no data block")
    for name, block in blocks.items():
        columns = list(block)
        if len(set(columns)) < len(columns):
            raise InputError(f"{path}: block data_{name} has two columns of one name; remove one")
    return blocks


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def write_star(path: Path | str, blocks: Blocks) -> None:
    """Write the blocks as a STAR file, atomically; numbers keep twelve significant digits."""
    with replacing(path) as temporary:
        starfile.write(blocks, temporary, float_format="%.12g", na_rep="nan")


def rewrite_columns(
    source: Path,
    target: Path | str,
    block: str,
    columns: Mapping[str, Sequence[str]],
    kept: Sequence[bool] | None = None,
) -> None:
    """Copy a STAR file with new values in some columns of one loop, atomically; every other character is kept.

    Columns that the loop does not have are added after its last one.

    Args:
        source: the file to copy.
        target: the file to write.
        block: name of the loop's block, without ``data_``.
        columns: column name, without its underscore → the value of every row.
        kept: which rows of the loop are written; None writes all.

    Raises:
        InputError: if the block is not a loop with a row for every value, as after a change of the file.
    """
    # surrogateescape: bytes that are not UTF-8 come out as they went in
    with (
        source.open(encoding="utf-8", errors="surrogateescape", newline="") as file,
        replacing(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        lines = iter(file)
        for line in lines:
            out.write(line)
            if line.strip() == f"data_{block}":
                out.writelines(_rewritten_loop(lines, source, columns, kept))


def _rewritten_loop(
    lines: Iterator[str], source: Path, columns: Mapping[str, Sequence[str]], kept: Sequence[bool] | None
) -> Iterator[str]:
    """The lines of one block up to the next one's name, with ``columns`` set."""
    labels: list[str] = []
    changed: list[tuple[int, Sequence[str]]] = []
    in_loop, row, count = False, 0, len(next(iter(columns.values())))
    for line in lines:
        text = line.strip()
        end = line[len(line.rstrip("\r\n")) :]
        if text.startswith("loop_"):
            in_loop = True
        elif in_loop and text.startswith("_"):
            labels.append(text.split()[0][1:])
        elif in_loop and labels and not changed:
            for name in [name for name in columns if name not in labels]:
                labels.append(name)
                yield f"_{name} #{len(labels)}\n"
            changed = sorted((labels.index(name), values) for name, values in columns.items())
        if text.startswith("data_"):
            yield line
            break
        if changed and text and not text.startswith("#"):
            if row >= count:
                raise InputError(f"{source} has more rows than when it was read; leave it alone while a run needs it")
            new = _rewritten_row(line.rstrip("\r\n"), [(at, values[row]) for at, values in changed])
            yield new + end if kept is None or kept[row] else ""
            row += 1
        else:
            yield line
    if row != count:
        raise InputError(f"{source} does not list its {count} particles in one loop; write it as RELION does")


def _rewritten_row(line: str, values: Sequence[tuple[int, str]]) -> str:
    """The row with the tokens at these positions exchanged; positions past the last are appended."""
    spans = [match.span() for match in _TOKEN.finditer(line)]
    out, last = "", 0
    for position, value in values:
        text = f'"{value}"' if re.search(r"\s", value) else value
        if position < len(spans):
            begin, stop = spans[position]
            out, last = out + line[last:begin] + text, stop
        else:
            out, last = out + line[last:].rstrip() + " " + text, len(line)
    return out + line[last:]
