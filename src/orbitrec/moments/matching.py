"""Moment matching: a low-resolution volume and a density of views from the first two moments.

For in-plane angles that are uniform the moments are functions of the spherical-Bessel coefficients w and the density of
viewing directions ρ alone, and the search is a small least-squares problem: no image is touched again.

What the moments determine: if the views were uniform too, the second moment would be Kam's autocorrelation
``C_l(k, k') = Σ_m A_lm(k) A_lm(k')`` (Kam 1980), which leaves every degree l free up to an orthogonal matrix. Uneven
views couple the degrees, and generically leave finitely many solutions up to a rotation of volume and density together
(Sharon, Kileel, Khoo, Landa and Singer 2020). The handedness is never determined: a mirrored volume, seen from the
opposite directions, has the same images. The problem is ill-conditioned, so a prior decides what the data do not.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.densities.harmonic import log_probabilities_on_nodes
from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, antipodal_moments, shifted_uniform_moments
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.optim.lbfgs import Rules, differentiated, minimise_function
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis


@dataclass(frozen=True, eq=False)
class MomentTarget:
    """Moments to be matched, and how accurately they are known.

    If the coordinates of an image were Gaussian, an average of N products ``Y_k Y_k'*`` would have the variance
    ``variance[m, k] · variance[m, k'] / N``; misfits are weighted by it. Neighbouring nodes are closer than a box can
    resolve, so that of K nodes only ``trace G_0`` count as independent.

    Attributes:
        moments: block moments for uniform in-plane angles.
        grid: their grid.
        variance: ``E|X|²`` of an image's coordinates, with noise, the CTF divided out.
        count: number N of images.
        k_min: lower end of the frequencies that are matched, radians per pixel.
        k_max: upper end of the frequencies that are matched.
    """

    moments: Moments
    grid: PolarGrid
    variance: Float[Tensor, "m k"]
    count: float
    k_min: float = 0.0
    k_max: float = math.inf

    @classmethod
    def exact(cls, moments: Moments, grid: PolarGrid, count: float = 1e6) -> "MomentTarget":
        """Moments without noise.

        Args:
            moments: block moments for uniform in-plane angles.
            grid: their grid.
            count: number of noiseless images whose moments would be as accurate.

        Returns:
            The target.
        """
        return cls(moments, grid, torch.diagonal(moments.second, dim1=1, dim2=2).real, count)

    @classmethod
    def estimated(cls, accumulator: MomentAccumulator) -> "MomentTarget":
        """Moments estimated from particles; the box's first frequency is left to backgrounds and their edges."""
        grid, variance = accumulator.grid, torch.diagonal(accumulator.second, dim1=1, dim2=2)
        variance = variance / torch.diagonal(accumulator.product)
        return cls(accumulator.estimate(), grid, variance, float(accumulator.count), 2 * math.pi / grid.box)

    def truncated(self, k_max: float, radius: float) -> "MomentTarget":
        """The same moments on a part of the grid: see :meth:`PolarGrid.truncated`."""
        grid = self.grid.truncated(k_max, radius)
        m, k = slice(grid.max_mode + 1), slice(grid.node_count)
        kept = Moments(self.moments.first[m, k], self.moments.second[m, k, k], self.moments.weights[m])
        return replace(self, moments=kept, grid=grid, variance=self.variance[m, k])

    @cached_property
    def weight(self) -> Float[Tensor, "m k"]:
        """``1 / variance``, 0 below ``k_min`` and above ``k_max``."""
        seen = (self.grid.nodes > self.k_min) & (self.grid.nodes <= self.k_max)
        # Coordinates without signal, modes m ≫ kR, have next to no variance: the floor bounds their weight.
        return seen / (self.variance + 1e-3 * self.variance.max())

    @cached_property
    def _independent(self) -> float:
        """Fraction of the nodes that are independent."""
        return float(torch.trace(self.grid.noise_gram()[0]).real) / self.grid.node_count

    def misfit(self, model: Moments) -> Float[Tensor, ""]:
        """Minus the log-likelihood of Gaussian errors: ``N (½ Σ |ΔM¹|²/v + ¼ Σ_m c_m² Σ |ΔM²[m, k, k']|²/(v_k v_k'))``.

        An error of the second moment is counted at (k, k') and at (k', k), hence the quarter; for m > 0 it is complex
        and v is shared by two real parts, hence ``c_m²``.
        """
        difference, share = self.moments - model, self._independent
        first = (self.weight[0] * difference.first[0].abs().square()).sum()
        second = torch.einsum("mk,mkl,ml->m", self.weight, difference.second.abs().square(), self.weight)
        return self.count * (share * first / 2 + share**2 * (second / difference.weights).sum() / 4)


@dataclass(frozen=True, eq=False)
class MatchResult:
    """One solution of moment matching.

    Attributes:
        coefficients: spherical-Bessel coefficients of the volume.
        log_density: log probabilities of the viewing directions, summing to 1.
        shift_px: standard deviation of the shifts.
        loss: minus the log posterior relative to that of an empty volume: 0 is perfect, 1 explains nothing.
    """

    coefficients: Float[Tensor, "p"]
    log_density: Float[Tensor, "d"]
    shift_px: float
    loss: float


def match_moments(
    target: MomentTarget,
    basis: SphericalBesselBasis,
    directions: Float[Tensor, "d 3"],
    *,
    generator: torch.Generator,
    starts: int = 4,
    shift_px: float | None = None,
    density_degree: int = 4,
    iterations: int = 400,
) -> list[MatchResult]:
    """Match moments from random starts by L-BFGS, in float64.

    Args:
        target: the moments to match.
        basis: the volume's basis. Its ``k_max`` should be above the grid's last node by ``π / radius``, the width of a
            basis function; otherwise what lies beyond cannot be represented and distorts the rest. For the same reason
            its radius must hold all that the images show, rings of solvent or filtering around the particle included.
        directions: nearly uniform directions, exact to about twice the basis' degree, such as a spherical design.
        generator: source of the starts.
        starts: number of starts.
        shift_px: standard deviation of the particles' Gaussian shifts in pixels; fitted if None.
        density_degree: largest degree of the log density, a polynomial on the sphere; 0 keeps the views uniform.
        iterations: limit of the iterations of each start.

    Returns:
        One solution for each start, by increasing loss.
    """
    problem = _Problem.of(target, basis, directions, shift_px, density_degree)
    rules = Rules(iterations, evaluations=2 * iterations, pairs=30, value_tolerance=1e-7)
    results = []
    for _ in range(starts):
        found = minimise_function(problem.value_and_gradient, problem.random_start(generator), rules)
        coefficients, log_density, sigma = problem.unpack(found.x)
        results.append(MatchResult(coefficients, log_density, float(sigma), found.value))
    return sorted(results, key=lambda result: result.loss)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Loss over one flat vector of standard normal variables: coefficients, density harmonics, log of a free shift."""

    target: MomentTarget
    projector: PolarProjector
    scale: Float[Tensor, "p"]
    harmonics: Float[Tensor, "d b"]
    shift_px: float | None
    empty: Float[Tensor, ""]

    @classmethod
    def of(
        cls,
        target: MomentTarget,
        basis: SphericalBesselBasis,
        directions: Float[Tensor, "d 3"],
        shift_px: float | None,
        density_degree: int,
    ) -> "_Problem":
        projector = PolarProjector(basis, target.grid, directions.double(), torch.float64)
        # In the prior the log density has the standard deviation 0.7: the density varies by factors of two.
        harmonics = nonconstant_harmonics(directions, density_degree, basis.group)
        harmonics = harmonics * (0.7 / math.sqrt(max(1, harmonics.shape[1])))
        nothing = target.moments - target.moments
        return cls(target, projector, prior_scale(target, projector), harmonics, shift_px, target.misfit(nothing))

    def unpack(self, x: Float[Tensor, "x"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "d"], Float[Tensor, ""]]:
        """Coefficients, log density and shift."""
        p, b = len(self.scale), self.harmonics.shape[1]
        sigma = 2 * x[p + b].exp() if self.shift_px is None else x.new_tensor(self.shift_px)
        return x[:p] * self.scale, log_probabilities_on_nodes(x[p : p + b], self.harmonics), sigma

    def random_start(self, generator: torch.Generator) -> Float[Tensor, "x"]:
        """A draw of the prior with the spherical part that the first moment determines, so with the right contrast."""
        free = int(self.shift_px is None)
        x = torch.randn(len(self.scale) + self.harmonics.shape[1], generator=generator, dtype=torch.float64)
        spherical = torch.nonzero(self.projector.basis.lm == 0).squeeze(1)
        k, weight = self.target.grid.nodes, self.target.weight[0] * self.target.count
        damping = torch.exp(-((self.shift_px or 2.0) * k).square() / 2)
        response = self.projector.basis.radial(k)[spherical] * self.target.grid.scale * damping / math.sqrt(4 * math.pi)
        response = response * self.scale[spherical, None]
        normal = (response * weight) @ response.T + torch.eye(len(spherical), dtype=torch.float64)
        x[spherical] = torch.linalg.solve(normal, response @ (weight * self.target.moments.first[0].real))
        return torch.cat([x, x.new_zeros(free)])

    def value_and_gradient(self, x: Float[Tensor, "x"]) -> tuple[float, Float[Tensor, "x"]]:
        """Loss and its gradient by automatic differentiation."""
        return differentiated(self.loss, x)

    def loss(self, x: Float[Tensor, "x"]) -> Float[Tensor, ""]:
        """Minus the log posterior, relative to that of an empty volume."""
        w, log_density, sigma = self.unpack(x)
        shells = self.projector.basis.angular_sum(self.projector.radial, w)
        half = self.projector.half_templates(shells).transpose(0, 1)
        model = antipodal_moments(half, log_density.exp(), self.target.grid)
        if self.shift_px != 0:
            model = shifted_uniform_moments(model, self.target.grid, sigma)
        return (self.target.misfit(model) + x.square().sum() / 2) / self.empty


def prior_scale(target: MomentTarget, projector: PolarProjector) -> Float[Tensor, "p"]:
    """Standard deviation of each coefficient in the prior: independent, with the data's power at their frequency."""
    power = torch.diagonal(target.moments.second, dim1=1, dim2=2).real.sum(0)
    nodes = target.grid.nodes
    # Mean power at each node of coefficients of variance 1, for uniform views.
    unit = (projector.basis.radial(nodes) * target.grid.scale).square().sum(0) / (4 * math.pi)
    spectrum = (power / unit).clamp(min=0)
    # Smoothed over a basis function's width, π / radius, and weighted, so that noise does not empty a shell.
    near = torch.exp(-((projector.basis.frequency[:, None] - nodes) * projector.basis.radius / math.pi).square() / 2)
    near = near * target.weight.amax(0) + torch.finfo(torch.float64).tiny
    return ((near @ spectrum) / near.sum(1)).sqrt().clamp(min=1e-6 * float(spectrum.max().sqrt()))
