"""Particles with their two-dimensional class, as RELION's Class2D writes them."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.geometry.rotations import in_plane
from orbitrec.io.particle_table import ParticleTable
from orbitrec.io.relion import RelionTable
from orbitrec.io.star import rewrite_loop

CLASS, PROBABILITY = "rlnClassNumber", "rlnMaxValueProbDistribution"


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
