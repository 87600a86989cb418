"""How much of a map two moments determine: the explained fraction of each shell's variance.

    OMP_NUM_THREADS=2 python benchmarks/thesis/moment_information.py emd_0409.mrc --band 15

The problem is Table 2.2's; the prior is of the map's own spectrum and radial profile
(:mod:`orbitrec.moments.information`). ``--particles`` may be repeated.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.information import (
    MomentInformation,
    empirical_prior_covariance,
    explained_variance,
    projected,
)
from orbitrec.thesis.two_moments import Matching, TrueVolume
from orbitrec.volumes.shells import ShellFunctions

_DEGREE, _SCALE = 8, 0.3  # of the views' log density, and each harmonic's standard deviation in the prior


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="EMD-0409 or EMD-25892 (MRC), its number in the name")
    parser.add_argument("--band", type=float, default=15.0, help="moments are known up to here, Å")
    parser.add_argument("--particles", type=float, action="append", help="default: 5e6 and 5e8")
    arguments = parser.parse_args()
    truth = TrueVolume.of_map(arguments.map)
    matching = Matching(truth, arguments.band)
    basis, box = matching.basis, len(truth.voxels)
    directions = spherical_design(min(63, 2 * basis.degree + 3))
    density = matching.views.density(directions)
    coefficients = projected(basis, truth.compact)
    prior = empirical_prior_covariance(basis, coefficients, box)
    projector = PolarProjector(basis, matching.grid, directions, torch.float64)
    functions = ShellFunctions(basis.lm, projector.radial)
    harmonics = nonconstant_harmonics(directions, _DEGREE) * _SCALE
    table, shown = Table(title=f"{truth.name}: {len(basis)} coefficients, moments to {arguments.band:g} Å"), []
    for particles in arguments.particles or [5e6, 5e8]:
        for views, known in ((harmonics, "free"), (harmonics[:, :0], "known")):
            target = replace(matching.target, count=particles)
            information = MomentInformation(target, projector, functions, coefficients, density / density.sum(), views)
            shown.append((f"{particles:g}, views {known}", explained_variance(information.matrix(), prior, basis, box)))
    table.add_column("Å", justify="right")
    for name, _ in shown:
        table.add_column(name, justify="right")
    for shell in range(1, box // 2 + 1):
        shares = [float(share[shell]) for _, share in shown]
        if any(shares):
            table.add_row(f"{box * truth.voxel_size_A / shell:.1f}", *(f"{share:.2f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
