"""Volumes as shells of given frequencies see them, and Gaussian volumes without a band.

Coefficients w of functions of one harmonic each give a volume's harmonics on shells, ``A_lm(k) = Σ_p F_p(k) w_p``. That
is all that moments up to some frequency depend on. A basis that ends near that frequency cannot hold what lies beyond
and leaks into it, so that no coefficients have a real map's moments to their noise. A Gaussian prior knows better: A is
Gaussian too, its covariance has few eigenvalues that count, and the volume beyond the shells is its mean given them.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.geometry.harmonics import harmonic_count, harmonics_of_degree
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume


@dataclass(frozen=True, eq=False)
class ShellFunctions:
    """Functions of one harmonic each on the nodes of a grid.

    Attributes:
        lm: angular index ``l² + l + m`` of each.
        radial: their values, without the harmonic and without (−i)^l.
    """

    lm: Int[Tensor, "p"]
    radial: Float[Tensor, "p k"]

    def __len__(self) -> int:
        return len(self.lm)

    def sum(self, w: Float[Tensor, "p"], degree: int) -> Float[Tensor, "lm k"]:
        """``A_lm(k)`` for all l up to ``degree``, differentiable."""
        out = self.radial.new_zeros(harmonic_count(degree), self.radial.shape[1])
        return out.index_add_(0, self.lm, self.radial * w[:, None])

    def to(self, dtype: torch.dtype) -> "ShellFunctions":
        """In another precision."""
        return ShellFunctions(self.lm, self.radial.to(dtype))


@dataclass(frozen=True, eq=False)
class GaussianShells:
    """What volumes of a Gaussian prior are on shells, a sum of as many functions as count; in float64.

    The functions' coefficients are independent standard normal variables.

    Attributes:
        basis: of the prior's volumes, to frequencies far beyond the shells.
        covariance: of its coefficients, which are independent for different (l, m) and alike for all m of a degree.
        frequencies: of the shells, radians per pixel.
        scale: ``s_k``, by which a grid multiplies its shells.
        degree: largest l.
        tolerance: variance, of the largest, below which a function does not count.
    """

    basis: SphericalBesselBasis
    covariance: Float[Tensor, "p p"]
    frequencies: Float[Tensor, "k"]
    scale: Float[Tensor, "k"]
    degree: int
    tolerance: float = 1e-9

    @cached_property
    def _roots(self) -> list[tuple[Float[Tensor, "r k"], Float[Tensor, "s r"]]]:
        """For each degree: roots of the shells' covariance, and the prior's mean coefficients given them."""
        radial = self.basis.radial(self.frequencies) * self.scale
        roots, largest = [], 0.0
        for l in range(self.degree + 1):
            own = torch.nonzero(self.basis.lm == harmonics_of_degree(l).start).squeeze(1)
            across = self.covariance[own][:, own] @ radial[own]
            values, vectors = torch.linalg.eigh(radial[own].mT @ across)
            largest = max(largest, float(values[-1]))  # that of degree 0, the first
            kept = values > self.tolerance * largest
            deviations, vectors = values[kept].sqrt(), vectors[:, kept]
            roots.append(((vectors * deviations).mT, across @ (vectors / deviations)))
        return roots

    @cached_property
    def functions(self) -> ShellFunctions:
        """Ordered by degree, order and root."""
        lm, radial = [], []
        for l, (root, _) in enumerate(self._roots):
            for index in _indices(l):
                lm += [index] * len(root)
                radial.append(root)
        return ShellFunctions(torch.tensor(lm), torch.cat(radial))

    def coefficients(self, shells: Float[Tensor, "lm k"]) -> Float[Tensor, "p"]:
        """The functions' coefficients that are nearest to a volume's shells ``s_k A_lm(k)``."""
        parts = [shells[harmonics_of_degree(l)] @ torch.linalg.pinv(root) for l, (root, _) in enumerate(self._roots)]
        return torch.cat([part.flatten() for part in parts])

    def volume(self, x: Float[Tensor, "p"]) -> SphericalBesselVolume:
        """The prior's mean given the shells that these coefficients have."""
        mean, done = torch.zeros(len(self.basis), dtype=torch.float64), 0
        for l, (root, given) in enumerate(self._roots):
            for lm in _indices(l):
                mean[self.basis.lm == lm] = given @ x[done : done + len(root)].double()
                done += len(root)
        return SphericalBesselVolume(self.basis, mean)


def _indices(l: int) -> range:
    of_degree = harmonics_of_degree(l)
    return range(of_degree.start, of_degree.stop)
