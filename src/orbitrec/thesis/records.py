"""What an experiment leaves: a record of numbers, which JSON keeps, and the tables that are shown of it.

A command prints the tables in a terminal; the documentation makes the same tables from the JSON that the command wrote.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from rich.table import Table

from orbitrec.io.files import write_csv, write_json
from orbitrec.io.plain import from_plain
from orbitrec.io.runs import RunFolder

Cells = tuple[str, ...]


@dataclass(frozen=True)
class TextTable:
    """A table as text.

    Attributes:
        title: its headline.
        headings: of the columns.
        groups: rows, in groups that a line sets apart.
        text_columns: so many of the first columns are words, which are set to the left; the others are numbers.
    """

    title: str
    headings: Cells
    groups: tuple[tuple[Cells, ...], ...]
    text_columns: int = 1

    @classmethod
    def of(
        cls, title: str, headings: Iterable[str], rows: Iterable[Sequence[str]], text_columns: int = 1
    ) -> "TextTable":
        """A table of one group.

        Args:
            title: its headline.
            headings: of the columns.
            rows: as text.
            text_columns: so many of the first columns are words.

        Returns:
            The table.
        """
        return cls(title, tuple(headings), (tuple(tuple(row) for row in rows),), text_columns)

    @property
    def rows(self) -> list[Cells]:
        """Those of all groups."""
        return [row for group in self.groups for row in group]

    def for_terminal(self) -> Table:
        """The same for rich."""
        table = Table(title=self.title)
        for column, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if column < self.text_columns else "right")
        for group in self.groups:
            for row in group:
                table.add_row(*row)
            table.add_section()
        return table

    def as_markdown(self) -> str:
        """The same for a document, its title as a caption above it."""
        rules = ["---" if column < self.text_columns else "---:" for column in range(len(self.headings))]
        lines = [f"| {' | '.join(_escaped(row))} |" for row in (self.headings, tuple(rules), *self.rows)]
        return f"*{self.title}*\n\n" + "\n".join(lines) + "\n"


def _escaped(row: Cells) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]


@dataclass(frozen=True)
class Made:
    """By what a result was made.

    Attributes:
        command: as a user types it.
        commit: of the source code; None where there is no history.
        device: what computed, in words.
        note: what else a reader has to know.
    """

    command: str
    commit: str | None = None
    device: str = ""
    note: str = ""


R = TypeVar("R", bound="ExperimentResult")


@dataclass(frozen=True)
class ExperimentResult(ABC):
    """The numbers of one table or figure.

    Attributes:
        experiment: the name by which the command knows it.
    """

    experiment: str

    @abstractmethod
    def tables(self) -> list[TextTable]:
        """What is shown of it, the thesis's figures beside ours."""

    def to_json(self, made: Made) -> dict[str, object]:
        """All of it, and by what it was made."""
        return {"made": asdict(made), **asdict(self)}

    @classmethod
    def from_json(cls: type[R], values: Mapping[str, object]) -> tuple[R, Made]:
        """What :meth:`to_json` made, from JSON's types.

        Raises:
            TypeError: if it is another experiment's.
        """
        rest = {name: value for name, value in values.items() if name != "made"}
        return from_plain(cls, rest), from_plain(Made, values["made"])

    def write(self, run: RunFolder, made: Made, rows: Sequence[Mapping[str, object]] = ()) -> None:
        """Write table.json, and rows of numbers as table.csv; without rows, of a figure, summary.json alone.

        Args:
            run: the folder.
            made: by what the result was made.
            rows: of the comma-separated file.
        """
        write_json(run.file("table.json" if rows else "summary.json"), self.to_json(made))
        if rows:
            write_csv(run.file("table.csv"), rows)
