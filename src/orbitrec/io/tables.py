"""The list of particle-table formats that can be read: a new format is a class and an entry of ``READERS``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orbitrec.io.cryosparc.table import CryosparcTable
from orbitrec.io.mrc_stack import MrcStack
from orbitrec.io.particle_table import ParticleTable
from orbitrec.io.relion import RelionTable


@dataclass(frozen=True)
class TableReader:
    """How one kind of particle table is recognised and read.

    Attributes:
        name: what people call the format.
        suffixes: of the files it reads, with their dots, in lower case.
        read: makes the table of a path, a pixel size in Å that replaces the file's (or None), and the passthrough file
            of a cryoSPARC job (or None); formats that have no use for an argument ignore it.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, float | None, Path | None], ParticleTable]

    def accepts(self, path: Path) -> bool:
        """Whether the file has one of the format's suffixes."""
        return path.suffix.lower() in self.suffixes


RELION = TableReader(
    "RELION 3.0 to 5", (".star",), lambda path, pixel_size_A, passthrough: RelionTable.read(path, pixel_size_A)
)
CRYOSPARC = TableReader("cryoSPARC", (".cs", ".csg"), CryosparcTable.read)
MRC_STACK = TableReader(
    "MRC stack", (".mrcs", ".mrc"), lambda path, pixel_size_A, passthrough: MrcStack.read(path, pixel_size_A)
)
READERS = (RELION, CRYOSPARC, MRC_STACK)
"""Every format, in the order in which they are asked whether they accept a file."""


def table_reader(path: Path | str) -> TableReader | None:
    """The first of :data:`READERS` that accepts the file, None where none does."""
    return next((reader for reader in READERS if reader.accepts(Path(path))), None)


def read_table(path: Path | str, pixel_size_A: float | None = None, passthrough: Path | None = None) -> ParticleTable:
    """Read a table of particles, whatever program wrote it.

    A file that no reader accepts by its suffix is read as a RELION STAR file.

    Args:
        path: the table (.star, .cs, .csg) or a stack of images without one (.mrcs, .mrc).
        pixel_size_A: pixel size of all images in Å, instead of what the file says.
        passthrough: a cryoSPARC job's passthrough file, where it is not beside the table.

    Returns:
        The table. It knows where its images are, but does not read them.

    Raises:
        InputError: if there is no such file, it is malformed, or it lists no particles.
    """
    reader = table_reader(path) or RELION
    return reader.read(Path(path), pixel_size_A, passthrough)
