"""Moment matching with a non-negative volume, from many starts.

Two moments do not determine a volume. Where in-plane angles are uniform they hold, at bandwidth B = radius · k_max,
about 0.025 B³ real numbers, Σ_m n_m² over the n_m radial functions of each circular mode; the volume has
(2/9π) B³ ≈ 0.071 B³. So what the volume is like has to tell the rest, and three things about it are used here.

* It is a **non-negative** density on a nearly empty box, squares of free amplitudes of Gaussian blobs, over a smooth
  background of low degree. Squares that start small stay small unless the data raise them, which favours few blobs.
* Moments are trusted **gradually**, as if they came from 10³ images, then from 10⁴: coarse features settle first.
* Many **starts** are ranked by their loss; the best is matched once more, with every coefficient free.

The mean over several aligned solutions, which would lower errors that differ from start to start, was no better than
the best of them: what is wrong in one is wrong in all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.inference.moments import Moments, uniform_moments
from orbitrec.models.cryoem import PolarProjector
from orbitrec.recovery.matching import MomentTarget, prior_scale
from orbitrec.recovery.volume_matching.lbfgs import minimise
from orbitrec.volumes.blobs import BlobGrid
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume, real_spherical_harmonics

Stage = tuple[float, float, int]


@dataclass(frozen=True)
class Settings:
    """How much to do, and what the density may be.

    Attributes:
        starts: random starts.
        march: stages of a start: the largest frequency that counts, as a fraction of the grid's, the number of images
            that the moments are trusted like, and iterations.
        polish: the same for the last match, with all coefficients free.
        density_degree: largest degree of the log density of views.
        density_scale: standard deviation of each of its harmonics in the prior.
        background_degree: largest degree of the background.
    """

    starts: int = 8
    march: tuple[Stage, ...] = ((0.4, 1e4, 60), (0.6, 1e4, 60), (0.8, 1e4, 60), (1.0, 1e4, 60))
    polish: tuple[Stage, ...] = ((1.0, 1e4, 40), (1.0, 5e6, 80))
    density_degree: int = 4
    density_scale: float = 0.3
    background_degree: int = 1


@dataclass(frozen=True, eq=False)
class Solution:
    """A volume's coefficients, the log density's harmonics, and the loss that ranks it."""

    coefficients: Float[Tensor, "p"]
    density: Float[Tensor, "b"]
    loss: float


@dataclass(frozen=True, eq=False)
class PositiveMatching:
    """The problem: what to match, on what basis, seen from which directions, with which blobs."""

    target: MomentTarget
    projector: PolarProjector
    blobs: BlobGrid
    settings: Settings

    @cached_property
    def scale(self) -> Float[Tensor, "p"]:
        """Standard deviation of each coefficient in the prior."""
        return prior_scale(self.target, self.projector).to(self.projector.dtype)

    @cached_property
    def _background(self) -> Tensor:
        degrees = (self.settings.background_degree + 1) ** 2
        return torch.nonzero(self.projector.basis.lm < degrees).squeeze(1)

    @cached_property
    def _harmonics(self) -> Float[Tensor, "d b"]:
        return self._harmonics_at(self.projector.directions).to(self.projector.dtype)

    def _harmonics_at(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d b"]:
        return real_spherical_harmonics(directions, self.settings.density_degree)[:, 1:] * (4 * torch.pi) ** 0.5

    def view_density(self, solution: Solution, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        return (self._harmonics_at(directions) @ solution.density.double()).softmax(0)

    def moments(self, w: Float[Tensor, "p"], density: Float[Tensor, "b"]) -> Moments:
        """Moments of coefficients and density."""
        probabilities = (self._harmonics @ density).softmax(0)
        return uniform_moments(self.projector.templates(w), probabilities, self.target.grid)

    def volume(self, solution: Solution) -> SphericalBesselVolume:
        """The volume of a solution."""
        return SphericalBesselVolume(self.projector.basis, solution.coefficients.double())

    def start(self, generator: torch.Generator) -> Solution:
        """Six random clouds of blobs, matched."""
        blobs = self.blobs
        size, background, density = len(blobs.centers), len(self._background), self._harmonics.shape[1]
        clouds = torch.randn(6, 3, generator=generator, dtype=torch.float64) * (0.4 * blobs.reach)
        distance = torch.cdist(blobs.centers, clouds) / (0.4 * blobs.reach)
        amplitude = torch.exp(-distance.square() / 2).sum(1).sqrt().to(self.projector.dtype)
        views = 0.1 * torch.randn(density, generator=generator, dtype=torch.float64).to(self.projector.dtype)
        ball = self.moments(amplitude.square() @ blobs.matrix, views)
        unit = float((self.target.moments.second_norm() / ball.second_norm()) ** 0.25)

        def unpack(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            a, b, c = x.split([size, background, density])
            # Variables are of size one, as the search's first metric takes them to be.
            w = (unit * amplitude.mean() * a).square() @ blobs.matrix
            return w.index_add(0, self._background, b * self.scale[self._background]), b, c

        def loss(target: MomentTarget) -> Callable[[Tensor], Tensor]:
            def value(x: Tensor) -> Tensor:
                w, b, c = unpack(x)
                return target.misfit(self.moments(w, c)) + b.square().sum() / 2 + self._unlikely(c)

            return value

        x, last = torch.cat([amplitude / amplitude.mean(), amplitude.new_zeros(background), views]), 0.0
        for target, iterations in self._stages(self.settings.march):
            x, last = minimise(loss(target), x, iterations)
        w, _, c = unpack(x)
        return Solution(w, c, last)

    def polished(self, solution: Solution) -> Solution:
        """Matched with every coefficient free, under a Gaussian prior of the data's own spectrum."""
        size = len(self.scale)
        x, last = torch.cat([solution.coefficients.to(self.scale) / self.scale, solution.density]), 0.0
        for target, iterations in self._stages(self.settings.polish):

            def value(x: Tensor, target: MomentTarget = target) -> Tensor:
                misfit = target.misfit(self.moments(x[:size] * self.scale, x[size:]))
                return misfit + x[:size].square().sum() / 2 + self._unlikely(x[size:])

            x, last = minimise(value, x, iterations)
        return Solution(x[:size] * self.scale, x[size:], last)

    def _stages(self, stages: tuple[Stage, ...]) -> list[tuple[MomentTarget, int]]:
        highest = self.target.grid.k_max
        return [(replace(self.target, k_max=part * highest, count=count), n) for part, count, n in stages]

    def _unlikely(self, density: Float[Tensor, "b"]) -> Float[Tensor, ""]:
        return (density / self.settings.density_scale).square().sum() / 2


def match_positive(
    problem: PositiveMatching, generator: torch.Generator, listen: Callable[[Solution], None] = lambda solution: None
) -> tuple[Solution, list[Solution]]:
    """The best start, polished, and all starts by increasing loss; ``listen`` hears of each.

    Args:
        problem: what to match.
        generator: source of the starts.
        listen: told of every start as it ends.
    """
    starts = []
    for _ in range(problem.settings.starts):
        starts.append(problem.start(generator))
        listen(starts[-1])
    starts.sort(key=lambda solution: solution.loss)
    return problem.polished(starts[0]), starts
