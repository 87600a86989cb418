"""The few real combinations of radial nodes, mode by mode, in which images hold more than noise.

Third cumulants of all K nodes would be K³ numbers for every triple of modes, nearly all of them noise. In each circular
mode the generalised eigenvectors U of the real part of the second moment in the metric of the noise,

    Re M²[m] U = σ² G_m U Λ,     Uᵀ σ² G_m U = I,

order what images hold by its signal-to-noise ratio λ; for m = 0 the mean is taken off first. The coordinates
``z = Uᵀ T`` have noise of covariance 1, and ``V z`` with ``V = σ² G_m U`` is the best linear guess of the nodes'
values T from them. U is real, so that opposite views have conjugate coordinates as they have conjugate templates.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.moments.analytic import Moments

Triple = tuple[int, int]
"""Modes ``m₁ ≤ m₂`` of a third cumulant; its third mode is their sum."""


@dataclass(frozen=True, eq=False)
class Compression:
    """Coordinates of one mode after another, up to the last mode that has any.

    Attributes:
        grid: whose nodes are combined.
        bases: ``U_m``.
        spreads: ``V_m``, from coordinates back to nodes.
        signal: ``λ_m``, the signal's variance in each coordinate; that of the noise is 1.
        mean: of mode 0 at the nodes, which is subtracted before products are formed. It need not be exact.
        variance: σ², of the noise in a pixel.
    """

    grid: PolarGrid
    bases: tuple[Float[Tensor, "k _"], ...]
    spreads: tuple[Float[Tensor, "k _"], ...]
    signal: tuple[Float[Tensor, "_"], ...]
    mean: Float[Tensor, "k"]
    variance: float

    @classmethod
    def of(
        cls,
        moments: Moments,
        grid: PolarGrid,
        *,
        variance: float,
        count: float,
        k_min: float = 0.0,
        resolved: float = 1e-3,
    ) -> "Compression":
        """The coordinates whose signal is above the largest that noise alone would show, :func:`noise_edge`.

        Args:
            moments: debiased block moments for uniform in-plane angles.
            grid: theirs.
            variance: σ², of the noise in a pixel.
            count: number of images whose moments they are, or how many are as accurate.
            k_min: nodes at or below this frequency are left out, radians per pixel.
            resolved: noise of a combination of nodes, in units of σ², below which it is left out. Nodes are closer than
                a box resolves, and the differences that it hardly does are large numbers which nearly cancel. A CTF
                keeps them from cancelling; without one they hold signal too.

        Returns:
            The coordinates.

        Raises:
            InputError: if no combination of mode 0 has signal.
        """
        seen = grid.nodes > k_min
        bases, spreads, signal = [], [], []
        for m, gram in enumerate(variance * grid.noise_gram().real):
            block = moments.second[m].real.double()
            if m == 0:
                mean = moments.first[0].real.double()
                block = block - torch.outer(mean, mean)
            values, vectors = torch.linalg.eigh(gram[seen][:, seen])
            kept = values > resolved * variance
            whitening = vectors[:, kept] / values[kept].sqrt()
            found, rotation = torch.linalg.eigh(whitening.mT @ block[seen][:, seen] @ whitening)
            above = (found > noise_edge(len(found), count)).nonzero().flatten().flip(0)
            if len(above) == 0:
                break
            basis = torch.zeros(len(seen), len(above), dtype=torch.float64)
            basis[seen] = whitening @ rotation[:, above]
            bases.append(basis)
            spreads.append(gram @ basis)
            signal.append(found[above])
        if not bases:
            raise InputError(
                f"no combination of nodes shows a signal above the noise of {count:g} images; use more images"
            )
        return cls(grid, tuple(bases), tuple(spreads), tuple(signal), moments.first[0].real.double(), variance)

    @property
    def ranks(self) -> list[int]:
        """Number of coordinates of each mode."""
        return [basis.shape[1] for basis in self.bases]

    def same_as(self, other: "Compression") -> bool:
        """Whether both make the same coordinates, to the last bit."""
        mine, theirs = ((*one.bases, one.mean) for one in (self, other))
        return self.grid == other.grid and self.ranks == other.ranks and all(map(torch.equal, mine, theirs))

    def triples(self) -> Iterator[Triple]:
        """All ``0 ≤ m₁ ≤ m₂`` whose sum is a mode too; the others follow by conjugation, as images are real."""
        for m3 in range(len(self.bases)):
            for m1 in range(m3 // 2 + 1):
                yield m1, m3 - m1

    def __call__(self, modes: Complex[Tensor, "m x k"]) -> list[Complex[Tensor, "x _"]]:
        """Coordinates of templates or images, modes first; nothing is subtracted."""
        return [modes[m] @ basis.to(modes) for m, basis in enumerate(self.bases)]


def noise_edge(variables: int, count: float) -> float:
    """Largest λ of noise alone in a second moment of ``count`` images and K variables: ``2 sqrt(K/N)``.

    An average of N products of K independent Gaussian variables, less its mean, has its eigenvalues within
    ``±2 sqrt(K/N)`` if they are real, as those of mode 0 are (Marchenko and Pastur 1967, K ≪ N). The real part of such
    an average of complex ones, as in other modes, has half the variance.
    """
    return 2 * math.sqrt(variables / count)
