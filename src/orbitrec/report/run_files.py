"""What a finished run left in its folder, read back for the report."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.evaluation.fsc import FSC
from orbitrec.evaluation.orientation import ViewAverages
from orbitrec.io.cryosparc import POSE, SHIFT, SHIFT_PIXEL
from orbitrec.io.files import existing_file, write_csv
from orbitrec.io.mrc import StackWriter, read_header, read_map
from orbitrec.io.relion import RelionTable
from orbitrec.io.runs import RunFolder

MAPS = ("refined", "initial_model")
"""Names of the map in a folder of ``orbitrec refine`` and ``orbitrec abinitio``."""
FACTS = (
    "orbitrec", "input", "particles", "posed", "dialect", "warnings", "box_px", "pixel_size_A", "ctf", "seed",
    "threads", "diameter_A", "search_resolution_A", "half_sets", "shift_spread_px", "contrast", "contrast_of_images",
    "hand", "start_log_likelihoods", "start_kinds", "chosen_start", "start_agreements", "seconds",
    "peak_memory_GiB",
)  # fmt: skip
"""What the page takes from the summary of any run."""
VIEW_STACK, VIEWS = "views.mrcs", "views.csv"


@dataclass(frozen=True, eq=False)
class RunFiles:
    """A run as its files tell it.

    ``name``: of the map, without suffix; ``summary``: of ``summary.json``; ``history``: rows of ``history.csv``;
    ``curves``: columns of ``fsc.csv`` by name; ``rotations`` and ``shifts_px``: of every particle; ``views``: averages
    of particles beside projections, None where the run has none.
    """

    folder: Path
    name: str
    summary: Mapping[str, Any]
    volume: Float[Tensor, "n n n"]
    voxel_size_A: float
    history: Sequence[Mapping[str, Any]]
    curves: Mapping[str, FSC]
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    views: ViewAverages | None

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """Read the folder of a run that has ended.

        Raises:
            InputError: if it is not such a folder, or a file in it is broken.
        """
        names = [name for name in MAPS if (folder / f"{name}.mrc").exists()]
        if not names or not (folder / "summary.json").exists():
            raise InputError(f"{folder} holds no finished run of orbitrec abinitio or refine; name the folder of one")
        volume, voxel_A = read_map(folder / f"{names[0]}.mrc", None)
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            history = [{str(key): value for key, value in row.items()} for row in _rows(folder / "history.csv")]
            curves = _curves(pd.read_csv(existing_file(folder / "fsc.csv")), voxel_A)
            missing = [name for name in FACTS if name not in summary]
            if missing:
                raise InputError(f"{folder / 'summary.json'} lacks {missing[0]}; run it again with this version")
            rotations, shifts_A = _poses(folder / summary["posed"])
            views = _read_views(folder)
        except (ValueError, KeyError, IndexError) as error:
            raise InputError(f"{folder}: a file of the run is broken ({error}); run it again") from error
        return cls(folder, names[0], summary, volume, voxel_A, history, curves, rotations, shifts_A / voxel_A, views)


def write_views(run: RunFolder, views: ViewAverages, pixel_size_A: float) -> None:
    """``views.mrcs``: averages, then as many projections; ``views.csv``: their directions, counts and correlations."""
    pictures = torch.cat([views.averages, views.projections])
    with StackWriter(run.file(VIEW_STACK), len(pictures), pictures.shape[-1], pixel_size_A) as stack:
        stack.write(pictures)
    names = ("x", "y", "z", "particles", "correlation")
    values = torch.cat([views.directions, views.counts[:, None], views.correlations[:, None]], dim=1)
    write_csv(run.file(VIEWS), [dict(zip(names, row, strict=True)) for row in values.tolist()])


def _poses(path: Path) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]]:
    """Rotations and shifts in Å; of a cryoSPARC table by its own fields, for its images may be in another file."""
    if path.suffix == ".cs":
        records = np.load(existing_file(path), allow_pickle=False)
        rotations = Rotation.from_rotvec(records[POSE].astype(np.float64)).as_matrix()
        shifts_A = -records[SHIFT].astype(np.float64) * records[SHIFT_PIXEL].astype(np.float64)[:, None]
        return torch.from_numpy(rotations), torch.from_numpy(shifts_A)
    poses = RelionTable.read(path).poses()
    if poses is None:
        raise InputError(f"{path} has no poses; run it again")
    return poses


def _read_views(folder: Path) -> ViewAverages | None:
    if not (folder / VIEWS).exists() or not (folder / VIEW_STACK).exists():
        return None
    table = torch.from_numpy(pd.read_csv(folder / VIEWS).to_numpy(dtype="float64", copy=True))
    header = read_header(folder / VIEW_STACK)
    with header.path.open("rb", buffering=0) as file:
        pictures = torch.from_numpy(header.read_sections(file, 0, header.shape[0]).astype("float32"))
    count = len(table)
    return ViewAverages(table[:, :3], table[:, 3].long(), pictures[:count], pictures[count : 2 * count], table[:, 4])


def _rows(path: Path) -> list[dict[Any, Any]]:
    if existing_file(path).stat().st_size < 2:  # a run without a step
        return []
    return pd.read_csv(path).to_dict("records")


def _curves(table: pd.DataFrame, voxel_size_A: float) -> dict[str, FSC]:
    frequency = (
        2 * math.pi * voxel_size_A / torch.from_numpy(table["resolution_A"].to_numpy(dtype="float64", copy=True))
    )
    return {
        str(name): FSC(frequency, torch.from_numpy(table[name].to_numpy(dtype="float64", copy=True)))
        for name in table.columns.drop(["shell", "resolution_A"])
    }
