"""Different volumes that have the same two moments: each matched as well as 5·10⁶ particles tell them.

    python benchmarks/moment_solutions.py emd_0409.mrc

Networks that were matched from random starts (:mod:`orbitrec.recovery.volume_matching.neural_ensemble`), and the truth
itself, are where spherical-Bessel coefficients begin, whose Gaussian prior has the start's own radial profile and the
data's spectrum. They are matched by L-BFGS, with free views or under the true ones, until only noise is left. Where
misfits are alike and below that of the noise, small errors of the moments are no sign of a right volume. Losses add
each start's own prior, without its normalisation, so they say how far a descent has come and rank nothing.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.experiments.table_2_2 import single
from orbitrec.experiments.two_moments import Matching, Truth
from orbitrec.inference.losses import relative_errors
from orbitrec.inference.moments import Moments, antipodal_moments, uniform_moments
from orbitrec.models.cryoem import PolarProjector
from orbitrec.recovery.matching import MomentTarget, prior_scale
from orbitrec.recovery.volume_matching.consensus import Consensus
from orbitrec.recovery.volume_matching.information import like, projected
from orbitrec.recovery.volume_matching.lbfgs import minimise
from orbitrec.recovery.volume_matching.neural_ensemble import NeuralEnsemble, NeuralSettings
from orbitrec.recovery.volume_matching.side_by_side import side_by_side
from orbitrec.recovery.volume_matching.views import view_harmonics
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

# Basis functions beyond the band. With one, the true volume's second moment is 0.015 off, ten times its noise.
_BEYOND = 3
_SCHEDULE = ((1e5, 100), (1e6, 300), (5e6, 1000))  # clean images that moments are trusted like, and iterations
_VIEW_DEGREE, _VIEW_SCALE = 8, 0.3  # as of the least change
_SMALLEST = 1e-6  # eigenvalue of a prior's covariance, of its largest


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients that were matched.

    Attributes:
        voxels: the volume.
        views: probabilities of the problem's directions.
        misfit: what is left of the moments, minus the log-likelihood.
        loss: this and half the squared distance in its own prior, which is not the same function for another start.
    """

    voxels: Float[Tensor, "n n n"]
    views: Float[Tensor, "d"]
    misfit: float
    loss: float


@dataclass(frozen=True, eq=False)
class Problem:
    """Moments to be matched from a volume on."""

    matching: Matching

    @cached_property
    def target(self) -> MomentTarget:
        """In single precision."""
        return single(self.matching.target)

    @cached_property
    def projector(self) -> PolarProjector:
        """Of a basis that has room for what lies beyond the band and leaks into it."""
        radius = self.matching.truth.radius
        basis = SphericalBesselBasis(radius, self.matching.k_max + _BEYOND * math.pi / radius)
        return PolarProjector(basis, self.matching.grid, self.matching.directions)

    def root(self, coefficients: Float[Tensor, "p"]) -> tuple[Float[Tensor, "p p"], Float[Tensor, "p p"]]:
        """What makes coefficients of standard normal variables, and its inverse: profile of these, data's spectrum."""
        basis, box = self.projector.basis, len(self.matching.truth.voxels)
        shells = (basis.frequency * (box / (2 * math.pi))).round().long()
        covariance = like(basis, coefficients, box)
        power = torch.bincount(shells, prior_scale(self.target, self.projector).double().square())
        scale = (power / torch.bincount(shells, covariance.diagonal())).sqrt()[shells]
        values, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
        deviations = values.clamp(min=_SMALLEST * float(values.max())).sqrt()
        return vectors * deviations, (vectors / deviations).mT

    def solved(self, voxels: Float[Tensor, "n n n"], *, views_known: bool) -> Solution:
        """Where the descent from a volume ends, its views even at first or the true ones."""
        basis, directions = self.projector.basis, self.matching.directions
        begin = projected(basis, voxels)
        root, inverse = self.root(begin)
        if views_known:
            logits, degree = self.matching.views.log_density(directions).float(), 0
        else:
            logits, degree = torch.zeros(len(directions)), _VIEW_DEGREE
        harmonics = _VIEW_SCALE * view_harmonics(directions, degree).float()
        single_root = root.float()

        def density(x: Tensor) -> Float[Tensor, "d"]:
            return (logits + harmonics @ x[len(basis) :]).softmax(0)

        def moments(x: Tensor) -> Moments:
            radial = basis.angular_sum(self.projector.radial, single_root @ x[: len(basis)])
            templates = self.projector.half_templates(radial).transpose(0, 1).contiguous()
            return antipodal_moments(templates, density(x), self.matching.grid)

        start = inverse @ begin
        start = start * min(1.0, math.sqrt(len(basis)) / float(start.norm()))
        x, loss = torch.cat([start.float(), torch.zeros(harmonics.shape[1])]), math.inf
        for trust, iterations in _SCHEDULE:
            target = replace(self.target, count=trust)
            x, loss = minimise(lambda x, t=target: t.misfit(moments(x)) + x.square().sum() / 2, x, iterations)
        found = SphericalBesselVolume(basis, root @ x[: len(basis)].double()).to_grid(len(voxels))
        return Solution(found, density(x).double(), loss - float(x.square().sum()) / 2, loss)

    def all_solved(
        self, volumes: Iterable[Float[Tensor, "n n n"]], listen: Callable[[], None], *, views_known: bool
    ) -> list[Solution]:
        """The same of several at once; ``listen`` is called as each ends."""

        def one(voxels: Float[Tensor, "n n n"]) -> Solution:
            found = self.solved(voxels, views_known=views_known)
            listen()
            return found

        return side_by_side([partial(one, voxels) for voxels in volumes])


def noise_misfit(matching: Matching) -> float:
    """Misfit of the true moments: of their noise alone."""
    exact = uniform_moments(matching.true_templates, matching.true_density, matching.grid)
    return float(matching.target.misfit(exact))


def resolution(voxels: Float[Tensor, "n n n"], truth: Truth) -> float:
    """FSC 0.5 with the truth, Å."""
    return fourier_shell_correlation(voxels, truth.voxels).cutoff_A(0.5, truth.voxel_size_A)


def row(matching: Matching, found: Solution, *, views_known: bool) -> list[str]:
    """Misfit, loss, errors, resolution as it stands (the better hand) if that means anything, aligned, and views."""
    truth = matching.truth
    templates = matching.templates(VoxelVolume(found.voxels), matching.directions)
    errors = relative_errors(matching.target.moments, uniform_moments(templates, found.views, matching.grid))
    # The inversion x → −x has the same images under the same views, turned by 180° in their planes.
    stands = min(resolution(one, truth) for one in (found.voxels, found.voxels.flip(0, 1, 2)))
    alignment = align(found.voxels, truth.voxels)
    return [
        f"{found.misfit:.0f}",
        f"{found.loss:.0f}",
        *(f"{float(error):.4f}" for error in errors),
        f"{stands:.2f}" if views_known else "",
        f"{resolution(alignment.apply(found.voxels), truth):.2f}",
        "" if views_known else f"{matching.view_correlation(alignment, found.views):.2f}",
    ]


def agreement(found: Sequence[Solution], truth: Truth) -> float:
    """Where the mean FSC of pairs, aligned to their mean, falls below 0.5; Å."""
    mean = Consensus.of(found)
    moved = [alignment.apply(one.voxels) for alignment, one in zip(mean.alignments, found, strict=True)]
    curves = [fourier_shell_correlation(*pair) for pair in combinations(moved, 2)]
    mean_curve = FSC(curves[0].frequency, torch.stack([curve.value for curve in curves]).mean(0))
    return mean_curve.cutoff_A(0.5, truth.voxel_size_A)


def fill(table: Table, matching: Matching, found: Mapping[str, Solution], *, views_known: bool) -> None:
    """Rows of solutions by what they began at, the truth first, and of how those of networks agree."""
    truth, (_, *others) = matching.truth, found.values()
    for name, one in found.items():
        table.add_row(f"  {name}", *row(matching, one, views_known=views_known))
    if len(others) < 2:
        return
    mean = Consensus.of(others).voxels
    aligned = align(mean, truth.voxels).apply(mean)
    between = {"networks' mean": resolution(aligned, truth), "networks, one with another": agreement(others, truth)}
    for name, value in between.items():
        table.add_row(f"  {name}", *[""] * 5, f"{value:.2f}", "")


def starts(matching: Matching, count: int) -> dict[str, Float[Tensor, "n n n"]]:
    """The truth, and networks matched from random numbers with free views."""
    projector = PolarProjector(matching.basis, matching.grid, matching.directions)
    ensemble = NeuralEnsemble(single(matching.target), projector, matching.truth.reach, NeuralSettings(members=count))
    members = ensemble.members(torch.Generator().manual_seed(0))
    return {"the truth": matching.truth.compact} | {f"network {i}": one.voxels for i, one in enumerate(members, 1)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="EMD-0409 or EMD-25892 (MRC), its number in the name")
    parser.add_argument("--band", type=float, default=15.0, help="moments are matched to here, Å")
    parser.add_argument("-n", dest="count", type=int, default=8, help="networks")
    arguments = parser.parse_args()
    matching = Matching(Truth.of_map(arguments.map), arguments.band)
    problem, begins = Problem(matching), starts(matching, arguments.count)
    table = Table(title=f"{matching.truth.name}, moments of 5·10⁶ particles to {arguments.band:g} Å")
    table.add_column("from")
    for heading in ("misfit", "loss", "M¹ error", "M² error", "FSC 0.5 as it stands, Å", "aligned, Å", "views"):
        table.add_column(heading, justify="right")
    noise = [f"{error:.4f}" for error in matching.noise_errors]
    table.add_row("noise alone", f"{noise_misfit(matching):.0f}", "", *noise, "", "", "")
    with Progress(transient=True) as bar:
        task = bar.add_task("matching to the noise", total=2 * len(begins))
        for known in (False, True):
            table.add_section()
            table.add_row("true views held" if known else "views free")
            found = problem.all_solved(begins.values(), lambda: bar.advance(task), views_known=known)
            fill(table, matching, dict(zip(begins, found, strict=True)), views_known=known)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
