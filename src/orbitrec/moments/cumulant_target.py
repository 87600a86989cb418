"""Third cumulants to be matched, and how accurately they are known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.moments.compression import Compression, Triple
from orbitrec.moments.cumulants import Blocks, independent_numbers


@dataclass(frozen=True, eq=False)
class CumulantTarget:
    """Third cumulants of N images in coordinates in which their errors are independent and have variance ``1/N``.

    Were coordinates Gaussian, with signal and noise of variance ``p = 1 + λ``, the error of ``κ[m₁, m₂](a, b, c)``
    would have the variance ``p_a p_b p_c / N`` and errors of different entries would be uncorrelated (Isserlis 1918),
    also with those of the first two moments. It is nearly so while λ is below 1. Entries that are the same number, or
    its conjugate, are counted once (:func:`multiplicity`).

    Attributes:
        compression: the coordinates of images.
        data: what was measured, flat, by ``(m₁, m₂)``.
        response: what κ is multiplied by to be compared with it.
        count: number N of images.
    """

    compression: Compression
    data: Mapping[Triple, Complex[Tensor, "_"]]
    response: Mapping[Triple, Float[Tensor, "_ _"]]
    count: float

    @classmethod
    def of_cumulants(cls, cumulants: Blocks, compression: Compression, count: float) -> "CumulantTarget":
        """Cumulants that were estimated without a CTF, or are exact.

        Args:
            cumulants: κ.
            compression: their coordinates.
            count: number N of images whose errors they have, or would have.

        Returns:
            The target.
        """
        data = {triple: _scale(compression, triple) * block.flatten() for triple, block in cumulants.items()}
        return cls.weighted(data, compression, count)

    @classmethod
    def weighted(
        cls, data: Mapping[Triple, Complex[Tensor, "_"]], compression: Compression, count: float
    ) -> "CumulantTarget":
        """The same from κ over its errors' deviation, ``data`` of a target that was made without a CTF.

        Args:
            data: flat, by ``(m₁, m₂)``.
            compression: the coordinates.
            count: number N of images.

        Returns:
            The target.
        """
        return cls(compression, data, {triple: torch.diag(_scale(compression, triple)) for triple in data}, count)

    def misfit(self, cumulants: Blocks) -> Float[Tensor, ""]:
        """Minus the log-likelihood of Gaussian errors, ``N Σ |data − response κ|²``: linear in N, differentiable.

        Where all is right its mean is half of :attr:`numbers`, and its variance too.
        """
        errors = [data - _applied(self.response[t], cumulants[t].flatten()) for t, data in self.data.items()]
        return self.count * sum((torch.view_as_real(error).square().sum() for error in errors), torch.zeros(()))

    @property
    def numbers(self) -> int:
        """How many independent real numbers are matched."""
        r = self.compression.ranks
        return sum(independent_numbers((a, b), (r[a], r[b], r[a + b])) for a, b in self.data)

    def with_count(self, count: float) -> "CumulantTarget":
        """The same, trusted as if it came from so many images."""
        return replace(self, count=count)

    def without_mean_mode(self) -> "CumulantTarget":
        """Without triples of mode 0, which alone are biased where the images' contrast varies.

        With contrasts s of variance v the cumulants of mode 0 gain about ``2 v μ M²``, μ the mean; all others are
        multiplied by ``E s³``.
        """
        kept = [triple for triple in self.data if triple[0] > 0]
        return replace(self, data={t: self.data[t] for t in kept}, response={t: self.response[t] for t in kept})

    def to(self, dtype: torch.dtype) -> "CumulantTarget":
        """Numbers in another real precision; the coordinates stay as they are."""
        data = {t: value.to(dtype.to_complex()) for t, value in self.data.items()}
        return replace(self, data=data, response={t: value.to(dtype) for t, value in self.response.items()})


def multiplicity(triple: Triple) -> float:
    """What a squared error counts in minus the log-likelihood of a block, whose entries may be the same number.

    Of complex errors with ``E|e|² = 1`` it is ``|e|²``. Where m₁ = m₂ > 0 entries (a, b) and (b, a) are one number of
    twice the variance on the diagonal, and where m₁ = 0 < m₂ entries (b, c) and (c, b) are conjugates: a half. For
    m₁ = m₂ = 0 six permutations of a real number: ``½ / 6``.
    """
    a, b = triple
    if b == 0:
        return 1 / 12
    return 0.5 if a in (0, b) else 1.0


def _scale(compression: Compression, triple: Triple) -> Float[Tensor, "_"]:
    a, b = triple
    deviation = (math.sqrt(multiplicity(triple)), *((1 + compression.signal[m]).rsqrt() for m in (a, b, a + b)))
    return deviation[0] * torch.einsum("a,b,c->abc", *deviation[1:]).flatten()


def _applied(matrix: Float[Tensor, "q q"], vector: Complex[Tensor, "q"]) -> Complex[Tensor, "q"]:
    return torch.view_as_complex(matrix @ torch.view_as_real(vector))
