"""Does `--symmetry` help where it is right, and is it noticed where it is wrong?

Copies of a real map around a common axis are a particle whose symmetry is known. One simulated set of it is given to
`orbitrec abinitio` with every symmetry that is asked for; printed are the score that the map without it has, the
resolution against the truth, how well the final map repeats under the true group, and whether the run doubts it.

    python benchmarks/symmetry.py MAP.mrc --truth C3 --ask C1 C3 C4 --diameter 200 [-n 1500] [--snr 0.1]

What is not known here is given to `orbitrec abinitio`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from orbitrec.evaluation.alignment import Alignment, resampled
from orbitrec.evaluation.symmetry import find_axes
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.mrc import read_header, read_map, write_map
from orbitrec.volumes.voxel import VoxelVolume

ORBITREC = [sys.executable, "-m", "orbitrec"]


def assembled(unit: Tensor, group: PointGroup, distance_px: float) -> Tensor:
    """Copies of a map, rotated anyhow and moved off every axis of the group."""
    rotated = random_rotations(1, torch.Generator().manual_seed(0))[0]
    several = len(group.axes) > 1
    aside = distance_px * torch.tensor([0.8, 0.45 * several, 0.4 * several], dtype=torch.float64)
    placed = Alignment(rotated, aside, False, 1.0).apply(unit)
    none = torch.zeros(3, dtype=torch.float64)
    copies = (Alignment(element, none, False, 1.0).apply(placed) for element in group.matrices())
    return sum(copies, torch.zeros_like(unit))


def simulated(arguments: argparse.Namespace, group: PointGroup, folder: Path) -> None:
    voxel_A = read_header(arguments.map).voxel_size_A
    unit = resampled(read_map(arguments.map)[0].double(), voxel_A, arguments.box, arguments.pixel_size)
    unit = (unit - unit.median()).clamp(min=0)  # a solvent that is not zero would end in a step where the map ends
    distance_px = arguments.distance / arguments.pixel_size
    write_map(folder / "whole.mrc", assembled(unit, group, distance_px).float(), arguments.pixel_size)
    command = ["simulate", "cryoem", "--map", str(folder / "whole.mrc"), "-n", str(arguments.count)]
    options = ["--snr", str(arguments.snr), "--shift-px", "1", "--views", "vmf", "--seed", str(arguments.seed)]
    subprocess.run([*ORBITREC, *command, *options, "-o", str(folder / "set")], check=True, capture_output=True)


def asked(symmetry: str, folder: Path, options: list[str]) -> dict:
    """The summary of a run."""
    command = ["abinitio", str(folder / "set" / "particles.star"), "--truth", str(folder / "set" / "truth.mrc")]
    command += ["--symmetry", symmetry, "-o", str(folder / symmetry), "--json", *options]
    done = subprocess.run([*ORBITREC, *command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("map", type=Path)
    parser.add_argument("--truth", default="C3", help="symmetry of the particle that is made")
    parser.add_argument("--ask", nargs="+", default=["C1", "C3", "C4"], help="symmetries that runs are given")
    parser.add_argument("--distance", type=float, default=42.0, help="of a copy from the axis, Å")
    parser.add_argument("--box", type=int, default=40)
    parser.add_argument("--pixel-size", type=float, default=6.0)
    parser.add_argument("-n", dest="count", type=int, default=1500)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    arguments, options = parser.parse_known_args()
    group = PointGroup.named(arguments.truth)
    table = Table(title=f"{arguments.map.name} as {group}, {arguments.count} particles, SNR {arguments.snr:g}")
    for name in ("--symmetry", "score before", "FSC 0.5", f"map shows {group}", "half maps", "seconds", "doubt"):
        table.add_column(name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        simulated(arguments, group, folder)
        for symmetry in arguments.ask:
            summary = asked(symmetry, folder, options)
            volume = read_map(folder / symmetry / "initial_model.mrc")[0].double()
            shown = find_axes(VoxelVolume(volume).to_grid(arguments.box), group).score
            score, checks = summary["symmetry_score"], [c for c in summary["checks"] if "symmetry" in c]
            table.add_row(
                symmetry, "" if score is None else f"{score:.2f}", f"{summary['fsc05_A']:.2f} Å", f"{shown:.3f}",
                f"{summary['half_maps_fsc0143_A']:.2f} Å", f"{summary['seconds']['total']:.0f}", " ".join(checks),
            )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
