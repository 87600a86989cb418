"""Encoders ξ_θ: from the first two moments of multireference alignment to the density of shifts and the signal."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.moments.analytic import Moments
from orbitrec.networks.base import StoredNetwork
from orbitrec.networks.frequency_marching import from_half, march_frequencies

E = TypeVar("E", bound="Encoder")

_TYPICAL = 100.0
"""Inverse prior variance of a Fourier coefficient: training starts from it, and it shrinks what marching finds."""
_SUREST = 30.0
"""Bound on the logarithm of a guess's certainty: far from what training has seen its exponential must stay finite."""


class Encoder(StoredNetwork):
    """What encoders share: the moments' scale and the check of their length.

    Moments come at the signal's own scale and are brought to unit mean square, so that scaling the signal scales the
    output. Neither output has a preferred shift: (2.9) forgives each its own.

    Args:
        n: samples of the signal.

    Raises:
        InputError: at a call, if the moments are of another length.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(
        self, moments: Moments, sigma: Float[Tensor, "b"], count: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Estimates ``(z_ρ, z_v)`` of density and signal on the grid, in the parameters' precision.

        Args:
            moments: a batch of one-block moments (2.3), or their debiased estimates (2.12).
            sigma: the observations' noise level; 0 where the moments are exact.
            count: observations that the moments were estimated from; infinite where they are exact.

        Returns:
            Densities and signals.

        Raises:
            InputError: if the moments are of signals of another length.
        """
        if moments.first.shape[-1] != self.n:
            raise InputError(
                f"this encoder is for signals of {self.n} samples, the moments are of {moments.first.shape[-1]}; "
                "train one for that length"
            )
        dtype = next(self.parameters()).dtype
        first, second = (m.squeeze(1).to(dtype.to_complex()) for m in (moments.first, moments.second))
        power = second.diagonal(dim1=1, dim2=2).real.mean(1)
        scale = power.sqrt()
        relative = sigma.to(dtype) / scale
        density, signal = self.at_unit_scale(
            first / scale[:, None], second / power[:, None, None], relative, count.to(dtype)
        )
        return density, signal * scale[:, None]

    @classmethod
    def blank(cls: type[E], training: Mapping[str, object], weights: Mapping[str, Tensor]) -> E:
        """An encoder for signals of the trained length."""
        return cls(cast("int", training["n"]))

    @abstractmethod
    def at_unit_scale(
        self,
        first: Complex[Tensor, "b n"],
        second: Complex[Tensor, "b n n"],
        sigma: Float[Tensor, "b"],
        count: Float[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Density and signal, as :meth:`forward` returns them, for moments of a signal of unit mean square.

        Args:
            first: M¹ (2.3), the zero frequency at index n // 2.
            second: M² (2.3), likewise.
            sigma: noise level of the observations, of a signal of unit mean square; 0 where moments are exact.
            count: number of observations; infinite where moments are exact.

        Returns:
            Densities and signals.
        """


class StructuredEncoder(Encoder):
    """A closed-form inversion of the moments, completed where noise leaves it unsure.

    Frequency marching (:mod:`orbitrec.networks.frequency_marching`) inverts (2.3) exactly for exact moments, and says
    how sure it is of each Fourier coefficient x as an inverse variance r. A small network sees all of it and gives for
    each coefficient a guess g and that guess's own inverse variance p; the output is the mean of the two,
    ``(r x + p g) / (r + p)``. Exact moments have r = ∞ but for rounding: nothing is left to learn there.

    All of this is in the frame in which v̂(1) and ρ̂(1) are positive, so the encoder is equivariant: observations all
    shifted by s give the same signal and the density shifted by s. Together the outputs explain the moments.
    """

    name = "structured"

    def __init__(self, n: int, width: int = 256) -> None:
        super().__init__(n)
        self.modes = (n - 1) // 2 + 1
        self.body = nn.Sequential(
            nn.Linear(6 * self.modes + 2, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        )
        self.guess = nn.Linear(width, 4 * self.modes)
        self.certainty = nn.Linear(width, 2 * self.modes)
        for layer in (self.guess, self.certainty):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.certainty.bias, math.log(_TYPICAL))

    def at_unit_scale(
        self,
        first: Complex[Tensor, "b n"],
        second: Complex[Tensor, "b n n"],
        sigma: Float[Tensor, "b"],
        count: Float[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Frequency marching, then the network's guess, then the mean of both.

        Args:
            first: M¹ (2.3), the zero frequency at index n // 2.
            second: M² (2.3), likewise.
            sigma: noise level of the observations, of a signal of unit mean square; 0 where moments are exact.
            count: number of observations; infinite where moments are exact.

        Returns:
            Densities and signals.
        """
        found = march_frequencies(first, second, sigma, count)
        certainty = torch.cat([found.signal_certainty, found.density_certainty], dim=1)
        weighted = torch.cat([found.signal * found.signal_certainty, found.density], dim=1)
        # Where little is known marching finds wild coefficients; shrunk by a typical prior they are fit to look at.
        shrunk = weighted / (certainty + _TYPICAL)
        noise = torch.stack([sigma, 100 / count.sqrt()], dim=1)
        features = torch.cat([shrunk.real, shrunk.imag, (certainty + 1e-2).log10().clamp(max=10) / 5, noise], dim=1)
        hidden = self.body(features)
        # Under autocast layers answer in bfloat16, of which there are no complex numbers.
        guess = torch.complex(*self.guess(hidden).to(features.dtype).chunk(2, dim=1))
        own = self.certainty(hidden).to(features.dtype).clamp(-_SUREST, _SUREST).exp()
        signal, density = ((weighted + own * guess) / (certainty + own)).chunk(2, dim=1)
        phase = found.angle[:, None] * torch.arange(1, self.modes, dtype=found.angle.dtype, device=found.angle.device)
        density = torch.cat([torch.ones_like(density[:, :1]), density[:, 1:] * torch.exp(1j * phase)], dim=1)
        return from_half(density, self.n, unitary=False), from_half(signal, self.n, self.n // 2)
