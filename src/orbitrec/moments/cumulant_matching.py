"""Volume and views from three moments: a maximum a posteriori, found band by band from several random starts.

With two moments the lowest loss is not the truth's (:mod:`orbitrec.moments.matching`). With the third cumulants it is,
once the band reaches far enough that they outnumber the unknowns. So starts that find the truth end at one loss, which
others do not reach: when the best two agree, in loss and map, the search is over and its success is known.

The unknowns are standard normal variables, coefficients of a Gaussian prior's functions on the grid's shells
(:class:`orbitrec.volumes.shells.GaussianShells`) and of harmonics of the views' log density. A round of L-BFGS works in
coordinates in which the Fisher information of moments and prior is one where the round began.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.harmonic import probabilities_on_nodes
from orbitrec.geometry.harmonics import harmonic_count, nonconstant_harmonics
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, antipodal_moments
from orbitrec.moments.cumulant_target import CumulantTarget
from orbitrec.moments.cumulants import antipodal_third_cumulants
from orbitrec.moments.information import CumulantInformation, MomentInformation
from orbitrec.moments.matching import MomentTarget
from orbitrec.optim.lbfgs import minimise
from orbitrec.volumes.shells import GaussianShells, ShellFunctions
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume

_VIEW_DEGREE, _VIEW_SCALE = 8, 0.3  # of the views' log density: its degree, and each harmonic's deviation
_LARGEST_DESIGN = 63

Point = Float[Tensor, "x"]
"""Coefficients of the prior's functions, then of the views' harmonics: standard normal variables."""


class Loss(NamedTuple):
    """Minus the log posterior, by its parts."""

    moments: float
    cumulants: float
    prior: float

    @property
    def total(self) -> float:
        """The sum of all."""
        return self.moments + self.cumulants + self.prior


@dataclass(frozen=True, eq=False)
class CumulantMatching:
    """Three moments up to some frequency, and the prior under which they are matched; in float32.

    Attributes:
        target: first and second moments.
        cumulants: third cumulants in coordinates of the same grid.
        shells: the prior's volumes on the grid's shells.
    """

    target: MomentTarget
    cumulants: CumulantTarget
    shells: GaussianShells

    @cached_property
    def projector(self) -> PolarProjector:
        """Rotates shells to the directions of a design, which integrates products of two templates and of three nearly.

        Three reach three times the degree, with next to no power there.
        """
        degree = self.shells.degree
        directions = spherical_design(min(_LARGEST_DESIGN, 2 * degree + 8))
        return PolarProjector(replace(self.shells.basis, max_degree=degree), self.target.grid, directions)

    @cached_property
    def _functions(self) -> ShellFunctions:
        return self.shells.functions.to(torch.float32)

    @cached_property
    def _unit(self) -> tuple[MomentTarget, CumulantTarget]:
        """Targets of one image: misfits are linear in their number, and what targets keep is made once."""
        moments = self.target.moments
        kept = Moments(moments.first.to(torch.complex64), moments.second.to(torch.complex64), moments.weights.float())
        pair = replace(self.target, moments=kept, variance=self.target.variance.float(), count=1.0)
        return pair, self.cumulants.with_count(1.0).to(torch.float32)

    @cached_property
    def harmonics(self) -> Float[Tensor, "d b"]:
        """What the views' log density is a sum of."""
        return (_VIEW_SCALE * nonconstant_harmonics(self.projector.directions, _VIEW_DEGREE)).float()

    def views(self, x: Point) -> Float[Tensor, "b"]:
        """Coefficients of the views' harmonics."""
        return x[len(self._functions) :]

    def density(self, x: Point) -> Float[Tensor, "d"]:
        """Probabilities of the projector's directions."""
        return probabilities_on_nodes(self.views(x), self.harmonics)

    def view_density(self, x: Point, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        harmonics = _VIEW_SCALE * nonconstant_harmonics(directions, _VIEW_DEGREE)
        return probabilities_on_nodes(self.views(x).double(), harmonics)

    def volume(self, x: Point) -> SphericalBesselVolume:
        """The prior's mean given the shells."""
        return self.shells.volume(x[: len(self._functions)])

    def misfits(self, x: Point) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Of two moments and of the third cumulants, of one image."""
        shells = self._functions.sum(x[: len(self._functions)], self.shells.degree)
        half = self.projector.half_templates(shells).transpose(0, 1).contiguous()
        density, (pair, third) = self.density(x), self._unit
        cumulants = antipodal_third_cumulants(third.compression(half), density)
        return pair.misfit(antipodal_moments(half, density, self.target.grid)), third.misfit(cumulants)

    def loss(self, x: Point) -> Loss:
        """With the moments trusted as they are."""
        with torch.no_grad():
            pair, third = self.misfits(x.float())
        return Loss(
            self.target.count * float(pair), self.cumulants.count * float(third), float(x.double().square().sum()) / 2
        )

    def curvature(self, x: Point, trust: float) -> Float[Tensor, "x x"]:
        """Fisher information of moments and prior, the moments trusted by a share of their number of images.

        What float32 rounds away is added to the prior's, so that the matrix is positive.
        """
        volume, density = x[: len(self._functions)], self.density(x)
        pair, third = self._unit
        at = (self.projector, self._functions, volume, density, self.harmonics)
        counted = replace(pair, count=trust * self.target.count), third.with_count(trust * self.cumulants.count)
        found = MomentInformation(*at, counted[0]).matrix() + CumulantInformation(*at, counted[1]).matrix()
        rounding = len(x) * torch.finfo(torch.float32).eps * float(found.diagonal().max())
        return found.double() + (1 + rounding) * torch.eye(len(x), dtype=torch.float64)

    def descended(self, x: Point, trust: float, iterations: int) -> Point:
        """After a round of L-BFGS.

        Args:
            x: where it begins.
            trust: share of the number of images that the moments are trusted for.
            iterations: the most steps.

        Returns:
            Where it ended.
        """
        begin = x.float()
        whitening = torch.linalg.inv(torch.linalg.cholesky(self.curvature(begin, trust))).mT.float()

        def loss(change: Float[Tensor, "x"]) -> Float[Tensor, ""]:
            at = begin + whitening @ change
            pair, third = self.misfits(at)
            misfit = self.target.count * pair + self.cumulants.count * third
            return trust * misfit + at.square().sum() / 2

        return begin + whitening @ minimise(loss, torch.zeros(len(x)), iterations).x

    def random_start(self, generator: torch.Generator) -> Point:
        """A draw of the prior, its views nearly even."""
        count = len(self._functions)
        x = torch.randn(count + self.harmonics.shape[1], generator=generator)
        return torch.cat([x[:count], 0.3 * x[count:]])

    def point(self, volume: SphericalBesselVolume, views: Float[Tensor, "b"]) -> Point:
        """The nearest to a volume and the coefficients of the views' harmonics; of another band's problem, say."""
        grid = self.target.grid
        shells = volume.basis.angular_sum(volume.basis.radial(grid.nodes) * grid.scale, volume.coefficients.double())
        wanted = harmonic_count(self.shells.degree)
        shells = torch.nn.functional.pad(shells, (0, 0, 0, max(0, wanted - len(shells))))[:wanted]
        return torch.cat([self.shells.coefficients(shells), views]).float()


@dataclass(frozen=True)
class MarchSettings:
    """How starts descend and when the search ends.

    Attributes:
        starts: the most random starts.
        selection: bands, from the first, that every start descends in before starts are compared.
        trusts: shares of the moments' own number of images that a start is led through in the first band.
        entry: share in the first round of a later band.
        iterations: the most steps of a round.
        rounds: the most rounds of a band at full trust.
        gain: a band is left when a round lowers the loss by less than this share of it.
        agreement: the best two starts agree if their losses differ by less than this share,
        correlation: and their aligned maps correlate at least so much.
    """

    starts: int = 6
    selection: int = 2
    trusts: tuple[float, ...] = (2e-3, 2e-2, 0.2)
    entry: float = 0.2
    iterations: int = 80
    rounds: int = 10
    gain: float = 2e-3
    agreement: float = 5e-3
    correlation: float = 0.95


class Candidate(NamedTuple):
    """Where a start is: its point in a band's problem, and minus the log posterior there."""

    x: Point
    loss: float


@dataclass(frozen=True, eq=False)
class March:
    """A search over bands.

    Attributes:
        problem: of a band; bands are counted from 0, coarse to fine.
        bands: how many there are.
        settings: how starts descend.
        correlation: of two volumes in the best alignment.
    """

    problem: Callable[[int], CumulantMatching]
    bands: int
    settings: MarchSettings
    correlation: Callable[[SphericalBesselVolume, SphericalBesselVolume], float]

    def run(
        self, generator: torch.Generator, step: Callable[[str, Callable[[], Candidate]], Candidate]
    ) -> tuple[Candidate, bool, int]:
        """Descend from random starts until the best two agree, then follow the best to the last band.

        Args:
            generator: source of the starts.
            step: called with a step's name and what computes it; returns the same, or what was kept of it before.

        Returns:
            The best in the last band, whether two starts agreed, and how many were made.
        """
        settings, found, agreed = self.settings, [], False
        last = min(settings.selection, self.bands) - 1
        while len(found) < settings.starts and not agreed:
            start, name = self.problem(0).random_start(generator), f"start {len(found) + 1}"
            candidate = step(f"{name}, band 1", lambda x=start: self._descended(0, self._led(x)))
            for band in range(1, last + 1):
                candidate = step(f"{name}, band {band + 1}", lambda b=band, c=candidate: self._refined(b, c))
            found = sorted([*found, candidate], key=lambda one: one.loss)
            agreed = len(found) > 1 and self._agree(last, found[0], found[1])
        best = found[0]
        for band in range(last + 1, self.bands):
            best = step(f"best, band {band + 1}", lambda b=band, c=best: self._refined(b, c))
        return best, agreed, len(found)

    def _led(self, x: Point) -> Point:
        for trust in self.settings.trusts:
            x = self.problem(0).descended(x, trust, self.settings.iterations)
        return x

    def _refined(self, band: int, candidate: Candidate) -> Candidate:
        problem = self.problem(band)
        coarser = self.problem(band - 1)
        x = problem.point(coarser.volume(candidate.x), coarser.views(candidate.x))
        return self._descended(band, problem.descended(x, self.settings.entry, self.settings.iterations))

    def _descended(self, band: int, x: Point) -> Candidate:
        """Rounds at full trust while the loss falls."""
        problem, settings = self.problem(band), self.settings
        loss = problem.loss(x).total
        for _ in range(settings.rounds):
            before, x = loss, problem.descended(x, 1.0, settings.iterations)
            loss = problem.loss(x).total
            if before - loss < settings.gain * loss:
                break
        return Candidate(x, loss)

    def _agree(self, band: int, best: Candidate, second: Candidate) -> bool:
        if second.loss - best.loss > self.settings.agreement * best.loss:
            return False
        problem = self.problem(band)
        return self.correlation(problem.volume(best.x), problem.volume(second.x)) > self.settings.correlation
