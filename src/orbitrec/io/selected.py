"""Some rows of a table of particles, as a table of its own."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.io.particle_table import Dialect, ImageSources, ParticleStatistics, ParticleTable, split_or_none
from orbitrec.models.aberrations import Aberrations
from orbitrec.models.ctf import CTFParameters


@dataclass(frozen=True, eq=False)
class SelectedTable:
    """The :class:`orbitrec.io.particle_table.ParticleTable` of some rows of another, which it writes in its dialect.

    Attributes:
        whole: the table.
        rows: (n,) its rows, counted from 0, in increasing order.
    """

    whole: ParticleTable
    rows: Int[Tensor, "n"]

    @property
    def _at(self) -> Int[np.ndarray, "n"]:
        return self.rows.numpy()

    @property
    def path(self) -> Path:
        """The file that was read."""
        return self.whole.path

    @property
    def dialect(self) -> Dialect:
        """Whose format it is."""
        return self.whole.dialect

    @property
    def suffix(self) -> str:
        """Suffix of the file that is written."""
        return self.whole.suffix

    @property
    def companions(self) -> tuple[str, ...]:
        """Suffixes of further files that are written beside it."""
        return self.whole.companions

    def __len__(self) -> int:
        return len(self.rows)

    def sources(self) -> ImageSources:
        """Where the images are; stacks of which there are none are named too."""
        found = self.whole.sources()
        return ImageSources(found.names, found.stack[self._at], found.section[self._at])

    def stated_pixel_sizes_A(self) -> Float[np.ndarray, "n"] | None:
        """Pixel size in Å that the file states for every image; None where it states none."""
        return self._of(self.whole.stated_pixel_sizes_A())

    def pixel_sizes_A(self) -> Float[np.ndarray, "n"]:
        """Pixel size of every image in Å."""
        return self.whole.pixel_sizes_A()[self._at]

    def groups(self) -> Int[np.ndarray, "n"]:
        """The optics group of every particle, numbered as in the whole table."""
        return self.whole.groups()[self._at]

    def signs(self) -> Float[np.ndarray, "n"]:
        """Factor that makes dense matter bright in each image."""
        return self.whole.signs()[self._at]

    def stated_boxes(self) -> Float[np.ndarray, "n"] | None:
        """Box in pixels that the file states for every image; None where it states none."""
        return self._of(self.whole.stated_boxes())

    def missing_ctf_columns(self) -> list[str]:
        """Names of the columns that a CTF needs and the file does not have."""
        return self.whole.missing_ctf_columns()

    def ctf(self) -> CTFParameters:
        """CTF parameters of every particle."""
        return self.whole.ctf().select(self.rows)

    def aberrations(self) -> Aberrations | None:
        """What the CTF leaves out, of each optics group of the whole table."""
        return self.whole.aberrations()

    def doubtful_values(self) -> list[str]:
        """Of the whole table."""
        return self.whole.doubtful_values()

    def premultiplied(self) -> Bool[np.ndarray, "n"]:
        """Which images have already been multiplied by their CTF."""
        return self.whole.premultiplied()[self._at]

    def phase_flipped(self) -> Bool[np.ndarray, "n"]:
        """Which images have had their phases flipped."""
        return self.whole.phase_flipped()[self._at]

    def poses(self) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]] | None:
        """Rotations and displacements; None where the file has no angles."""
        found = self.whole.poses()
        return None if found is None else (found[0][self.rows], found[1][self.rows])

    def halves(self) -> Float[np.ndarray, "n"] | None:
        """Half-set of every particle; None where they are not split."""
        return split_or_none(self._of(self.whole.halves()))

    def ignored_columns(self) -> list[str]:
        """Of the whole table."""
        return self.whole.ignored_columns()

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "n 3 3"],
        shifts_A: Float[Tensor, "n 2"],
        stacks: Sequence[Path] | None,
        halves: Int[Tensor, "n"] | None,
        rows: Int[Tensor, "n"] | None = None,
        statistics: ParticleStatistics | None = None,
    ) -> None:
        """Write these rows of the whole table with these poses."""
        own = self.rows if rows is None else self.rows[rows]
        self.whole.write_posed(path, rotations, shifts_A, stacks, halves, own, statistics)

    def write_rows(self, path: Path | str, rows: Int[Tensor, "K"]) -> None:
        """Write some of these rows as they are."""
        self.whole.write_rows(path, self.rows[rows])

    def identities(self) -> Mapping[str, Sequence[Hashable]]:
        """What the particles can be told from others by."""
        return {name: [values[row] for row in self.rows.tolist()] for name, values in self.whole.identities().items()}

    def _of(self, values: Float[np.ndarray, "N"] | None) -> Float[np.ndarray, "n"] | None:
        return None if values is None else values[self._at]
