"""How much of a map two and three moments determine: the explained fraction of each shell's variance.

    OMP_NUM_THREADS=2 python benchmarks/thesis/moment_information.py emd_0409.mrc --band 15

The problem is Table 2.2's; the prior is of the map's own spectrum and radial profile
(:mod:`orbitrec.moments.information`). ``--particles`` may be repeated. Third cumulants are those of the coordinates
that so many particles show above their noise.
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
from orbitrec.moments.analytic import uniform_moments
from orbitrec.moments.compression import Compression
from orbitrec.moments.cumulant_target import CumulantTarget
from orbitrec.moments.cumulants import third_cumulants
from orbitrec.moments.information import (
    CumulantInformation,
    MomentInformation,
    empirical_prior_covariance,
    explained_variance,
    projected,
)
from orbitrec.thesis.two_moments import SIGMA, Matching, TrueVolume
from orbitrec.volumes.shells import ShellFunctions

_DEGREE, _SCALE = 8, 0.3  # of the views' log density, and each harmonic's standard deviation in the prior


def third(matching: Matching, count: float) -> CumulantTarget:
    """Exact cumulants, as well known as from so many particles."""
    density = matching.true_density / matching.true_density.sum()
    exact = uniform_moments(matching.true_templates, density, matching.grid)
    compression = Compression.of(exact, matching.grid, variance=SIGMA**2, count=count, resolved=1e-6)
    cumulants = third_cumulants(compression(matching.true_templates.transpose(0, 1)), density)
    return CumulantTarget.of_cumulants(cumulants, compression, count)


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
    density = density / density.sum()
    for particles in arguments.particles or [5e6, 5e8]:
        cumulants = third(matching, particles)
        for views, known in ((harmonics, "free"), (harmonics[:, :0], "known")):
            at = (projector, functions, coefficients, density, views)
            target = replace(matching.target, count=particles)
            two = MomentInformation(*at, target).matrix()
            three = two + CumulantInformation(*at, cumulants).matrix()
            for name, matrix in (("two", two), ("three", three)):
                share = explained_variance(matrix, prior, basis, box)
                shown.append((f"{name}, {particles:g}, views {known}", share))
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
