"""Poses of one table on another of the same particles: the originals that were binned, or were extracted again."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from orbitrec.errors import InputError
from orbitrec.io.particle_table import ParticleTable

IMAGE_NAME = "image name"


@dataclass(frozen=True, eq=False)
class Match:
    """The particles that two tables have in common.

    Attributes:
        by: what they are told by.
        rows: rows of the second table, ascending.
        source: for each, the row of the first.
    """

    by: str
    rows: Int[np.ndarray, "K"]
    source: Int[np.ndarray, "K"]


def match(source: ParticleTable, target: ParticleTable) -> Match:
    """Find the particles of one table in another, by the surest that both know: uid, coordinates, or image name.

    Folders do not count in names, since jobs have folders of their own.

    Args:
        source: the table whose particles are looked for.
        target: where they are looked for.

    Returns:
        The particles that both have.

    Raises:
        InputError: if the tables have nothing that particles are told by in common, a particle is there twice, or none
            is in both.
    """
    known, looked = _identities(source), _identities(target)
    by = next((name for name in known if name in looked), None)
    if by is None:
        raise InputError(f"{target.path} and {source.path} have nothing in common that particles are told by")
    for table, values in ((source, known[by]), (target, looked[by])):
        _require_distinct(table.path, by, values)
    at = {value: row for row, value in enumerate(known[by])}
    pairs = [(row, at[value]) for row, value in enumerate(looked[by]) if value in at]
    if not pairs:
        raise InputError(
            f"{target.path} has no particle of {source.path}, going by {by}; give the table it was made of"
        )
    rows, found = np.array(pairs).T
    return Match(by, rows, found)


def transfer_poses(source: ParticleTable, target: ParticleTable, path: Path | str) -> Match:
    """Write the rows of a table that have poses in another, with these poses, in its dialect and with all its columns.

    Lengths in Å are the same for boxes of any pixel size at one place, so origins are too.

    Args:
        source: the posed particles.
        target: the table to pose.
        path: the file to write.

    Returns:
        Which rows were written.

    Raises:
        InputError: if the first has no poses, or as :func:`match`.
    """
    poses, halves = source.poses(), source.halves()
    if poses is None:
        raise InputError(f"{source.path} has no poses to transfer")
    found = match(source, target)
    rotations, shifts_A = (each[found.source] for each in poses)
    half_sets = None if halves is None else torch.from_numpy(halves[found.source]).long()
    target.write_posed(path, rotations, shifts_A, None, half_sets, found.rows)
    return found


def _identities(table: ParticleTable) -> Mapping[str, Sequence[Hashable]]:
    try:
        sources = table.sources()
    except InputError:  # a cryoSPARC table may leave that to its passthrough file
        return table.identities()
    files = [Path(name).name for name in sources.names]
    names = [(files[stack], section) for stack, section in zip(sources.stack, sources.section.tolist(), strict=True)]
    return {**table.identities(), IMAGE_NAME: names}


def _require_distinct(path: Path, by: str, values: Sequence[Hashable]) -> None:
    first: dict[Hashable, int] = {}
    for row, value in enumerate(values):
        if first.setdefault(value, row) != row:
            raise InputError(
                f"{path}: rows {first[value] + 1} and {row + 1} have the same {by}, so that their poses cannot be told "
                "apart; remove one"
            )
