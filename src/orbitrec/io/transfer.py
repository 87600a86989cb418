"""Poses of one table on another of the same particles: the originals that were binned, or were extracted again."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from orbitrec.errors import InputError
from orbitrec.io.particle_table import ParticleStatistics, ParticleTable

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

    Folders count in names only as far as they tell stacks apart, since jobs have folders of their own. Rows of one
    particle, as after symmetry expansion, belong together in their order; there must be as many in both tables.

    Args:
        source: the table whose particles are looked for.
        target: where they are looked for.

    Returns:
        The particles that both have.

    Raises:
        InputError: if the tables have nothing that particles are told by in common, a particle has another number of
            rows in each, or none is in both.
    """
    known, looked = _identities(source, target)
    by = next((name for name in known if name in looked), None)
    if by is None:
        raise InputError(f"{target.path} and {source.path} have nothing in common that particles are told by")
    ours, theirs = _copies_numbered(known[by]), _copies_numbered(looked[by])
    _require_the_same_copies((source.path, known[by]), (target.path, looked[by]), by)
    at = {value: row for row, value in enumerate(ours)}
    pairs = [(row, at[value]) for row, value in enumerate(theirs) if value in at]
    if not pairs:
        raise InputError(
            f"{target.path} has no particle of {source.path}, going by {by}; give the table it was made of"
        )
    rows, found = np.array(pairs).T
    return Match(by, rows, found)


def transfer_poses(
    source: ParticleTable, target: ParticleTable, path: Path | str, statistics: ParticleStatistics | None = None
) -> Match:
    """Write the rows of a table that have poses in another, with these poses, in its dialect and with all its columns.

    Lengths in Å are the same for boxes of any pixel size at one place, so origins are too.

    Args:
        source: the posed particles.
        target: the table to pose.
        path: the file to write.
        statistics: what else is known of each of the posed particles; None leaves what the other table says of it.

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
    known = None if statistics is None else statistics.subset(torch.from_numpy(found.source))
    target.write_posed(path, rotations, shifts_A, None, half_sets, torch.from_numpy(found.rows), known)
    return found


def _identities(
    source: ParticleTable, target: ParticleTable
) -> tuple[Mapping[str, Sequence[Hashable]], Mapping[str, Sequence[Hashable]]]:
    """What the particles of each table are told by; images by the name of their stack and their place in it."""
    found = source.identities(), target.identities()
    try:
        images = source.sources(), target.sources()
    except InputError:  # a cryoSPARC table may leave that to its passthrough file
        return found
    # Folders count as far as they must to tell the stacks of a table apart.
    parts = [[Path(name).parts for name in each.names] for each in images]
    deepest = max(len(names) for table in parts for names in table)
    depth = next(
        (d for d in range(1, deepest) if all(len({names[-d:] for names in table}) == len(table) for table in parts)),
        deepest,
    )
    first, second = (
        [(names[stack][-depth:], section) for stack, section in zip(each.stack, each.section.tolist(), strict=True)]
        for each, names in zip(images, parts, strict=True)
    )
    return {**found[0], IMAGE_NAME: first}, {**found[1], IMAGE_NAME: second}


def _copies_numbered(values: Sequence[Hashable]) -> list[tuple[Hashable, int]]:
    """Each value with the number of the same ones before it: copies of a particle are told by their order."""
    seen: Counter[Hashable] = Counter()
    numbered = []
    for value in values:
        numbered.append((value, seen[value]))
        seen[value] += 1
    return numbered


def _require_the_same_copies(
    source: tuple[Path, Sequence[Hashable]], target: tuple[Path, Sequence[Hashable]], by: str
) -> None:
    """Refuse tables with another number of rows of one particle, whose poses cannot be told apart."""
    (path, values), (other_path, others) = source, target
    here, there = Counter(values), Counter(others)
    for value, count in here.items():
        if value in there and there[value] != count:
            raise InputError(
                f"{other_path} has {there[value]} row{'s' * (there[value] > 1)} of one {by}, that of row "
                f"{others.index(value) + 1}, and {path} has {count}, so that their poses cannot be told apart; give "
                "tables with the same copies"
            )
