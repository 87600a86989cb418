"""STAR files, read and written through the ``starfile`` package."""

import linecache
from pathlib import Path
from typing import cast

import pandas as pd
import starfile

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file, replacing

Blocks = dict[str, pd.DataFrame | dict]
"""A STAR file's blocks by name: a loop is a table, a simple block a dictionary."""


def read_star(path: Path | str) -> Blocks:
    """All blocks of a STAR file, in order; columns named ``…Name`` stay text, others become numbers where they can.

    Raises:
        InputError: if there is no such file or it cannot be parsed.
    """
    path = existing_file(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        labels = {line.split()[0][1:] for line in file if line.startswith("_")}
    names = sorted(label for label in labels if label.endswith("Name"))  # a micrograph may be called 0012
    try:
        blocks = cast(Blocks, starfile.read(path, always_dict=True, parse_as_string=names))
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path} is not a well-formed STAR file ({_first_line(error)})") from error
    finally:
        linecache.clearcache()  # starfile reads through it and leaves it filled after an error
    if not blocks:
        raise InputError(f"{path} is not a STAR file: it has no data block")
    return blocks


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def write_star(path: Path | str, blocks: Blocks) -> None:
    """Write the blocks as a STAR file, atomically; numbers keep twelve significant digits."""
    with replacing(path) as temporary:
        starfile.write(blocks, temporary, float_format="%.12g", na_rep="nan")
