"""Encoders ξ_θ: from the first two moments of multireference alignment to the density of shifts and the signal.

Both take moments of a signal at its own scale and work at unit mean square, so that scaling the signal scales the
output. Neither output has a preferred shift: (2.9) forgives each its own.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.moments.analytic import Moments
from orbitrec.networks.frequency_marching import from_half, march

_TYPICAL = 100.0
"""Inverse prior variance of a Fourier coefficient: what training starts from, and what shrinks the march meanwhile."""
_SUREST = 30.0
"""Bound on the logarithm of a guess's certainty: far from what training has seen its exponential must stay finite."""


class Encoder(nn.Module, ABC):
    """What both encoders share: the moments' scale and the check of their length.

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

    @abstractmethod
    def at_unit_scale(
        self,
        first: Complex[Tensor, "b n"],
        second: Complex[Tensor, "b n n"],
        sigma: Float[Tensor, "b"],
        count: Float[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """The same for moments of a signal of unit mean square."""


def _periodic(channels_in: int, channels_out: int, window: int) -> nn.Conv1d:
    return nn.Conv1d(channels_in, channels_out, window, padding=window // 2, padding_mode="circular")


class _MomentNetwork(nn.Module):
    """One of the two networks of Appendix A.1: two branches of periodic convolutions, joined to six channels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        slope = 0.02
        self.first = nn.Sequential(_periodic(2, 16, 5), nn.LeakyReLU(slope), _periodic(16, 3, 5), nn.LeakyReLU(slope))
        self.second = nn.Sequential(
            _periodic(2 * n, 32, 3), nn.LeakyReLU(slope), _periodic(32, 3, 5), nn.LeakyReLU(slope)
        )
        self.joined = nn.Sequential(
            _periodic(6, 8, 5),
            nn.LeakyReLU(slope),
            nn.Flatten(),
            nn.Linear(8 * n, 384),
            nn.Tanh(),
            nn.Linear(384, 384),
            nn.Tanh(),
            nn.Linear(384, n),
        )

    def forward(self, first: Float[Tensor, "b two n"], second: Float[Tensor, "b two_n n"]) -> Float[Tensor, "b n"]:
        return self.joined(torch.cat([self.first(first), self.second(second)], dim=1))


class ThesisEncoder(Encoder):
    """The encoder of Appendix A.1: two networks of the same architecture, one for the density and one for the signal.

    The moments are vector fields on the n frequencies: M¹ has one complex channel, M² has n, a row at each frequency.
    Convolutions are periodic over frequencies, with leaky ReLU of slope 0.02; full layers follow with tanh, the last
    one linear. Window sizes and channel numbers are not in the thesis (``docs/mra.md``). It does not see σ or N.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.density, self.signal = _MomentNetwork(n), _MomentNetwork(n)

    def at_unit_scale(
        self,
        first: Complex[Tensor, "b n"],
        second: Complex[Tensor, "b n n"],
        sigma: Float[Tensor, "b"],
        count: Float[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Both networks on the real and imaginary parts."""
        field = torch.view_as_real(first).mT
        fields = torch.cat([second.real, second.imag], dim=2).mT
        return self.density(field, fields) / self.n, self.signal(field, fields)


class StructuredEncoder(Encoder):
    """A closed-form inversion of the moments, completed where noise leaves it unsure.

    :func:`march` inverts (2.3) exactly for exact moments, and says how sure it is of each Fourier coefficient x as an
    inverse variance r. A small network sees all of it and gives for each coefficient a guess g and that guess's own
    inverse variance p; the output is the mean of the two, ``(r x + p g) / (r + p)``. Exact moments have r = ∞ but for
    rounding: nothing is left to learn there.

    The march works in the frame in which v̂(1) and ρ̂(1) are positive, so the encoder is equivariant: observations all
    shifted by s give the same signal and the density shifted by s. Together the outputs explain the moments.
    """

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
        """March, guess, mean."""
        found = march(first, second, sigma, count)
        certainty = torch.cat([found.signal_certainty, found.density_certainty], dim=1)
        weighted = torch.cat([found.signal * found.signal_certainty, found.density], dim=1)
        # Where little is known the march alone is wild; shrunk by a typical prior it is fit to look at.
        shrunk = weighted / (certainty + _TYPICAL)
        noise = torch.stack([sigma, 100 / count.sqrt()], dim=1)
        features = torch.cat([shrunk.real, shrunk.imag, (certainty + 1e-2).log10().clamp(max=10) / 5, noise], dim=1)
        hidden = self.body(features)
        # Under autocast layers answer in bfloat16, of which there are no complex numbers.
        guess = torch.complex(*self.guess(hidden).to(features.dtype).chunk(2, dim=1))
        own = self.certainty(hidden).to(features.dtype).clamp(-_SUREST, _SUREST).exp()
        signal, density = ((weighted + own * guess) / (certainty + own)).chunk(2, dim=1)
        turn = found.turn[:, None] * torch.arange(1, self.modes, dtype=found.turn.dtype, device=found.turn.device)
        density = torch.cat([torch.ones_like(density[:, :1]), density[:, 1:] * torch.exp(1j * turn)], dim=1)
        return from_half(density, self.n, unitary=False), from_half(signal, self.n, self.n // 2)


ENCODERS: dict[str, type[Encoder]] = {"thesis": ThesisEncoder, "structured": StructuredEncoder}
"""Encoders by the names that commands and weights know them by."""
