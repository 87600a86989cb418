"""Debiased first and second moments of particle images and of signals in one pass: sums that merge."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.polar import PolarGrid
from orbitrec.moments.analytic import Moments


@dataclass(eq=False)
class MomentAccumulator:
    """Sums over observations from which the debiased block moments follow; mergeable, all in float64.

    Observations are images ``X = h·F + noise`` in polar coordinates, with white pixel noise of variance 1 and a radial
    CTF h. Least squares over all of them, with ``Y = h·X`` and the Gram matrix G_m of the grid's noise, gives

        M¹[0, k] = Σ_j Y_j / Σ_j h_j²,     M²[m, k, k'] = (Σ_j Y_j Y_j* − G_m Σ_j h_j h_j') / Σ_j h_j² h_j'².

    The CTF is applied at the nodes and not, as for the likelihood, to the pixels. It spreads the signal over the box;
    applied to the pixels a second time, what leaves the box on one side would come back in on the other. With
    astigmatism h is the average over the circle (:meth:`CTFParameters.radial`), which neglects that harmonics of the
    CTF mix the modes m and m ± 2.

    Attributes:
        grid: where the modes live.
        first: ``Σ Y[m=0]``, real for real images.
        second: ``Σ Y Y*`` as the sum of its real and its imaginary part. One is symmetric and the other antisymmetric,
            so nothing is lost, and sums and products take half the memory and time of a complex matrix.
        power: ``Σ h²``.
        noise: ``Σ h(k) h(k')``.
        product: ``Σ h²(k) h²(k')``.
        count: observations so far, as a tensor without axes.
    """

    grid: PolarGrid
    first: Float[Tensor, "k"]
    second: Float[Tensor, "m k k"]
    power: Float[Tensor, "k"]
    noise: Float[Tensor, "k k"]
    product: Float[Tensor, "k k"]
    count: Int[Tensor, ""]

    @classmethod
    def empty(cls, grid: PolarGrid, device: str = "cpu") -> "MomentAccumulator":
        """The sums before the first observation."""
        k, m = grid.node_count, grid.max_mode + 1
        shapes = [(k,), (m, k, k), (k,), (k, k), (k, k)]
        sums = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(grid, *sums, count=torch.zeros((), dtype=torch.long, device=device))

    def update(self, modes: Complex[Tensor, "b m k"], ctf: Float[Tensor, "b k"]) -> None:
        """Add a batch of observations and their radial CTFs (ones where there is none).

        Products are formed in the observations' precision and added in float64: in float32 a batch should hold no more
        than a few thousand images.
        """
        filtered = modes * ctf[:, None, :]
        a, b = (part.transpose(0, 1) for part in (filtered.real, filtered.imag))
        # Re YY* + Im YY* = (a + b) aᵀ + (b − a) bᵀ for Y = a + ib.
        self.second += torch.cat([a + b, b - a], dim=1).mT @ torch.cat([a, b], dim=1)
        self.first += a[0].sum(0, dtype=torch.float64)
        power = ctf.square()
        self.power += power.sum(0, dtype=torch.float64)
        self.noise += ctf.mT @ ctf
        self.product += power.mT @ power
        self.count += len(modes)

    def merge(self, other: "MomentAccumulator") -> "MomentAccumulator":
        """The sums over both parts.

        Raises:
            InputError: if the parts were accumulated on different grids.
        """
        if other.grid != self.grid:
            raise InputError(f"moments on {other.grid} cannot be merged with moments on {self.grid}; use one grid")
        return MomentAccumulator(self.grid, **{name: s + other.sums()[name] for name, s in self.sums().items()})

    def estimate(self, regularisation: float = 1e-3) -> Moments:
        """Debiased moments. Denominators are raised by ``regularisation`` times their mean, for zeros of the CTF.

        Raises:
            InputError: if there are no observations.
        """
        if self.count == 0:
            raise InputError("moments of no images cannot be estimated; give at least one")
        second = torch.complex((self.second + self.second.mT) / 2, (self.second - self.second.mT) / 2)
        debiased = second - self.grid.noise_gram() * self.noise
        first = torch.zeros(second.shape[:2], dtype=second.dtype)
        first[0] = (self.first / (self.power + regularisation * self.power.mean())).to(first.dtype)
        product = self.product + regularisation * self.product.mean()
        return Moments(first, debiased / product, self.grid.mode_weights.pow(-2))

    def sums(self) -> dict[str, Tensor]:
        """Every sum by name: with the grid, all that the accumulator holds."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "grid"}


@dataclass(eq=False)
class SignalMomentAccumulator:
    """Sums over observed signals of w samples, in float64; mergeable.

    The sums are of the real samples, ``Σ y`` and ``Σ y yᵀ``, which is half the arithmetic of sums of transforms; the
    transforms are taken at the end.

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
        """The sums before the first observation."""
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
        """``M̂¹ = Σ F y / N`` and ``M̂² = Σ (F y)(F y)* / N − σ² I`` (2.12) as one block; F is the unitary transform.

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

        How many of them are noise is decided by the minimum description length (Wax and Kailath 1985). Where the signal
        fills every dimension, no eigenvalue is noise alone and the value is too large.

        Raises:
            InputError: if there are not more observations than samples.
        """
        w = len(self.first)
        if self.count <= w:
            raise InputError(
                f"{self.count} observations of {w} samples are too few to estimate the noise level; give it as `sigma`"
            )
        eigenvalues = torch.linalg.eigvalsh(self.second / self.count)
        eigenvalues = eigenvalues.clamp(min=torch.finfo(torch.float64).eps * float(eigenvalues[-1]))  # rounding
        noise = torch.arange(1, w + 1, dtype=torch.float64)  # so many of the least eigenvalues
        mean, log_mean = eigenvalues.cumsum(0) / noise, eigenvalues.log().cumsum(0) / noise
        rank = w - noise
        length = (
            self.count * noise * (mean.log() - log_mean) + rank * (2 * w - rank) / 4 * torch.tensor(self.count).log()
        )
        return float(mean[length.argmin()].sqrt())
