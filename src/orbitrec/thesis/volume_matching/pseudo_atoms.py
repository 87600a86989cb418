"""Moments of a molecule made of pseudo-atoms, and how well they match.

Two moments do not determine a volume. Where in-plane angles are uniform they hold, at bandwidth B = radius · k_max,
about 0.025 B³ real numbers, Σ_m n_m² over the n_m radial functions of each circular mode; the volume has
(2/9π) B³ ≈ 0.071 B³. So a prior has to decide, and here it is a molecule: so many nearly equal **pseudo-atoms**
at free positions, which leave most of the box empty, and whose number grows with the band. What filtering, sharpening
and masking have done to a map is described by the form factor that they share and by a smooth background of low degree.
Moments are trusted only as if they came from 10⁴ clean images, which is about how well a few dozen pseudo-atoms can
represent a molecule; some hundred can do with more. They are found by
:mod:`orbitrec.thesis.volume_matching.pseudo_atom_search`.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.densities.harmonic import HarmonicDensity, probabilities_on_nodes
from orbitrec.geometry.harmonics import harmonic_count, nonconstant_harmonics
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, antipodal_moments
from orbitrec.moments.matching import MomentTarget, prior_scale
from orbitrec.optim.lbfgs import minimise
from orbitrec.thesis.volume_matching.pseudo_atom_templates import PseudoAtomProjector
from orbitrec.thesis.volume_matching.pseudo_atom_volume import FormFactor, PseudoAtomVolume
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.summed import SummedVolume

_LARGEST_DESIGN = 63
_FEWEST = 8  # pseudo-atoms of a lump


@dataclass(frozen=True)
class PseudoAtomSettings:
    """How much to do, and the prior of a molecule.

    Attributes:
        pseudo_atoms: their number at the full bandwidth B; a part of the band has (bandwidth / B)^(4/3) of them,
            between a rod's power 1 and a ball's 3, and at least eight.
        starts: random starts; after each stage half of them stay,
        finalists: but so many of them at least until the search is over,
        kept: and so many after it; so many are returned.
        tries: changes that are tried of each solution at each stage that is searched.
        searched: smallest and largest bandwidth of such stages. Below, every descent finds the lump; above, what has
            been found goes on by itself, and a descent takes minutes.
        first_bandwidth: ``max_radius`` times frequency at the first stage.
        growth: of the bandwidth, from a stage to the next.
        iterations: of L-BFGS for each match;
        last_rounds: and so many times as many at the end.
        trust: moments are trusted as if they came from so many clean images while there is a search,
        late_trust: and above its bandwidths, where there are many pseudo-atoms.
        density_degree: largest degree of the log density of views.
        density_scale: standard deviation of each of its harmonics in the prior.
        weight_scale: that of the logarithms of the pseudo-atoms' weights.
        form_factor_terms: cosines of the form factor;
        form_factor_scale: standard deviation of the first in the prior, of the j-th 1/√j of that.
        background_degree: largest degree of the background.
    """

    pseudo_atoms: int = 60
    starts: int = 64
    finalists: int = 8
    kept: int = 4
    tries: int = 20
    searched: tuple[float, float] = (8.0, 18.0)
    first_bandwidth: float = 4.5
    growth: float = 1.4
    iterations: int = 80
    last_rounds: int = 4
    trust: float = 1e4
    late_trust: float = 1e4
    density_degree: int = 6
    density_scale: float = 0.3
    weight_scale: float = 0.5
    form_factor_terms: int = 5
    form_factor_scale: float = 0.5
    background_degree: int = 1


@dataclass(frozen=True, eq=False)
class Solution:
    """What is fitted, as one vector of standard normal variables, and the loss that ranks it."""

    variables: Float[Tensor, "x"]
    loss: float


@dataclass(frozen=True, eq=False)
class Variables:
    """The parts of that vector, in its order: views of it, not copies.

    Attributes:
        centers: of the pseudo-atoms, thirds of ``max_radius``.
        weights: logarithms of their weights.
        amplitude: logarithm of the mean weight.
        width: logarithm of their width.
        form_factor_terms: of their form factor.
        views: harmonics of the log density.
        background: coefficients.
    """

    centers: Float[Tensor, "a 3"]
    weights: Float[Tensor, "a"]
    amplitude: Float[Tensor, "1"]
    width: Float[Tensor, "1"]
    form_factor_terms: Float[Tensor, "j"]
    views: Float[Tensor, "b"]
    background: Float[Tensor, "p"]

    def joined(self) -> Float[Tensor, "x"]:
        """One vector."""
        parts = [self.weights, self.amplitude, self.width, self.form_factor_terms, self.views, self.background]
        return torch.cat([self.centers.flatten(), *parts])


@dataclass(frozen=True, eq=False)
class PseudoAtomMatching:
    """The problem: what to match, and how large the molecule may be.

    Args:
        target: moments (float32) and how well they are known.
        max_radius: of the ball that holds the molecule, pixels.
        radius: of the ball that holds the background, pixels.
        settings: see there.
    """

    target: MomentTarget
    max_radius: float
    radius: float
    settings: PseudoAtomSettings

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
        last, found = self.max_radius * self.target.grid.k_max, []
        bandwidth = self.settings.first_bandwidth
        while bandwidth < last / math.sqrt(self.settings.growth):
            found.append(bandwidth)
            bandwidth *= self.settings.growth
        return [*found, last]

    def pseudo_atoms(self, bandwidth: float) -> int:
        """Their number at a bandwidth."""
        share = bandwidth / (self.max_radius * self.target.grid.k_max)
        most = self.settings.pseudo_atoms
        return max(min(_FEWEST, most), round(most * share ** (4 / 3)))

    def parts(self, variables: Float[Tensor, "x"]) -> Variables:
        """The parts of a vector, whose length gives the number of pseudo-atoms."""
        settings = self.settings
        rest = [1, 1, settings.form_factor_terms, harmonic_count(settings.density_degree) - 1, len(self.background)]
        count = (len(variables) - sum(rest)) // 4
        centers, *others = variables.split([3 * count, count, *rest])
        return Variables(centers.reshape(-1, 3), *others)

    def molecule(self, parts: Variables) -> PseudoAtomVolume:
        """The pseudo-atoms."""
        settings, orders = self.settings, torch.arange(1, self.settings.form_factor_terms + 1)
        k_max, unit = self.target.grid.k_max, settings.first_bandwidth / self.max_radius  # the first stage's frequency
        form_factor_terms = parts.form_factor_terms * settings.form_factor_scale / orders.sqrt()
        weights = (settings.weight_scale * parts.weights + parts.amplitude).exp()
        form = FormFactor(parts.width[0].exp() / unit, form_factor_terms, k_max)
        return PseudoAtomVolume(parts.centers * (self.max_radius / 3), weights, form)

    def coefficients(self, parts: Variables) -> Float[Tensor, "p"]:
        """Of the background."""
        return parts.background * self._background_scale

    def volume(self, solution: Solution) -> SummedVolume:
        """The volume of a solution, in float64."""
        parts = self.parts(solution.variables.double())
        return SummedVolume(self.molecule(parts), SphericalBesselVolume(self.background, self.coefficients(parts)))

    def view_density(self, solution: Solution, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        views = self.parts(solution.variables.double()).views
        return HarmonicDensity(views * self.settings.density_scale).probabilities(directions)


@dataclass(frozen=True, eq=False)
class Molecule:
    """A solution on voxels, to be averaged (:mod:`orbitrec.thesis.volume_matching.consensus`)."""

    problem: PseudoAtomMatching
    solution: Solution
    voxels: Float[Tensor, "n n n"]

    @property
    def loss(self) -> float:
        """What ranks it."""
        return self.solution.loss

    @classmethod
    def of(cls, problem: PseudoAtomMatching, solution: Solution) -> "Molecule":
        """On the voxels of the images' box."""
        return cls(problem, solution, problem.volume(solution).to_grid(problem.target.grid.box))

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions."""
        return self.problem.view_density(self.solution, directions)


@dataclass(frozen=True, eq=False)
class PseudoAtomStage:
    """The problem up to one bandwidth."""

    problem: PseudoAtomMatching
    bandwidth: float
    target: MomentTarget
    projector: PseudoAtomProjector
    background: Complex[Tensor, "m h lm"]
    radial: Float[Tensor, "p k"]
    harmonics: Float[Tensor, "d b"]

    @classmethod
    def of(cls, problem: PseudoAtomMatching, bandwidth: float) -> "PseudoAtomStage":
        """The stage of a ``bandwidth``."""
        settings = problem.settings
        k_max = min(problem.target.grid.k_max, bandwidth / problem.max_radius)
        trust = settings.trust if bandwidth <= settings.searched[1] else settings.late_trust
        target = replace(problem.target.truncated(k_max, problem.radius), count=trust)
        directions = spherical_design(min(_LARGEST_DESIGN, 2 * int(bandwidth) + 7))
        smooth = PolarProjector(problem.background, target.grid, directions)
        half = directions[: len(directions) // 2]
        return cls(
            problem,
            bandwidth,
            target,
            PseudoAtomProjector(target.grid, half, 1.5 * problem.max_radius),
            smooth.angular[: len(half), : settings.background_degree + 1].transpose(0, 1),
            smooth.radial,
            nonconstant_harmonics(directions, settings.density_degree).float() * settings.density_scale,
        )

    def moments(self, variables: Float[Tensor, "x"]) -> Moments:
        """Of the pseudo-atoms, their background and views."""
        parts, grid = self.problem.parts(variables), self.target.grid
        molecule = self.problem.molecule(parts)
        templates = self.projector.templates(molecule.centers, molecule.weights)
        templates = templates * molecule.form(grid.nodes.to(variables))
        shells = self.problem.background.angular_sum(self.radial, self.problem.coefficients(parts))
        smooth = self.background @ shells.to(templates.dtype)
        low, high = templates.split([len(smooth), len(templates) - len(smooth)])
        templates = torch.cat([low + smooth, high])
        return antipodal_moments(templates, probabilities_on_nodes(parts.views, self.harmonics), grid)

    def loss(self, variables: Float[Tensor, "x"]) -> Float[Tensor, ""]:
        """Misfit and prior. Centres and the amplitude are free."""
        parts = self.problem.parts(variables)
        prior = (parts.weights, parts.width, parts.form_factor_terms, parts.views, parts.background)
        return self.target.misfit(self.moments(variables)) + sum(part.square().sum() for part in prior) / 2

    def matched(self, variables: Float[Tensor, "x"], rounds: int = 1) -> Solution:
        """After ``rounds`` times the iterations that are set."""
        found = minimise(self.loss, variables, rounds * self.problem.settings.iterations)
        return Solution(found.x, found.value)
