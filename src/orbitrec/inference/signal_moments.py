"""Debiased first and second moments (2.12) of one-dimensional observations in one pass, and their noise level."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.inference.moments import Moments


@dataclass(eq=False)
class SignalMomentAccumulator:
    """Sums over observations of w samples, in float64; mergeable.

    Sums are of real samples, ``Σ y`` and ``Σ y yᵀ``: half the arithmetic of transforms, which are taken at the end.

    Attributes:
        first: ``Σ y``.
        second: ``Σ y yᵀ``.
        count: observations so far.
    """

    first: Float[Tensor, "w"]
    second: Float[Tensor, "w w"]
    count: int = 0

    @classmethod
    def of(cls, batches: Iterable[Float[Tensor, "_ w"]]) -> "SignalMomentAccumulator":
        """The sums over all batches.

        Raises:
            InputError: if there are no batches.
        """
        total = None
        for batch in batches:
            total = cls.empty(batch.shape[1]) if total is None else total
            total.update(batch)
        if total is None:
            raise InputError("moments of no observations cannot be estimated; give at least one")
        return total

    @classmethod
    def empty(cls, length: int) -> "SignalMomentAccumulator":
        """No observations yet."""
        return cls(torch.zeros(length, dtype=torch.float64), torch.zeros(length, length, dtype=torch.float64))

    def update(self, batch: Float[Tensor, "b w"]) -> None:
        """Add a batch of observations."""
        y = batch.double()
        self.first += y.sum(0)
        self.second.addmm_(y.mT, y)
        self.count += len(y)

    def merge(self, other: "SignalMomentAccumulator") -> "SignalMomentAccumulator":
        """The sums over both parts.

        Raises:
            InputError: if their observations have different lengths.
        """
        if len(self.first) != len(other.first):
            raise InputError(
                f"moments of {len(self.first)} samples cannot be merged with moments of {len(other.first)}; "
                "merge parts of one data set"
            )
        return SignalMomentAccumulator(self.first + other.first, self.second + other.second, self.count + other.count)

    def estimate(self, sigma: float) -> Moments:
        """``M̂¹ = Σ F y / N`` and ``M̂² = Σ (F y)(F y)* / N − σ² I`` (2.12), F the centred unitary transform: one block.

        Raises:
            InputError: if there are no observations or σ is negative.
        """
        if self.count == 0:
            raise InputError("moments of no observations cannot be estimated; give at least one")
        if sigma < 0:
            raise InputError(f"a noise level σ of {sigma:g} is negative; give zero or more")
        debiased = self.second / self.count - sigma**2 * torch.eye(len(self.first), dtype=torch.float64)
        first = centred_fft(self.first / self.count, ndim=1)
        columns = centred_fft(debiased, ndim=1).mT  # F on the second index, then on the first: F (F Gᵀ)* = F G F*
        second = centred_fft(columns.conj().resolve_conj(), ndim=1).mT
        return Moments(first[None], second[None], torch.ones(1, dtype=torch.float64))

    def sigma(self) -> float:
        """The noise level σ from the data: root of the mean of the least eigenvalues of the second moment.

        How many of them are noise is the choice of least description length (Wax and Kailath 1985). Where the signal
        fills every dimension, no eigenvalue is noise alone and the value is too large.

        Raises:
            InputError: if there are not more observations than samples.
        """
        w = len(self.first)
        if self.count <= w:
            raise InputError(f"{self.count} observations of {w} samples do not tell the noise level; give σ")
        eigenvalues = torch.linalg.eigvalsh(self.second / self.count)
        eigenvalues = eigenvalues.clamp(min=torch.finfo(torch.float64).eps * float(eigenvalues[-1]))  # rounding
        noise = torch.arange(1, w + 1, dtype=torch.float64)  # so many of the least eigenvalues
        mean, log_mean = eigenvalues.cumsum(0) / noise, eigenvalues.log().cumsum(0) / noise
        rank = w - noise
        length = (
            self.count * noise * (mean.log() - log_mean) + rank * (2 * w - rank) / 4 * torch.tensor(self.count).log()
        )
        return float(mean[length.argmin()].sqrt())
