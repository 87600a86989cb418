"""Tables of the thesis in the documentation, made from the JSON that ``orbitrec reproduce`` wrote."""

import re
from pathlib import Path

from orbitrec.thesis.results import as_markdown

MARKER = re.compile(r"<!-- table: (\S+) -->")
"""Stands in a page where the tables of a result are to be; the path is relative to the page."""


def with_tables(markdown: str, folder: Path) -> str:
    """A page with the tables of a result in place of every marker.

    Args:
        markdown: the page.
        folder: of the page.

    Returns:
        The page as it is shown.

    Raises:
        InputError: if a file is missing, or holds no result.
    """
    return MARKER.sub(lambda marker: as_markdown(folder / marker[1]), markdown)
