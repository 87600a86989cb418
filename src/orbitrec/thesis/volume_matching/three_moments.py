"""The problem of Tables 2.2 and 2.3 with third cumulants as well.

Cumulants are those of 5·10⁶ particles that are made one by one in the compressed coordinates, independently of those
whose first two moments are drawn. The prior knows the particle's largest radius, as the other methods do, and the
moments (:mod:`orbitrec.moments.priors`); or, to be compared with, the truth's own spectrum and radial profile.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.evaluation.alignment import align
from orbitrec.moments.compression import Compression
from orbitrec.moments.cumulant_matching import Candidate, CumulantMatching, March, MarchSettings
from orbitrec.moments.cumulant_target import CumulantTarget
from orbitrec.moments.information import empirical_prior_covariance, projected
from orbitrec.moments.noise import sampled_cumulants
from orbitrec.moments.priors import ball_prior_covariance
from orbitrec.thesis.steps import TimedSteps
from orbitrec.thesis.two_moments import PARTICLES, SIGMA, Matching, TrueVolume
from orbitrec.volumes.shells import GaussianShells
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

_BANDWIDTH = 46.0  # radius · k where the prior's volumes end: functions far beyond a band still leak into it
_RESOLVED = 1e-6  # there is no CTF
_DEGREES = 4  # beyond radius · k, where shells hold nothing any more


@dataclass(frozen=True)
class ThreeMomentPlan:
    """Bands in Å, coarse to fine, and how starts descend in them."""

    bands_A: tuple[float, ...]
    march: MarchSettings = field(default_factory=MarchSettings)

    def steps(self, starts: int) -> int:
        """How many steps a search of so many starts has: cumulants of each band, and descents."""
        bands = len(self.bands_A)
        selection = min(self.march.selection, bands)
        return bands + starts * selection + bands - selection

    @property
    def most_steps(self) -> int:
        """Those of all starts."""
        return self.steps(self.march.starts)


@dataclass(frozen=True, eq=False)
class ThreeMoments:
    """A truth's first two moments and third cumulants up to a frequency.

    Attributes:
        matching: the truth, and its two moments.
        oracle: whether the prior has the truth's own spectrum and radial profile.
    """

    matching: Matching
    oracle: bool = False

    @property
    def compression(self) -> Compression:
        """Coordinates down to the second moment's noise."""
        matching = self.matching
        return Compression.of(
            matching.target.moments, matching.grid, variance=SIGMA**2, count=float(PARTICLES), resolved=_RESOLVED
        )

    def coordinates(self, compression: Compression) -> list[Complex[Tensor, "d _"]]:
        """Of the true templates."""
        return compression(self.matching.true_templates.transpose(0, 1))

    def sampled(self, compression: Compression) -> CumulantTarget:
        """What the particles would give."""
        generator = torch.Generator().manual_seed(self.matching.seed + 2)
        cumulants = sampled_cumulants(
            self.coordinates(compression), self.matching.true_density, count=PARTICLES, generator=generator
        )
        return CumulantTarget.of_cumulants(cumulants, compression, float(PARTICLES))

    def prior(self, basis: SphericalBesselBasis) -> Float[Tensor, "p p"]:
        """Covariance of the volume's coefficients."""
        truth = self.matching.truth
        if self.oracle:
            return empirical_prior_covariance(basis, projected(basis, truth.compact), len(truth.voxels))
        return ball_prior_covariance(basis, self.matching.target, truth.max_radius)

    def problem(self, cumulants: CumulantTarget) -> CumulantMatching:
        """The moments, to be matched."""
        truth, grid, k_max = self.matching.truth, self.matching.grid, self.matching.k_max
        basis = SphericalBesselBasis(truth.radius, min(math.pi, _BANDWIDTH / truth.radius))
        degree = min(basis.degree, int(k_max * truth.radius) + _DEGREES)
        shells = GaussianShells(basis, self.prior(basis), grid.nodes, grid.scale, degree)
        return CumulantMatching(self.matching.target, cumulants, shells)


@dataclass(frozen=True, eq=False)
class ThreeMomentSolution:
    """Where a march ended.

    Attributes:
        problem: of its last band.
        candidate: the point there.
        agreed: whether the best two starts agreed.
        starts: how many there were.
    """

    problem: CumulantMatching
    candidate: Candidate
    agreed: bool
    starts: int


def three_moment_solution(
    truth: TrueVolume, plan: ThreeMomentPlan, seed: int, steps: TimedSteps, *, oracle: bool = False
) -> ThreeMomentSolution:
    """Match three moments of a truth, from random starts, band by band.

    Args:
        truth: the volume.
        plan: bands, and how starts descend.
        seed: of the views, the moments' noise and the starts.
        steps: keep what is made and found.
        oracle: whether the prior has the truth's own spectrum and radial profile.

    Returns:
        The solution.
    """
    name = f"{truth.name} seed {seed}{' oracle' if oracle else ''}"

    @cache
    def problem(band: int) -> CumulantMatching:
        band_A = plan.bands_A[band]
        moments = ThreeMoments(Matching(truth, band_A, seed), oracle)
        return moments.problem(_kept(f"{name} {band_A:g} A", moments, steps))

    def step(what: str, compute: Callable[[], Candidate]) -> Candidate:
        return Candidate(**steps.record(f"{name} {what}", lambda: compute()._asdict()))

    march = March(problem, len(plan.bands_A), plan.march, correlation(truth))
    best, agreed, starts = march.run(torch.Generator().manual_seed(seed), step)
    return ThreeMomentSolution(problem(len(plan.bands_A) - 1), best, agreed, starts)


def _kept(name: str, moments: ThreeMoments, steps: TimedSteps) -> CumulantTarget:
    """The drawn cumulants, which take a minute to make."""
    compression = moments.compression

    def made() -> dict[str, Tensor]:
        drawn = moments.sampled(compression).data
        return {f"{a} {b}": torch.view_as_real(value) for (a, b), value in drawn.items()}

    record = steps.record(f"{name} cumulants", made)
    data = {(a, b): torch.view_as_complex(record[f"{a} {b}"]) for a, b in compression.triples()}
    return CumulantTarget.weighted(data, compression, float(PARTICLES))


def correlation(truth: TrueVolume) -> Callable[[SphericalBesselVolume, SphericalBesselVolume], float]:
    """Of two volumes on the truth's grid, in the best alignment."""

    def correlated(first: SphericalBesselVolume, second: SphericalBesselVolume) -> float:
        n = len(truth.voxels)
        return align(first.to_grid(n), second.to_grid(n)).correlation

    return correlated
