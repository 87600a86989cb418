"""A Gaussian prior of volumes from what is known before they are: the particle's diameter, and its second moment."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.moments.matching import MomentTarget
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

_RADII = 400
_EDGE = 0.08  # of the radius, over which the ball's profile falls


def profiled_covariance(
    basis: SphericalBesselBasis, radii: Float[Tensor, "r"], profile: Float[Tensor, "r"]
) -> Float[Tensor, "p p"]:
    """Covariance of white noise times the root of a radial profile.

    Args:
        basis: of the coefficients.
        radii: equally spaced over the basis' ball, pixels.
        profile: variance there, in any unit.

    Returns:
        The covariance, up to a factor; degrees and orders are independent.
    """
    functions = basis.radial_values(radii)
    same = basis.lm[:, None] == basis.lm
    return (functions * (profile * radii.square())) @ functions.mT * same


def ball_prior_covariance(basis: SphericalBesselBasis, target: MomentTarget, radius: float) -> Float[Tensor, "p p"]:
    """Covariance of a prior with the same variance everywhere in a soft ball, and the spectrum of the second moment.

    The spectrum ``Σ_m M²[m, k, k]`` is the mean over the views, which is that over all directions if they are even. It
    is smoothed over a basis function's width; beyond the matched frequencies ``log power`` goes on along k² as it does
    in the upper half of them, falling (Guinier; Wilson 1942).

    Args:
        basis: of the coefficients.
        target: moments of the particles.
        radius: of the ball that holds the particle, pixels.

    Returns:
        The covariance of the coefficients.
    """
    radii = (torch.arange(_RADII, dtype=torch.float64) + 0.5) * (basis.radius / _RADII)
    covariance = profiled_covariance(basis, radii, torch.sigmoid((radius - radii) / (_EDGE * radius)))
    nodes = target.grid.nodes
    power = torch.diagonal(target.moments.second, dim1=1, dim2=2).real.sum(0).double() / target.grid.scale.square()
    # A prior of variance one has this power: Σ_lm E |A_lm|² / 4π, the orders of a degree being alike.
    functions = basis.radial(nodes)
    unit = ((covariance @ functions) * functions).sum(0) / (4 * math.pi)
    seen = target.weight.amax(0) > 0
    spectrum = _extended((power / unit)[seen], nodes[seen], basis)
    return spectrum.sqrt()[:, None] * covariance * spectrum.sqrt()


def _extended(power: Float[Tensor, "k"], nodes: Float[Tensor, "k"], basis: SphericalBesselBasis) -> Float[Tensor, "p"]:
    """Power at the frequencies of the basis' functions."""
    power = power.clamp(min=1e-6 * float(power.max()))
    upper = nodes > nodes[-1] / 2
    slope, _ = np.polyfit(nodes[upper].square().numpy(), power[upper].log().numpy(), 1)
    frequency = basis.frequency.clamp(max=float(nodes[-1]))
    near = torch.exp(-((frequency[:, None] - nodes) * basis.radius / math.pi).square() / 2)
    inside = (near @ power) / near.sum(1)
    beyond = (basis.frequency.square() - nodes[-1].square()).clamp(min=0)
    return inside * torch.exp(min(float(slope), 0.0) * beyond)
