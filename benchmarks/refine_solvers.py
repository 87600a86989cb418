"""`orbitrec refine` by each of its solvers, from the truth seen at a low resolution: the evidence for its default.

Each solver runs in a process of its own, whose processor seconds are printed.

    OMP_NUM_THREADS=1 python benchmarks/refine_solvers.py particles.star truth.mrc
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orbitrec.cli.options.solver_names import SolverName
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.io.mrc import read_map, write_map

ORBITREC = [sys.executable, "-m", "orbitrec"]


def blurred(truth: str, resolution_A: float, path: Path) -> None:
    """The truth by a Gaussian filter that is 1/e at ``resolution_A``."""
    grid, voxel_A = read_map(truth)
    k = radial_frequencies(len(grid), 3)
    filtered = centred_fft(grid.double(), 3) * (-((k * resolution_A / (2 * math.pi * voxel_A)) ** 2)).exp()
    write_map(path, centred_ifft(filtered, 3).real.float(), voxel_A)


def refined(star: str, start: Path, solver: SolverName, folder: Path) -> tuple[Path, float]:
    """The map and the processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["refine", star, "--init", str(start), "--solver", solver.value, "-o", str(folder)]
    subprocess.run([*ORBITREC, *command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return folder / "refined.mrc", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("particles")
    parser.add_argument("truth")
    parser.add_argument("--start-resolution", type=float, default=40.0, help="Å")
    parser.add_argument("--solvers", nargs="+", type=SolverName, default=list(SolverName))
    arguments = parser.parse_args()
    title = f"{arguments.particles}, from the truth at {arguments.start_resolution:g} Å"
    table = Table("solver", "FSC 0.5 Å", "FSC 0.143 Å", "correlation", "processor s", title=title)
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start.mrc"
        blurred(arguments.truth, arguments.start_resolution, start)
        for solver in arguments.solvers:
            found, seconds = refined(arguments.particles, start, solver, Path(name) / solver.value)
            command = [*ORBITREC, "evaluate", str(found), arguments.truth, "--json"]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            resolutions = f"{told['fsc05_A']:.2f}", f"{told['fsc0143_A']:.2f}"
            table.add_row(solver.value, *resolutions, f"{told['correlation']:.4f}", f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
