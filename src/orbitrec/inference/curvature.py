"""Curvature of the likelihood on the polar grid, for bases small enough for dense matrices.

With the score s of an image's every rotation, quadratic in w, and expectations over its posterior (Louis 1982),

    ∇f = −E[∇s],     ∇²f = C* h² C − E[∇s ∇sᵀ] + E[∇s] E[∇s]ᵀ,

where ``∂s/∂w_i = Re Σ_{m,k} Y conj(T_i) e^{imα} − Σ_k h² Re Σ_m T conj(T_i)`` and T_i is the template of basis function
i, an angular part times a radial one: radial sums over k are taken first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.inference.likelihood import Observations, posterior, scores
from orbitrec.inference.orbit_likelihood import OrbitLikelihood
from orbitrec.models.cryoem import PolarProjector


@dataclass(frozen=True, eq=False)
class CurvedOrbitLikelihood(OrbitLikelihood):
    """A likelihood on the polar grid with its Hessian and its empirical Fisher matrix.

    The density is known and there are no displacements.
    """

    projector: PolarProjector  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def fisher_passes(self) -> float:
        """Cost of :meth:`fisher` in passes, as measured: the time of one and a half gradients (64 coefficients)."""
        return 1.5

    def hessian(self, w: Float[Tensor, "p"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "p p"]:
        """Mean Hessian of the terms in ``index``."""
        curvature = _Curvature(self, w)
        prior = torch.diag(self.prior.precision(w) / self.count)
        second, total, count = torch.zeros_like(self._unseen), torch.zeros_like(prior), 0
        for part in self._parts(index, 16):
            p, z = curvature.posterior(part), curvature.radial_sums(part)
            mean = curvature.mean_score_gradient(part, p, z)
            total += mean.mT @ mean - curvature.score_gradient_power(part, p, z)
            second += p.sum(2).mT @ part.ctf2_over_noise
            count += len(part)
        return (self.projector.gram(second) + total) / count + prior

    def fisher(self, w: Float[Tensor, "p"], index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "p p"]:
        """Mean outer product of the gradients of the terms in ``index``, and the prior's precision."""
        curvature = _Curvature(self, w)
        prior = torch.diag(self.prior.precision(w) / self.count)
        total, count = torch.zeros_like(prior), 0
        for part in self._parts(index, 256):
            p, z = curvature.posterior(part), curvature.radial_sums(part)
            mean = curvature.mean_score_gradient(part, p, z)
            total += mean.mT @ mean
            count += len(part)
        return total / count + prior

    def _parts(self, index: Int[Tensor, "b"] | None, size: int) -> Iterator[Observations]:
        rows = torch.arange(self.count) if index is None else index
        return (self.data.observe(part) for part in rows.split(size))


class _Curvature:
    """``basis``: (d, m, p) angular parts of every T_i; ``model``: (d, p, k) the terms of Σ_m Re T conj(T_i)."""

    def __init__(self, problem: CurvedOrbitLikelihood, w: Float[Tensor, "p"]) -> None:
        projector, circle = problem.projector, problem.circle
        self.problem, self.bank = problem, problem.bank(w)
        self.basis = projector.angular[:, :, projector.basis.lm]
        self.model = torch.einsum("dmk,dmi->dik", self.bank.templates, self.basis.conj()).real * projector.radial
        self.rotations = torch.exp(1j * circle.in_plane_angles[:, None] * circle.modes).to(self.basis.dtype)  # (a, m)
        self.synthesis = torch.view_as_real(self.rotations.conj().resolve_conj()).flatten(1)

    def posterior(self, part: Observations) -> Float[Tensor, "b d a"]:
        return posterior(scores(part, self.bank))[0][:, 0]

    def radial_sums(self, part: Observations) -> Complex[Tensor, "b m p"]:
        """``Σ_k Y F_i``."""
        return part.modes[:, 0] @ self.problem.projector.radial.mT.to(part.modes.dtype)

    def mean_score_gradient(
        self, part: Observations, p: Float[Tensor, "b d a"], z: Complex[Tensor, "b m p"]
    ) -> Float[Tensor, "b p"]:
        rotated = p.to(z.dtype) @ self.rotations  # (b, d, m)
        angular = torch.einsum("bdm,dmi->bmi", rotated, self.basis.conj())
        model = torch.einsum("bd,dik->bik", p.sum(2), self.model)
        return (angular * z).real.sum(1) - (model @ part.ctf2_over_noise[:, :, None])[:, :, 0]

    def score_gradient_power(
        self, part: Observations, p: Float[Tensor, "b d a"], z: Complex[Tensor, "b m p"]
    ) -> Float[Tensor, "p p"]:
        """``Σ_j E[∇s ∇sᵀ]``."""
        size = self.basis.shape[2]
        products = (z[:, None] * self.basis.conj()).mT  # (b, d, p, m)
        gradient = torch.view_as_real(products).flatten(3) @ self.synthesis.mT
        gradient -= torch.einsum("dik,bk->bdi", self.model, part.ctf2_over_noise)[..., None]
        weighted = (gradient * p.sqrt()[:, :, None]).transpose(2, 3).reshape(-1, size)
        return weighted.mT @ weighted
