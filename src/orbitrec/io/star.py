"""STAR files: read, written, or copied with only some columns changed or some rows kept.

Values are told apart as RELION does: a quote that begins a value ends it where the same quote is followed by a blank,
and ``#`` begins a comment only where a value would begin. Bytes that are not UTF-8 come out as they went in.
"""

import csv
import io
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import pandas as pd

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, replacing, what_it_is

Blocks = dict[str, pd.DataFrame | dict]
"""A STAR file's blocks by name: a loop is a table, a simple block a dictionary."""

_BLANK = " \t\r\n\f\v"  # of ASCII only: a name may hold a no-break space
_TOKEN = re.compile(r'"(?:[^"]|"(?=\S))*"(?!\S)|\'(?:[^\']|\'(?=\S))*\'(?!\S)|\S+', re.ASCII)
_PLAIN_VALUE = re.compile(r"[-+.\d][^\s'\"#]*", re.ASCII)
_GAPS = re.compile(f"([{_BLANK}]+)")
_BETWEEN = "\x1f"
"""Separates values that have been told apart."""


def read_star(path: Path | str) -> Blocks:
    """Read all blocks of a STAR file, in order.

    Columns named ``…Name`` stay text; others become numbers where all their values are numbers.

    Raises:
        InputError: if there is no such file, it cannot be parsed, or two blocks or columns have one name.
    """
    path = existing_file(path)
    blocks: Blocks = {}
    for name, first, lines in _blocks_of(path):
        if name in blocks:
            raise InputError(f"{path} has two blocks named data_{name}; put them in files of their own")
        content = [(first + i, line) for i, line in enumerate(lines, 1) if line and line[0] != "#"]
        block = _block(f"{path}: block data_{name}", content)
        if block is not None:
            blocks[name] = block
    if not blocks:
        raise InputError(f"{path} is not a STAR file{what_it_is(path) or ': it has no data block'}")
    return blocks


def _blocks_of(path: Path) -> Iterator[tuple[str, int, list[str]]]:
    """Name, number of the line that names it, and the lines that follow, of each block."""
    name, first, lines = None, 0, []
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            text = line.strip(_BLANK)
            begun = _block_name(text)
            if begun is None:
                lines.append(text)
                continue
            if name is not None:
                yield name, first, lines
            name, first, lines = begun, number, []
    if name is not None:
        yield name, first, lines


def _block_name(text: str) -> str | None:
    """What a line names that begins a block; a row may begin with ``data_`` too, but has more values."""
    if not text.startswith("data_"):
        return None
    values = _values(text)
    return values[0][5:] if len(values) == 1 else None


def _block(where: str, content: list[tuple[int, str]]) -> pd.DataFrame | dict | None:
    """The block of these numbered lines, which are neither empty nor comments; None where there is nothing in it."""
    begin = next((i for i, (_, line) in enumerate(content) if line.startswith(("loop_", "_"))), None)
    if begin is None:
        return None
    if content[begin][1].startswith("loop_"):
        labels = [line.split()[0][1:] for _, line in takewhile(lambda each: each[1][0] == "_", content[begin + 1 :])]
        return _loop(where, labels, content[begin + 1 + len(labels) :])
    pairs = [_values(line) for _, line in content[begin:] if line[0] == "_"]
    names = [pair[0][1:] for pair in pairs]
    _require_distinct(where, names)
    values = [_number(pair[1]) if len(pair) > 1 else "" for pair in pairs]
    kept = [
        pair[1] if name.endswith("Name") and len(pair) > 1 else value
        for name, pair, value in zip(names, pairs, values, strict=True)
    ]
    return dict(zip(names, kept, strict=True))


def _loop(where: str, labels: list[str], rows: list[tuple[int, str]]) -> pd.DataFrame:
    _require_distinct(where, labels)
    if not rows or not labels:
        return pd.DataFrame({label: [] for label in labels})
    text = "\n".join(row for _, row in rows)
    plain = text.isascii() and re.search("['\"#]", text) is None
    lines = [row if plain else _BETWEEN.join(_values(row)) for _, row in rows]
    for (number, _), line in zip(rows, lines, strict=True):
        found = len(line.split()) if plain else line.count(_BETWEEN) + 1
        if found != len(labels):
            raise InputError(
                f"{where} has {len(labels)} columns but {found} value{'s' * (found != 1)} in line {number}; correct "
                "it, and put names with blanks in quotes"
            )
    data = "\n".join(lines).encode(errors="surrogateescape")
    named: dict[Hashable, type] = {label: str for label in labels if label.endswith("Name")}  # such as 0012
    foreign = not plain and re.search("[\udc80-\udcff]", text) is not None  # texts of pandas cannot hold such bytes
    try:
        table = pd.read_csv(
            io.BytesIO(data), encoding_errors="surrogateescape", sep=r"\s+" if plain else _BETWEEN, header=None,
            names=labels, index_col=False, dtype=object if foreign else named, quoting=csv.QUOTE_NONE,
            keep_default_na=False, na_values=["nan", "NaN", "<NA>"], low_memory=False, skip_blank_lines=False,
        )  # fmt: skip
        if not foreign:
            return table
        return pd.DataFrame({name: col if name in named else _numbers(col) for name, col in table.items()})
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where} is not a well-formed STAR table ({str(error).strip().splitlines()[0]})") from error


def _numbers(column: pd.Series) -> pd.Series:
    """The column as numbers, if they all are."""
    try:
        return pd.Series(pd.to_numeric(column), column.index)
    except (ValueError, TypeError):  # pandas fails to say in which text a byte that is not UTF-8 is, with a TypeError
        return column


def _require_distinct(where: str, labels: list[str]) -> None:
    if len(set(labels)) < len(labels):
        raise InputError(f"{where} has two columns of one name; remove one")


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _tokens(line: str) -> Iterator[re.Match[str]]:
    """The values of a line as they are written, up to a comment."""
    return takewhile(lambda match: match[0][0] != "#", _TOKEN.finditer(line))


def _values(line: str) -> list[str]:
    """The values of a line, without quotes."""
    return [text[1:-1] if _is_quoted(text) else text for text in (match[0] for match in _tokens(line))]


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]


def _quoted(value: str) -> str:
    """A value as it is written: in quotes where it would be misread without.

    Raises:
        InputError: if it holds a line break, a tab or both kinds of quotes where they would end it.
    """
    if _PLAIN_VALUE.fullmatch(value):  # most are
        return value
    if value and _values(value) == [value] and not re.match("_|(data|loop|save)_", value):
        return value
    for quote in "\"'":
        written = f"{quote}{value}{quote}"
        if not re.search(r"[\t\r\n\f\v]", value) and _values(written) == [value]:
            return written
    raise InputError(f"the name {value!r} cannot be written to a STAR file; rename it")


def write_star(path: Path | str, blocks: Blocks) -> None:
    """Write the blocks as a STAR file, atomically; numbers keep twelve significant digits.

    Raises:
        InputError: if a text cannot be written to a STAR file.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as out,
    ):
        for title, block in blocks.items():
            out.write(f"\ndata_{title}\n\n")
            if isinstance(block, dict):
                out.writelines(f"_{key} {_quoted(str(value))}\n" for key, value in block.items())
                continue
            out.write("loop_\n")
            out.writelines(f"_{label} #{number}\n" for number, label in enumerate(block.columns, 1))
            texts = {name: [_text(value) for value in block[name]] for name in block.select_dtypes(exclude="number")}
            quoted = block.assign(**{name: pd.Series(column, block.index, object) for name, column in texts.items()})
            quoted.to_csv(
                out, sep="\t", header=False, index=False, float_format="%.12g", na_rep="nan", quoting=csv.QUOTE_NONE
            )


def _text(value: object) -> object:
    return _quoted(value) if isinstance(value, str) else value


def rewrite_loop(
    source: Path,
    target: Path | str,
    block: str,
    columns: Mapping[str, Sequence[str]],
    kept: Sequence[int] | None = None,
) -> None:
    """Copy a STAR file with other columns or rows of one loop, atomically; every other character is kept.

    Columns that the loop does not have are added after its last one.

    Args:
        source: the file to copy.
        target: the file to write.
        block: name of the loop's block, without ``data_``.
        columns: column name, without its underscore → the value of every row that is written.
        kept: how often every row of the loop is written, 0 for not; None writes each once.

    Raises:
        InputError: if the block is not a loop of as many rows, as after a change of the file.
    """
    kept = [1] * len(next(iter(columns.values()))) if kept is None else kept
    with (
        source.open(encoding="utf-8", errors="surrogateescape", newline="") as file,
        replacing(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        lines = iter(file)
        for line in lines:
            out.write(line)
            if _block_name(line.lstrip("\ufeff").strip(_BLANK)) == block:  # a byte order mark may come first
                out.writelines(_rewritten_loop(lines, source, columns, kept))


def _rewritten_loop(
    lines: Iterator[str], source: Path, columns: Mapping[str, Sequence[str]], kept: Sequence[int]
) -> Iterator[str]:
    """The lines of one block up to the next one's name, with ``columns`` set and only the rows that are kept."""
    labels: list[str] = []
    changed: list[tuple[int, Sequence[str]]] | None = None  # until the rows begin
    in_loop, row, written = False, 0, 0
    for line in lines:
        text = line.strip(_BLANK)
        if _block_name(text) is not None:
            yield line
            break
        if changed is None:
            in_loop = in_loop or text.startswith("loop_")
            if in_loop and text.startswith("_"):
                labels.append(text.split()[0][1:])
            elif labels:
                new = [name for name in columns if name not in labels]
                yield from (f"_{name} #{number}\n" for number, name in enumerate(new, len(labels) + 1))
                labels += new
                changed = sorted((labels.index(name), values) for name, values in columns.items())
        if changed is None or not text or text[0] == "#":
            yield line
            continue
        if row >= len(kept):
            raise InputError(f"{source} has more rows than when it was read; leave it alone while a run needs it")
        whole = line if kept[row] < 2 or line.endswith("\n") else f"{line}\n"  # a last line may have no end
        for _ in range(kept[row]):
            yield _rewritten_row(whole, [(at, values[written]) for at, values in changed])
            written += 1
        row += 1
    if row != len(kept):
        raise InputError(f"{source} does not list its {len(kept)} particles in one loop; write it as RELION does")


def _rewritten_row(line: str, values: Sequence[tuple[int, str]]) -> str:
    """The row with the tokens at these positions exchanged; positions past the last are appended."""
    if not any(sign in line for sign in "'\"#"):  # several times as fast, and the rule
        parts = _GAPS.split(line)  # tokens and gaps in turns
        first, last = (0 if parts[0] else 2), len(parts) - (1 if parts[-1] else 3)
        for position, value in values:
            at = first + 2 * position
            parts[min(at, last)] = _quoted(value) if at <= last else f"{parts[last]} {_quoted(value)}"
        return "".join(parts)
    spans = [match.span() for match in _tokens(line)]
    out, last = "", 0
    for position, value in values:
        if position < len(spans):
            begin, stop = spans[position]
            out, last = out + line[last:begin] + _quoted(value), stop
        else:
            stop = spans[-1][1]
            out, last = out + line[last:stop] + " " + _quoted(value), stop
    return out + line[last:]
