"""Particles with their class, two- or three-dimensional, as RELION and cryoSPARC write it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.geometry.rotations import in_plane
from orbitrec.io.files import replacing
from orbitrec.io.particle_table import ParticleTable
from orbitrec.io.relion import RelionTable
from orbitrec.io.star import rewrite_loop

CLASS, PROBABILITY = "rlnClassNumber", "rlnMaxValueProbDistribution"
CRYOSPARC_CLASS = "alignments3D/class"


def write_classified(
    table: ParticleTable,
    path: Path,
    classes: Int[Tensor, "N"],
    probability: Float[Tensor, "N"],
    angles: Float[Tensor, "N"],
    shifts_A: Float[Tensor, "N 2"],
    stacks: Sequence[Path],
) -> None:
    """Write a table again with the class, its posterior, the in-plane angle and the origin of every particle.

    The columns are ``rlnClassNumber`` (from 1), ``rlnMaxValueProbDistribution``, ``rlnAnglePsi`` and the origins; the
    other two angles are 0. A cryoSPARC table gets the in-plane angle and the origin as a pose, and no class.

    Args:
        table: the particles.
        path: the file to write, with the table's suffix.
        classes: (N,) counted from 0.
        probability: (N,) posterior of these.
        angles: (N,) by which the average's content is rotated, from x towards y, to be the particle's; in radians.
        shifts_A: (N, 2) displacement (x, y) of the particle's content in Å.
        stacks: the stack file found for each of ``table.sources().names``.

    Raises:
        InputError: if the file cannot be written.
    """
    table.write_posed(path, in_plane(-angles), shifts_A, stacks, None)
    if path.suffix != ".star":
        return
    written = RelionTable.read(path)
    columns = {
        CLASS: [str(number + 1) for number in classes.tolist()],
        PROBABILITY: [f"{value:.6f}" for value in probability.tolist()],
    }
    rewrite_loop(path, path, written.block_name, columns)


def write_in_classes(path: Path, classes: Int[Tensor, "N"]) -> None:
    """Add the class of every particle to a posed table that was written: ``rlnClassNumber``, or cryoSPARC's.

    Args:
        path: the table, which is replaced. A cryoSPARC table of a version that has no field for it stays as it is.
        classes: (N,) counted from 0; RELION counts them from 1, cryoSPARC from 0.

    Raises:
        InputError: if the file cannot be written.
    """
    if path.suffix == ".star":
        written = RelionTable.read(path)
        rewrite_loop(path, path, written.block_name, {CLASS: [str(number + 1) for number in classes.tolist()]})
        return
    records = np.load(path, allow_pickle=False)
    if CRYOSPARC_CLASS in (records.dtype.names or ()):
        records[CRYOSPARC_CLASS] = classes.numpy()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, records, allow_pickle=False)
