"""How much of a volume its moments determine, shell by shell.

Counting numbers says that two moments leave much of a volume open, but not where. So moments are linearised at the
truth, where their Fisher information F is the misfit's Hessian, and the volume has a Gaussian prior of covariance C.
What the moments leave open then has the covariance ``S = (C⁻¹ + F)⁻¹``, and ``e_s = 1 − tr_s S / tr_s C`` is the
explained fraction of the variance in shell s. Errors of the third cumulants are independent of those of the first two
moments (:class:`orbitrec.moments.cumulant_target.CumulantTarget`), so that their information adds.

If solutions were draws of that Gaussian, two of them, or one and the truth, would have the FSC ``e_s``, and the mean of
many and the truth ``sqrt(e_s)``. It is an estimate and no bound: solutions lie on a curved set, of which this is
the tangent, there may be others far from the truth, and a prior may know more than size, outline and spectrum.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.geometry.grids import nearest_shells, pixel_vectors
from orbitrec.geometry.harmonics import degree_of
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, antipodal_weights
from orbitrec.moments.compression import Triple
from orbitrec.moments.cumulant_target import CumulantTarget
from orbitrec.moments.cumulants import weighted_parts
from orbitrec.moments.matching import MomentTarget
from orbitrec.moments.priors import profiled_covariance
from orbitrec.volumes.shells import ShellFunctions
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

_RADII = 400
_POINTS = 4096  # of a grid at a time


@dataclass(frozen=True, eq=False)
class _AtTheTruth:
    """Volume and views at which moments are linearised, in the projector's precision.

    Attributes:
        projector: rotates shells to directions spread evenly, in antipodal pairs. Of its own basis only the largest
            degree matters.
        functions: what the volume is a sum of, on the target's shells.
        coefficients: the true volume.
        density: true probabilities of the directions.
        harmonics: ways in which the views' log density may differ, scaled to unit variance in the prior; without a
            column the views are known.
    """

    projector: PolarProjector
    functions: ShellFunctions
    coefficients: Float[Tensor, "p"]
    density: Float[Tensor, "d"]
    harmonics: Float[Tensor, "d b"]


@dataclass(frozen=True, eq=False)
class MomentInformation(_AtTheTruth):
    """Fisher information of two moments with uniform in-plane angles about a volume and its views.

    Attributes:
        target: how well the moments are known; what they are does not matter.
    """

    target: MomentTarget

    def matrix(self) -> Float[Tensor, "x x"]:
        """``F``, the Hessian of :meth:`MomentTarget.misfit` at moments that fit: coefficients first, then harmonics.

        A coefficient's derivative of ``M²[m, k, k']`` is ``F_p(k) Q_lm(k')``, Q the mean of the lm-th harmonic's
        templates times the volume's own, and the same with k, k' exchanged and conjugated.
        """
        kind = self.projector.dtype
        functions, density = self.functions.to(kind), self.density.to(kind)
        shells = functions.sum(self.coefficients.to(kind), self.projector.basis.degree)
        templates = self.projector.shell_templates(shells)
        changes = density[:, None] * (self.harmonics.to(kind) - density @ self.harmonics.to(kind))
        size, (first, second) = len(functions) + changes.shape[1], self._precision()
        views = torch.arange(len(functions), size)
        upper = torch.triu(torch.full(second.shape[1:], 2.0)) - torch.eye(second.shape[1])  # M² is Hermitian
        total = torch.zeros(size, size, dtype=kind)
        for m, angular in enumerate(self.projector.angular.unbind(1)):
            # A harmonic has circular modes of its degree's parity only.
            seen = ((degree_of(functions.lm) - m) % 2 == 0).nonzero().flatten()
            lm, radial, rows = functions.lm[seen], functions.radial[seen], torch.cat([seen, views])
            own, weighted = templates[:, m], density[:, None] * angular
            products = (weighted.mT @ own.conj())[lm]
            volume = radial[:, :, None] * products[:, None]
            change = torch.einsum("db,dk,dl->bkl", changes.to(own.dtype), own, own.conj())
            at = upper.nonzero().unbind(1)
            derivatives = torch.cat([volume + volume.mH, change])[:, at[0], at[1]]
            found = _gram(derivatives, (second[m] * upper)[at].sqrt().to(kind))
            if m == 0:
                mean = torch.cat([weighted.sum(0)[lm, None] * radial, changes.to(own.dtype).mT @ own])
                found += _gram(mean, first[0].sqrt().to(kind))
            total[rows[:, None], rows] += found
        return total

    def _precision(self) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k k"]]:
        """What squared errors of both moments count in twice the misfit, read off its gradient at errors of one."""
        moments = self.target.moments
        errors = [torch.ones_like(part).requires_grad_() for part in (moments.first, moments.second)]
        misfit = self.target.misfit(moments - Moments(errors[0], errors[1], moments.weights))
        first, second = torch.autograd.grad(misfit, errors)
        return first.real, second.real


@dataclass(frozen=True, eq=False)
class CumulantInformation(_AtTheTruth):
    """Fisher information of third cumulants about a volume and its views.

    Attributes:
        target: how well the cumulants are known; what they are does not matter.
    """

    target: CumulantTarget

    def matrix(self) -> Float[Tensor, "x x"]:
        """``F``, the Hessian of :meth:`CumulantTarget.misfit` at cumulants that fit: coefficients, then harmonics."""
        size = len(self.functions) + self.harmonics.shape[1]
        total = torch.zeros(size, size, dtype=self.projector.dtype)
        for triple, response in self.target.response.items():
            derivatives = torch.cat([self._volume(triple), self._views(triple)]).flatten(1)
            flat = (torch.view_as_real(derivatives).mT @ response.to(self.projector.dtype).mT).flatten(1)
            total += flat @ flat.mT
        return 2 * self.target.count * total

    def _volume(self, triple: Triple) -> Complex[Tensor, "p r s t"]:
        """A coefficient changes one factor of the product at a time, ``F_p(a)`` times the mean of the other two's."""
        a, b = triple
        x, y, z = (self._coordinates[m] for m in (a, b, a + b))
        first = self._means(a, (y.conj()[:, :, None] * z[:, None, :])).unflatten(1, (y.shape[1], -1))
        second = self._means(b, (x.conj()[:, :, None] * z[:, None, :])).unflatten(1, (x.shape[1], -1))
        third = self._means(a + b, x[:, :, None] * y[:, None, :]).conj().unflatten(1, (x.shape[1], -1))
        radial = [self._radial[m] for m in (a, b, a + b)]
        return (
            radial[0][:, :, None, None] * first[:, None]
            + radial[1][:, None, :, None] * second[:, :, None, :]
            + radial[2][:, None, None, :] * third[:, :, :, None]
        )

    def _views(self, triple: Triple) -> Complex[Tensor, "b r s t"]:
        """The views' changes weigh all products anew, and move the mean that is taken off mode 0."""
        a, b = triple
        x, y, z = (self._coordinates[m] for m in (a, b, a + b))
        products = x[:, :, None, None] * y[:, None, :, None] * z.conj()[:, None, None, :]
        even, odd = antipodal_weights(self._changes.mT)
        change = torch.complex(even @ products.real.flatten(1), odd @ products.imag.flatten(1))
        change = change.reshape(-1, *products.shape[1:])
        if a == 0:
            moved = even @ x.real
            covariance = self._mean(y[:, :, None] * z.conj()[:, None, :])
            change = change - moved[:, :, None, None] * covariance
            if b == 0:
                change = change - moved[:, None, :, None] * covariance[:, None, :]
                change = change - moved[:, None, None, :] * covariance[:, :, None]
        return change

    @cached_property
    def _weights(self) -> tuple[Float[Tensor, "h"], Float[Tensor, "h"]]:
        return antipodal_weights(self.density.to(self.projector.dtype))

    @cached_property
    def _changes(self) -> Float[Tensor, "d b"]:
        changes = self.density[:, None] * (self.harmonics - self.density @ self.harmonics)
        return changes.to(self.projector.dtype)

    @cached_property
    def _radial(self) -> list[Float[Tensor, "p _"]]:
        radial = self.functions.radial.to(self.projector.dtype)
        return [radial @ basis.to(radial) for basis in self.target.compression.bases]

    @cached_property
    def _coordinates(self) -> list[Complex[Tensor, "h _"]]:
        """Of half of the templates, mode 0 without its mean."""
        functions = self.functions.to(self.projector.dtype)
        shells = functions.sum(self.coefficients.to(functions.radial), self.projector.basis.degree)
        first, *rest = self.target.compression(self.projector.half_templates(shells).transpose(0, 1))
        return [first.real - self._mean(first.real) + 0j, *rest]

    @cached_property
    def _angular(self) -> list[Float[Tensor, "two_h lm"]]:
        """Templates of every harmonic, real parts above imaginary ones, mode 0 without its mean."""
        half = len(self.projector.directions) // 2
        angular = self.projector.angular[:half, : len(self.target.compression.bases)]
        first, *rest = angular.unbind(1)
        parts = [first.real - self._mean(first.real) + 0j, *rest]
        return [torch.cat([part.real, part.imag]) for part in parts]

    def _mean(self, values: Tensor) -> Tensor:
        """Over all directions of what is conjugate in opposite ones."""
        even, odd = self._weights
        mean = torch.tensordot(even, values.real, dims=1)
        return torch.complex(mean, torch.tensordot(odd, values.imag, dims=1)) if values.is_complex() else mean

    def _means(self, m: int, others: Complex[Tensor, "h r s"]) -> Complex[Tensor, "p rs"]:
        """Mean over directions of each coefficient's harmonic in mode m times the conjugates of ``others``."""
        products = self._angular[m].mT @ weighted_parts(others.flatten(1), self._weights)
        return torch.complex(*products.chunk(2, dim=1))[self.functions.lm]


def explained_variance(
    information: Float[Tensor, "x x"], covariance: Float[Tensor, "p p"], basis: SphericalBesselBasis, box: int
) -> Float[Tensor, "s"]:
    """Explained fraction of the variance on the shells of a ``box``; 0 on those without a coefficient.

    Args:
        information: :meth:`MomentInformation.matrix` of a basis' coefficients and of harmonics of the views.
        covariance: of the coefficients in the prior.
        basis: theirs. A coefficient belongs to the shell of its own frequency.
        box: pixels.

    Returns:
        A fraction for each shell from 0 to half the box.
    """
    count = len(covariance)
    free = len(information) - count
    values, vectors = torch.linalg.eigh(covariance)
    root = torch.block_diag(vectors * values.clamp(min=0).sqrt(), torch.eye(free, dtype=torch.float64))
    whitened = root.mT @ information @ root + torch.eye(count + free, dtype=torch.float64)
    left = (root @ torch.linalg.solve(whitened, root.mT)).diagonal()[:count]
    shells = nearest_shells(basis.frequency, box)
    unknown, power = (torch.bincount(shells, part, box // 2 + 1) for part in (left, covariance.diagonal()))
    return torch.where(power > 0, 1 - unknown / power, 0.0).clamp(min=0)[: box // 2 + 1]


def projected(basis: SphericalBesselBasis, voxels: Float[Tensor, "n n n"]) -> Float[Tensor, "p"]:
    """Coefficients of a map, whose band the box holds: sums over the voxels in the basis' ball."""
    points = pixel_vectors(len(voxels), 3).reshape(-1, 3)
    inside = points.norm(dim=1) < basis.radius
    pairs = zip(points[inside].split(_POINTS), voxels.flatten()[inside].split(_POINTS), strict=True)
    return sum((part.double() @ basis.values(where) for where, part in pairs), torch.zeros(len(basis)))


def empirical_prior_covariance(
    basis: SphericalBesselBasis, coefficients: Float[Tensor, "p"], box: int
) -> Float[Tensor, "p p"]:
    """Covariance of a prior with the radial profile of a volume and its power in each shell of a box.

    White noise times the profile's root, ``Σ_m ψψ(r)`` of the volume being its profile, then scaled shell by shell.
    Degrees and orders are independent, since profile and power are those of the mean over rotations.

    Args:
        basis: of the coefficients.
        coefficients: of the volume.
        box: pixels.

    Returns:
        The covariance of the coefficients.
    """
    radii = (torch.arange(_RADII, dtype=torch.float64) + 0.5) * (basis.radius / _RADII)
    amplitudes = basis.angular_sum(basis.radial_values(radii), coefficients)
    covariance = profiled_covariance(basis, radii, amplitudes.square().sum(0))  # 4π times the mean square on a sphere
    shells = nearest_shells(basis.frequency, box)
    power, raw = (torch.bincount(shells, part) for part in (coefficients.square(), covariance.diagonal()))
    scale = (power / raw.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()[shells]
    return scale[:, None] * covariance * scale


def _gram(derivatives: Tensor, scale: Tensor) -> Float[Tensor, "x x"]:
    """``Re J W J*`` of complex derivatives, one for each row."""
    flat = torch.view_as_real(derivatives * scale).flatten(1)
    return flat @ flat.mT
