"""How much of a volume two moments determine, shell by shell.

Counting numbers (:mod:`orbitrec.thesis.volume_matching.pseudo_atoms`) says that moments leave much of a volume open,
but not where. So they are linearised at the truth, where their Fisher information F is the misfit's Hessian, and the
volume has a Gaussian prior of covariance C. What the moments leave open then has the covariance ``S = (C⁻¹ + F)⁻¹``,
and ``e_s = 1 − tr_s S / tr_s C`` is the explained fraction of the variance in shell s.

If solutions were draws of that Gaussian, two of them, or one and the truth, would have the FSC ``e_s``, and the mean of
many and the truth ``sqrt(e_s)``. It is an estimate and no bound: solutions lie on a curved set, of which this is
the tangent, there may be others far from the truth, and a prior may know more than size, outline and spectrum.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.geometry.grids import nearest_shells, pixel_vectors
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments
from orbitrec.moments.matching import MomentTarget
from orbitrec.thesis.volume_matching.shells import ShellFunctions
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

_RADII = 400
_POINTS = 4096  # of a grid at a time


@dataclass(frozen=True, eq=False)
class MomentInformation:
    """Fisher information of two moments with uniform in-plane angles about a volume and its views, in float64.

    Attributes:
        target: how well the moments are known; what they are does not matter.
        projector: rotates shells to directions spread evenly. Of its own basis only the largest degree matters.
        functions: what the volume is a sum of, on the target's shells.
        coefficients: the true volume.
        density: true probabilities of the directions.
        harmonics: ways in which the views' log density may differ, scaled to unit variance in the prior; without a
            column the views are known.
    """

    target: MomentTarget
    projector: PolarProjector
    functions: ShellFunctions
    coefficients: Float[Tensor, "p"]
    density: Float[Tensor, "d"]
    harmonics: Float[Tensor, "d b"]

    def matrix(self) -> Float[Tensor, "x x"]:
        """``F``, the Hessian of :meth:`MomentTarget.misfit` at moments that fit: coefficients first, then harmonics.

        A coefficient's derivative of ``M²[m, k, k']`` is ``F_p(k) Q_lm(k')``, Q the mean of the lm-th harmonic's
        templates times the volume's own, and the same with k, k' exchanged and conjugated.
        """
        lm, radial = self.functions.lm, self.functions.radial
        shells = self.functions.sum(self.coefficients, self.projector.basis.degree)
        templates = self.projector.shell_templates(shells)
        changes = self.density[:, None] * (self.harmonics - self.density @ self.harmonics)
        first, second = self._precision()
        total = torch.zeros(len(lm) + changes.shape[1], len(lm) + changes.shape[1], dtype=torch.float64)
        for m, angular in enumerate(self.projector.angular.unbind(1)):
            own, weighted = templates[:, m], self.density[:, None] * angular
            products = (weighted.mT @ own.conj())[lm]
            volume = radial[:, :, None] * products[:, None]
            views = torch.einsum("db,dk,dl->bkl", changes.to(own.dtype), own, own.conj())
            total += _gram(torch.cat([volume + volume.mH, views]), second[m].sqrt())
            if m == 0:
                mean = torch.cat([weighted.sum(0)[lm, None] * radial, changes.to(own.dtype).mT @ own])
                total += _gram(mean, first[0].sqrt())
        return total

    def _precision(self) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k k"]]:
        """What squared errors of both moments count in twice the misfit, read off its gradient at errors of one."""
        moments = self.target.moments
        errors = [torch.ones_like(part).requires_grad_() for part in (moments.first, moments.second)]
        misfit = self.target.misfit(moments - Moments(errors[0], errors[1], moments.weights))
        first, second = torch.autograd.grad(misfit, errors)
        return first.real, second.real


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
    functions = basis.radial_values(radii)
    amplitudes = basis.angular_sum(functions, coefficients)
    profile = amplitudes.square().sum(0)  # the mean square on a sphere, times 4π
    same = basis.lm[:, None] == basis.lm
    covariance = (functions * (profile * radii.square())) @ functions.mT * same
    shells = nearest_shells(basis.frequency, box)
    power, raw = (torch.bincount(shells, part) for part in (coefficients.square(), covariance.diagonal()))
    scale = (power / raw.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()[shells]
    return scale[:, None] * covariance * scale


def _gram(derivatives: Tensor, scale: Tensor) -> Float[Tensor, "x x"]:
    """``Re J W J*`` of complex derivatives, one for each row."""
    flat = torch.view_as_real(derivatives * scale).flatten(1)
    return flat @ flat.mT
