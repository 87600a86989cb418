"""The files of a finished run, read back for the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import FSC
from orbitrec.evaluation.orientation import ConicalFSC, ViewAverages
from orbitrec.geometry.grids import shell_frequencies
from orbitrec.io.files import existing_file, write_csv
from orbitrec.io.mrc import StackWriter, read_header, read_map
from orbitrec.io.particle_table import ParticleStatistics, ParticleTable, given_over_stated_pixel
from orbitrec.io.particles import SAME_PIXEL
from orbitrec.io.runs import RunFolder
from orbitrec.io.tables import read_table
from orbitrec.report.history import read_history
from orbitrec.report.summary import RunKind, Summary
from orbitrec.runtime.progress import HistoryRow

SUMMARY, HISTORY, CURVES = "summary.json", "history.csv", "fsc.csv"
CONICAL, STATISTICS = "conical_fsc.csv", "particle_statistics.csv"
VIEW_STACK, VIEWS = "views.mrcs", "views.csv"


@dataclass(frozen=True, eq=False)
class RunFiles:
    """The content of a run's folder.

    Attributes:
        folder: of the run.
        kind: what the run made.
        summary: its facts.
        volume: the map, (z, y, x).
        voxel_size_A: of the map, in Å.
        history: the steps of the run.
        curves: correlation curves by their column in ``fsc.csv``.
        rotations: rotation of every particle, in RELION's convention.
        shifts_px: displacement (x, y) of every particle's content in pixels.
        views: averages of particles beside projections of the map; None where the run has none.
        conical_fsc: the half-maps' correlation in each direction; None where the run has none.
    """

    folder: Path
    kind: RunKind
    summary: Summary
    volume: Float[Tensor, "n n n"]
    voxel_size_A: float
    history: Sequence[HistoryRow]
    curves: Mapping[str, FSC]
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    views: ViewAverages | None
    conical_fsc: ConicalFSC | None

    @property
    def map_file(self) -> Path:
        """Where the map is."""
        return self.folder / f"{self.kind}.mrc"

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """Read the folder of a run that has ended, of this version or of orbitrec 0.1.

        Raises:
            InputError: if it is not such a folder, or a file in it is broken.
        """
        kinds = [kind for kind in RunKind if (folder / f"{kind}.mrc").exists()]
        if not kinds or not (folder / SUMMARY).exists():
            raise InputError(f"{folder} holds no finished run of orbitrec abinitio or refine; name the folder of one")
        volume, voxel_A = read_map(folder / f"{kinds[-1]}.mrc", None)
        summary = Summary.read(folder / SUMMARY)
        poses = posed_table(folder / summary.posed, summary.pixel_size_A).poses()
        if poses is None:
            raise InputError(f"{folder / summary.posed} has no poses; run it again")
        try:
            curves, views = _read_curves(folder / CURVES, voxel_A), _read_views(folder)
            conical = _read_conical_fsc(folder / CONICAL, len(volume))
        except (ValueError, KeyError, IndexError) as error:
            raise InputError(f"{folder}: a file of the run is broken ({error}); run it again") from error
        history = read_history(folder / HISTORY)
        return cls(
            folder, kinds[-1], summary, volume, voxel_A, history, curves, poses[0], poses[1] / voxel_A, views, conical
        )


def posed_table(path: Path, pixel_size_A: float) -> ParticleTable:
    """The posed particles of a run that worked with this pixel size in Å, whether or not it is the table's own."""
    table = read_table(path, pixel_size_A)
    ratio = given_over_stated_pixel(table)
    several = float(ratio.max()) > 1 + SAME_PIXEL and abs(float(ratio.min()) - 1) < SAME_PIXEL
    return read_table(path) if several else table  # of several pixel sizes a run works with the coarsest


def write_views(run: RunFolder, views: ViewAverages, pixel_size_A: float) -> None:
    """Write ``views.mrcs`` and ``views.csv``.

    Args:
        run: the folder.
        views: averages of particles, which come first in the stack, and projections of the map; their directions,
            counts and correlations are the rows of the table.
        pixel_size_A: in Å.
    """
    pictures = torch.cat([views.averages, views.projections])
    with StackWriter(run.file(VIEW_STACK), len(pictures), pictures.shape[-1], pixel_size_A) as stack:
        stack.write(pictures)
    names = ("x", "y", "z", "particles", "correlation")
    values = torch.cat([views.directions, views.counts[:, None], views.correlations[:, None]], dim=1)
    write_csv(run.file(VIEWS), [dict(zip(names, row, strict=True)) for row in values.tolist()])


def write_conical_fsc(run: RunFolder, found: ConicalFSC) -> None:
    """Write ``conical_fsc.csv``: a row for every axis, its x, y and z and then the correlation of every shell."""
    names = ["x", "y", "z", *map(str, range(found.value.shape[1]))]
    rows = torch.cat([found.axes, found.value], dim=1).tolist()
    write_csv(run.file(CONICAL), [dict(zip(names, row, strict=True)) for row in rows])


def _read_conical_fsc(path: Path, n: int) -> ConicalFSC | None:
    if not path.exists():
        return None
    table = torch.from_numpy(pd.read_csv(path).to_numpy(dtype="float64", copy=True))
    frequency = shell_frequencies(n)
    if table.shape[1] != 3 + len(frequency):
        raise ValueError(f"{path.name} does not have {len(frequency)} shells")
    return ConicalFSC(table[:, :3], frequency, table[:, 3:])


def _read_views(folder: Path) -> ViewAverages | None:
    if not (folder / VIEWS).exists() or not (folder / VIEW_STACK).exists():
        return None
    table = torch.from_numpy(pd.read_csv(folder / VIEWS).to_numpy(dtype="float64", copy=True))
    header = read_header(folder / VIEW_STACK)
    with header.path.open("rb", buffering=0) as file:
        pictures = torch.from_numpy(header.read_sections(file, 0, header.shape[0]).astype("float32"))
    count = len(table)
    return ViewAverages(table[:, :3], table[:, 3].long(), pictures[:count], pictures[count : 2 * count], table[:, 4])


def _read_curves(path: Path, voxel_size_A: float) -> dict[str, FSC]:
    table = pd.read_csv(existing_file(path))
    periods_A = torch.from_numpy(table["resolution_A"].to_numpy(dtype="float64", copy=True))
    return {
        str(name): FSC(
            2 * math.pi * voxel_size_A / periods_A, torch.from_numpy(table[name].to_numpy(dtype="float64", copy=True))
        )
        for name in table.columns.drop(["shell", "resolution_A"])
    }


def particle_statistics(path: Path, count: int) -> ParticleStatistics | None:
    """What a run found of every particle beside its pose, in the order of the posed table.

    Args:
        path: the run's ``particle_statistics.csv``.
        count: of the posed particles.

    Returns:
        The statistics; None of a run from before there were all of them.

    Raises:
        InputError: if the file is not one that a run wrote, or lists other particles.
    """
    names = [field.name for field in fields(ParticleStatistics)]
    try:
        table = pd.read_csv(existing_file(path))
        if not set(names) <= set(table.columns):
            return None
        columns = {name: torch.from_numpy(table[name].to_numpy(copy=True)) for name in names}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is no list of particles that a run wrote; run again") from error
    if len(table) != count:
        raise InputError(f"{path} lists {len(table)} particles and the run's table {count}; run again")
    return ParticleStatistics(**columns)


def inlier_probabilities(path: Path) -> Float[Tensor, "N"]:
    """Probability that each particle of a run is a view of its map, in the order of the posed table.

    Args:
        path: the run's ``particle_statistics.csv``.

    Returns:
        Probabilities, from 0 to 1.

    Raises:
        InputError: if the file is not there, or is not one that a run wrote.
    """
    try:
        column = pd.read_csv(existing_file(path))["inlier_probability"]
        values = torch.from_numpy(column.to_numpy(dtype="float64", copy=True))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no list of particles that a run wrote; run again") from error
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError(f"{path} holds probabilities that are not between 0 and 1; run again")
    return values
