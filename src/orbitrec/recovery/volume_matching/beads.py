"""Moment matching with a molecule made of beads, from many starts.

Two moments do not determine a volume. Where in-plane angles are uniform they hold, at bandwidth B = radius · k_max,
about 0.025 B³ real numbers, Σ_m n_m² over the n_m radial functions of each circular mode; the volume has
(2/9π) B³ ≈ 0.071 B³. So what a volume is like has to tell the rest, and here it is a molecule: so many nearly equal
**beads** at free positions, which leave most of the box empty. What a map's filtering and masking have done to it is
a smooth background of low degree.

The landscape is met by marching: **starts** are clouds of beads, matched at a bandwidth at which a molecule is a lump.
At each stage the band grows, and the half of the starts whose loss is lower stays, down to a few. Moments are trusted
only as if they came from 10⁴ clean images, which is about how well beads can tell a molecule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.quadrature import spherical_design
from orbitrec.inference.moments import Moments, antipodal_moments
from orbitrec.models.beads import BeadProjector
from orbitrec.models.cryoem import PolarProjector
from orbitrec.recovery.matching import MomentTarget, prior_scale
from orbitrec.recovery.volume_matching.lbfgs import minimise
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume, real_spherical_harmonics
from orbitrec.volumes.summed import SummedVolume

_LARGEST_DESIGN = 63


@dataclass(frozen=True)
class Settings:
    """How much to do, and what a molecule may be like.

    Attributes:
        beads: their number.
        starts: random starts.
        finalists: how many of them are never dropped before the end.
        first_bandwidth: reach times frequency at the first stage.
        growth: of the bandwidth, from a stage to the next.
        iterations: of L-BFGS at each stage, and twice as many at the end.
        trust: number of clean images that moments are trusted like; ten times as many at the end.
        density_degree: largest degree of the log density of views.
        density_scale: standard deviation of each of its harmonics in the prior.
        weight_scale: that of the logarithms of the beads' weights.
        background_degree: largest degree of the background.
    """

    beads: int = 60
    starts: int = 8
    finalists: int = 4
    first_bandwidth: float = 6.0
    growth: float = 1.5
    iterations: int = 80
    trust: float = 1e4
    density_degree: int = 6
    density_scale: float = 0.3
    weight_scale: float = 0.5
    background_degree: int = 1


@dataclass(frozen=True, eq=False)
class Solution:
    """What is fitted, as one vector of standard normal variables, and the loss that ranks it."""

    variables: Float[Tensor, "x"]
    loss: float


Step = Callable[[str, Callable[[], Solution]], Solution]
"""Called with the name of a step and what computes it; returns the result, or what was kept of it."""


@dataclass(frozen=True, eq=False)
class Beads:
    """The variables by their names.

    Attributes:
        centers: (x, y, z), pixels.
        weights: integrals of the beads.
        width: standard deviation of every bead, pixels.
        views: harmonics of the log density.
        background: spherical-Bessel coefficients.
    """

    centers: Float[Tensor, "a 3"]
    weights: Float[Tensor, "a"]
    width: Float[Tensor, ""]
    views: Float[Tensor, "b"]
    background: Float[Tensor, "p"]

    def gaussians(self) -> GaussianMixture:
        """The beads alone."""
        widths = self.width.expand(len(self.weights))
        return GaussianMixture(self.centers.double(), widths.double(), self.weights.double())


@dataclass(frozen=True, eq=False)
class BeadMatching:
    """The problem: what to match, and how large the molecule may be.

    Args:
        target: moments (float32) and how well they are known.
        reach: of the ball that holds the molecule, pixels.
        radius: of the ball that holds the background, pixels.
        settings: see there.
    """

    target: MomentTarget
    reach: float
    radius: float
    settings: Settings

    @cached_property
    def background(self) -> SphericalBesselBasis:
        """Basis of the background."""
        highest = self.target.grid.k_max + math.pi / self.radius
        return SphericalBesselBasis(self.radius, highest, self.settings.background_degree)

    @cached_property
    def _background_scale(self) -> Float[Tensor, "p"]:
        projector = PolarProjector(self.background, self.target.grid, spherical_design(3))
        return prior_scale(self.target, projector).float()

    def bandwidths(self) -> list[float]:
        """Of the stages; the last is the target's."""
        last, found = self.reach * self.target.grid.k_max, []
        bandwidth = self.settings.first_bandwidth
        while bandwidth < last / math.sqrt(self.settings.growth):
            found.append(bandwidth)
            bandwidth *= self.settings.growth
        return [*found, last]

    def steps(self) -> int:
        """How many steps :func:`match_beads` takes."""
        left, total, settings = self.settings.starts, 1, self.settings
        for _ in self.bandwidths():
            total, left = total + left, min(left, max(settings.finalists, left // 2))
        return total

    def beads(self, variables: Float[Tensor, "x"]) -> Beads:
        """The variables by their names. Centres count in thirds of the reach."""
        count, views = self.settings.beads, (self.settings.density_degree + 1) ** 2 - 1
        sizes = [3 * count, count, 2, views, len(self.background)]
        centers, weights, form, density, background = variables.split(sizes)
        amplitude, width = form.unbind()
        unit = self.settings.first_bandwidth / self.reach  # the first stage's frequency
        return Beads(
            centers.reshape(-1, 3) * (self.reach / 3),
            (self.settings.weight_scale * weights + amplitude).exp(),
            width.exp() / unit,
            density * self.settings.density_scale,
            background * self._background_scale,
        )

    def volume(self, solution: Solution) -> SummedVolume:
        """The volume of a solution."""
        beads = self.beads(solution.variables)
        return SummedVolume(beads.gaussians(), SphericalBesselVolume(self.background, beads.background.double()))

    def view_density(self, solution: Solution, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        harmonics = _harmonics(directions, self.settings.density_degree)
        return (harmonics @ self.beads(solution.variables).views.double()).softmax(0)

    def start(self, generator: torch.Generator) -> Solution:
        """A random cloud under nearly even views, its amplitude that of the data; its loss is infinite."""
        settings = self.settings
        centers = torch.randn(3 * settings.beads, generator=generator)
        views = torch.zeros((settings.density_degree + 1) ** 2 - 1)
        views[:8] = 0.3 * torch.randn(8, generator=generator)
        rest = [torch.zeros(settings.beads + 2), views, torch.zeros(len(self.background))]
        variables = torch.cat([centers, *rest])
        stage = BeadStage.of(self, self.bandwidths()[0], settings.trust)
        ratio = stage.target.moments.second_norm() / stage.moments(variables).second_norm()
        variables[4 * settings.beads] = ratio.log() / 2
        return Solution(variables, math.inf)


@dataclass(frozen=True, eq=False)
class BeadStage:
    """The problem up to one bandwidth."""

    problem: BeadMatching
    target: MomentTarget
    projector: BeadProjector
    background: Complex[Tensor, "m h lm"]
    radial: Float[Tensor, "p k"]
    harmonics: Float[Tensor, "d b"]

    @classmethod
    def of(cls, problem: BeadMatching, bandwidth: float, trust: float) -> "BeadStage":
        """The stage of a ``bandwidth``, moments trusted like those of so many images."""
        k_max = min(problem.target.grid.k_max, bandwidth / problem.reach)
        target = replace(problem.target.below(k_max, problem.radius), count=trust)
        directions = spherical_design(min(_LARGEST_DESIGN, 2 * int(bandwidth) + 7))
        smooth = PolarProjector(problem.background, target.grid, directions)
        half = directions[: len(directions) // 2]
        return cls(
            problem,
            target,
            BeadProjector(target.grid, half, 1.5 * problem.reach),
            smooth.angular[: len(half), : problem.settings.background_degree + 1].transpose(0, 1),
            smooth.radial,
            _harmonics(directions, problem.settings.density_degree).float(),
        )

    def moments(self, variables: Float[Tensor, "x"]) -> Moments:
        """Of the beads, their background and views."""
        beads, grid = self.problem.beads(variables), self.target.grid
        templates = self.projector.templates(beads.centers, beads.weights)
        templates = templates * torch.exp(-(grid.nodes.to(beads.width) * beads.width).square() / 2)
        shells = self.problem.background.angular_sum(self.radial, beads.background)
        smooth = self.background @ shells.to(templates.dtype)
        templates = torch.cat([templates[: len(smooth)] + smooth, templates[len(smooth) :]])
        return antipodal_moments(templates, (self.harmonics @ beads.views).softmax(0), grid)

    def loss(self, variables: Float[Tensor, "x"]) -> Float[Tensor, ""]:
        """Misfit and prior. Centres and the amplitude are free."""
        beads = self.problem.settings.beads
        prior = variables[3 * beads : 4 * beads].square().sum() + variables[4 * beads + 1 :].square().sum()
        return self.target.misfit(self.moments(variables)) + prior / 2

    def matched(self, solution: Solution, iterations: int) -> Solution:
        """After so many iterations of L-BFGS."""
        return Solution(*minimise(self.loss, solution.variables, iterations))


def match_beads(
    problem: BeadMatching, generator: torch.Generator, step: Step = lambda name, compute: compute()
) -> Solution:
    """The start that lasts, matched at the full bandwidth.

    Args:
        problem: what to match.
        generator: source of the starts.
        step: told of every start's stage, so that long runs can be watched and gone on with.
    """
    settings = problem.settings
    found = dict(enumerate(problem.start(generator) for _ in range(settings.starts)))
    for number, bandwidth in enumerate(problem.bandwidths()):
        stage = BeadStage.of(problem, bandwidth, settings.trust)
        for start, solution in found.items():
            name = f"stage {number} start {start}"
            found[start] = step(name, lambda stage=stage, one=solution: stage.matched(one, settings.iterations))
        best = sorted(found, key=lambda start: found[start].loss)
        found = {start: found[start] for start in best[: max(settings.finalists, len(best) // 2)]}
    last = BeadStage.of(problem, problem.bandwidths()[-1], 10 * settings.trust)
    best = min(found.values(), key=lambda solution: solution.loss)
    return step("last", lambda: last.matched(best, 2 * settings.iterations))


def _harmonics(directions: Float[Tensor, "d 3"], degree: int) -> Float[Tensor, "d b"]:
    """Real harmonics above the constant one, of mean square 1 (float64)."""
    return real_spherical_harmonics(directions, degree)[:, 1:] * (4 * math.pi) ** 0.5
