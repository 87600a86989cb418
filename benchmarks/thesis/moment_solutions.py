"""Whether two moments determine a volume: descents from the truth and from random starts, under one prior.

    python benchmarks/thesis/moment_solutions.py emd_0409.mrc

The prior is the best that a Gaussian can be, of the truth's own spectrum and radial profile
(:func:`orbitrec.moments.information.empirical_prior_covariance`), and its volumes have no band to be cut
at (:mod:`orbitrec.volumes.shells`), so that the truth has the moments, nearly to their noise. All
descents minimise one function, minus the log posterior of volume and views, by L-BFGS in coordinates in which its
curvature is one, renewed each round. Did moments determine the volume, the truth would stay where it is, and random
starts would end at higher losses.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from orbitrec.densities.harmonic import probabilities_on_nodes
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, antipodal_moments, uniform_moments
from orbitrec.moments.information import MomentInformation, empirical_prior_covariance, projected
from orbitrec.moments.losses import relative_errors
from orbitrec.moments.matching import MomentTarget
from orbitrec.optim.lbfgs import minimise
from orbitrec.runtime.threads import run_threaded
from orbitrec.thesis.table_2_2 import single
from orbitrec.thesis.two_moments import Matching, TrueVolume
from orbitrec.volumes.shells import GaussianShells
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

_FINEST_A = 7.0  # of the prior's volumes
_BEYOND = 4  # degrees beyond radius · k, where shells hold nothing any more
_VIEW_DEGREE, _VIEW_SCALE = 8, 0.3  # of the views' log density: its degree, and each harmonic's deviation
_TRUSTS = (1e4, 1e5, 1e6)  # clean images that moments are trusted like on the way of a random start, a round each
_ITERATIONS = 80  # of a round

Point = Float[Tensor, "x"]
"""Coefficients of the prior's functions, then of the views' harmonics: standard normal variables."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The moments of a truth, to be matched in the prior of its own kind."""

    matching: Matching
    views_known: bool

    @cached_property
    def shells(self) -> GaussianShells:
        """The prior's volumes."""
        truth, grid = self.matching.truth, self.matching.grid
        basis = SphericalBesselBasis(truth.radius, min(math.pi, 2 * math.pi * truth.voxel_size_A / _FINEST_A))
        covariance = empirical_prior_covariance(basis, projected(basis, truth.compact), len(truth.voxels))
        degree = int(self.matching.k_max * truth.radius) + _BEYOND
        return GaussianShells(basis, covariance, grid.nodes, grid.scale, degree)

    @cached_property
    def projector(self) -> PolarProjector:
        """Rotates shells to directions, in double precision."""
        degree, basis = self.shells.degree, self.shells.basis
        directions = spherical_design(min(63, 2 * degree))
        return PolarProjector(replace(basis, max_degree=degree), self.matching.grid, directions, torch.float64)

    @cached_property
    def _single(self) -> tuple[PolarProjector, MomentTarget]:
        return replace(self.projector, dtype=torch.float32), single(self.matching.target)

    @cached_property
    def harmonics(self) -> Float[Tensor, "d b"]:
        """What the views' log density is a sum of; nothing if it is known."""
        return _VIEW_SCALE * nonconstant_harmonics(self.projector.directions, 0 if self.views_known else _VIEW_DEGREE)

    def density(self, x: Point) -> Float[Tensor, "d"]:
        """Of views."""
        directions = self.projector.directions
        known = self.matching.views.log_density(directions) if self.views_known else torch.zeros(len(directions))
        return probabilities_on_nodes(x[len(self.shells.functions) :], self.harmonics, known.to(x))

    def moments(self, x: Point) -> Moments:
        """In x's precision."""
        precise = x.dtype == torch.float64
        projector = self.projector if precise else self._single[0]
        functions = self.shells.functions if precise else self.shells.functions.to(torch.float32)
        templates = projector.half_templates(functions.sum(x[: len(functions)], self.shells.degree))
        return antipodal_moments(templates.transpose(0, 1).contiguous(), self.density(x), projector.grid)

    def misfit(self, x: Point, trust: float) -> Float[Tensor, ""]:
        """Minus the log-likelihood, were the moments those of so many clean images."""
        target = self.matching.target if x.dtype == torch.float64 else self._single[1]
        return replace(target, count=trust).misfit(self.moments(x))

    def curvature(self, x: Point, trust: float) -> Float[Tensor, "x x"]:
        """Of the loss, as of moments that fit."""
        functions, target = self.shells.functions, replace(self.matching.target, count=trust)
        volume, views = x[: len(functions)], self.density(x)
        information = MomentInformation(self.projector, functions, volume, views, self.harmonics, target)
        return information.matrix() + torch.eye(len(x), dtype=torch.float64)

    def descended(self, x: Point, trust: float) -> Point:
        """After a round."""
        whitening = torch.linalg.inv(torch.linalg.cholesky(self.curvature(x, trust))).mT.float()
        begin = x.float()

        def loss(change: Tensor) -> Tensor:
            at = begin + whitening @ change
            return self.misfit(at, trust) + at.square().sum() / 2

        change = minimise(loss, torch.zeros(len(x)), _ITERATIONS).x
        return (begin + whitening @ change).double()

    @cached_property
    def truth(self) -> Point:
        """The true volume and its views, which harmonics render nearly."""
        grid, degree = self.matching.grid, self.shells.degree
        basis, map_ = self.shells.basis, self.matching.truth.compact
        shells = basis.angular_sum(basis.radial(grid.nodes) * grid.scale, projected(basis, map_))
        log_density = self.matching.views.log_density(self.projector.directions)
        views = torch.linalg.lstsq(self.harmonics, log_density - log_density.mean()).solution
        return torch.cat([self.shells.coefficients(shells[: (degree + 1) ** 2]), views])

    def random_start(self, seed: int) -> Point:
        """A draw of the prior, its views nearly even."""
        volume, views = len(self.shells.functions), self.harmonics.shape[1]
        x = torch.randn(volume + views, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return torch.cat([x[:volume], 0.3 * x[volume:]])

    def row(self, x: Point) -> list[str]:
        """Misfit, prior and loss, the moments' errors, and how the volume and views are like the true ones."""
        matching, truth, count = self.matching, self.matching.truth, self.matching.target.count
        misfit, prior = float(self.misfit(x, count)), float(x.square().sum()) / 2
        errors = relative_errors(matching.target.moments, self.moments(x))
        volume = self.shells.volume(x[: len(self.shells.functions)]).to_grid(len(truth.voxels))
        alignment = align(volume, truth.voxels)
        aligned = fourier_shell_correlation(alignment.apply(volume), truth.voxels)
        true = matching.views.log_density(alignment.rotated(self.projector.directions))
        views = float(torch.corrcoef(torch.stack([self.density(x).log(), true]))[0, 1])
        return [
            *(f"{value:.0f}" for value in (misfit, prior, misfit + prior)),
            *(f"{float(error):.4f}" for error in errors),
            f"{aligned.cutoff_A(0.5, truth.voxel_size_A):.1f}",
            f"{alignment.correlation:.2f}",
            f"{views:.2f}",
        ]


def descents(problem: Problem, starts: int, rounds: int, callback: Callable[[], None]) -> list[list[str]]:
    """Rows of the truth as its descent goes on, and of the ends of those of random starts."""
    count = problem.matching.target.count

    def from_truth() -> list[list[str]]:
        x, rows = problem.truth, [["the truth", *problem.row(problem.truth)]]
        for done in range(1, rounds + 1):
            x = problem.descended(x, count)
            callback()
            if done in (rounds // 4, rounds // 2, rounds):
                rows.append([f"from it, {done * _ITERATIONS} iterations", *problem.row(x)])
        return rows

    def from_random(seed: int) -> list[list[str]]:
        x = problem.random_start(seed)
        for trust in _TRUSTS + rounds * (count,):
            x = problem.descended(x, trust)
            callback()
        return [[f"random start {seed + 1}", *problem.row(x)]]

    # What is cached is made once, before threads ask for it.
    problem.descended(problem.truth, count)
    found = run_threaded([from_truth, *(partial(from_random, seed) for seed in range(starts))])
    return [row for rows in found for row in rows]


def noise(matching: Matching) -> list[str]:
    """Misfit and errors of the true moments: of their noise alone."""
    exact = uniform_moments(matching.true_templates, matching.true_density, matching.grid)
    return [f"{float(matching.target.misfit(exact)):.0f}", "", "", *(f"{error:.4f}" for error in matching.noise_errors)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="EMD-0409 or EMD-25892 (MRC), its number in the name")
    parser.add_argument("--band", type=float, action="append", help="moments are known to here, Å; default: 30, 20")
    parser.add_argument("-n", dest="starts", type=int, default=3, help="random starts")
    parser.add_argument("--rounds", type=int, default=12, help=f"of {_ITERATIONS} iterations, trusted fully")
    parser.add_argument("--views-known", action="store_true", help="hold the views to the true ones")
    arguments = parser.parse_args()
    truth, bands = TrueVolume.of_map(arguments.map), arguments.band or [30.0, 20.0]
    views = "true views held" if arguments.views_known else "views free"
    table = Table(title=f"{truth.name}, moments of 5·10⁶ particles, {views}")
    table.add_column("from")
    for heading in ("misfit", "prior", "loss", "M¹ error", "M² error", "FSC 0.5, Å", "correlation", "views"):
        table.add_column(heading, justify="right")
    with Progress(transient=True) as bar:
        total = len(bands) * (arguments.rounds + arguments.starts * (arguments.rounds + len(_TRUSTS)))
        task = bar.add_task("descending", total=total)
        for band in bands:
            problem = Problem(Matching(truth, band), arguments.views_known)
            table.add_section()
            table.add_row(f"to {band:g} Å: noise alone", *noise(problem.matching))
            for row in descents(problem, arguments.starts, arguments.rounds, lambda: bar.advance(task)):
                table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
