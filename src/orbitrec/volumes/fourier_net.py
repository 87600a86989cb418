"""FourierNet: a volume whose Fourier transform is a neural network (Appendix A.2; Levy et al. 2022, arXiv:2203.08138).

    v̂(k) = a(k) exp(i b(k)),     a, b complex,                                                             (A.1)

so that Re b is a phase, and −Im b the logarithm of an envelope that may span many orders of magnitude. a and b are
sinusoidal networks (SIREN: Sitzmann et al. 2020, arXiv:2006.09661). A real density needs ``v̂(−k) = conj v̂(k)``: Re a
and Im b even in k, Im a and Re b odd. Both networks therefore carry an even and an odd stream through every layer,

    sin(u + v) = sin u cos v + cos u sin v,     u = w₀(A·even + c) even,     v = w₀ B·odd odd,

whose two terms are the next even and the next odd units. The source folds one half-space onto the other instead, which
leaves a cut where they meet.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_ifft
from orbitrec.geometry.grids import frequency_vectors

_W0 = 30.0  # what SIREN multiplies every argument of a sine by; weights are smaller, so their steps are larger
_POINTS_AT_ONCE = 2**16


def _uniform(bound: float, generator: torch.Generator, *shape: int) -> nn.Parameter:
    return nn.Parameter(((2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * bound).float())


class _ParityNetwork(nn.Module):
    """A SIREN with a real even and a real odd output: one layer and ``hidden`` more, of ``width`` units of each kind.

    The first layer's weights are positions in space, since ``v̂(k) = Σ_x v(x) e^{-ik·x}`` is a sum of just such waves.
    They are uniform up to ``max_radius`` pixels along each axis. The others are as in SIREN, which makes ``u + v``
    standard normal.
    """

    def __init__(self, max_radius: float, latent: int, hidden: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        siren = math.sqrt(6 / width) / _W0
        self.positions = _uniform(max_radius / _W0, generator, width, 3)
        self.latent = _uniform(math.sqrt(6 / max(latent, 1)) / _W0, generator, width, latent)
        self.even = nn.ParameterList([_uniform(siren, generator, width, width) for _ in range(hidden)])
        self.odd = nn.ParameterList([_uniform(siren, generator, width, width) for _ in range(hidden)])
        self.phase = nn.ParameterList([_uniform(math.pi / _W0, generator, width) for _ in range(hidden + 1)])
        self.even_out, self.odd_out = (_uniform(siren, generator, width) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(
        self, points: Float[Tensor, "p 3"], latent: Float[Tensor, "l"]
    ) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
        u, v = _W0 * (self.latent @ latent + self.phase[0]), _W0 * (points @ self.positions.T)
        for even, odd, phase in zip(self.even, self.odd, list(self.phase)[1:], strict=True):
            u, v = _W0 * (u.sin() * v.cos() @ even.T + phase), _W0 * (u.cos() * v.sin() @ odd.T)
        return u.sin() * v.cos() @ self.even_out + self.bias, u.cos() * v.sin() @ self.odd_out


class FourierNet(nn.Module):
    """A real volume with ``v̂ = scale · a e^{ib}``: four layers for a and three for b, as in the source.

    It is a :class:`Volume`, in float32 until ``.double()`` is called. Where gradients are on, they flow to the
    parameters, the points and the latent vector.

    Args:
        radius: of the object, in pixels.
        generator: source of the weights.
        scale: typical size of v̂ (at 0 it is the density's integral); the network itself starts at about 0.03.
        k_max: v̂ is zero beyond it, radians per pixel. Give the largest frequency that is fitted; otherwise whatever
            the network is beyond it fills the corners of :meth:`to_grid`.
        latent: length of a latent vector z_v given beside the points (section 2.3.2); :meth:`given` fixes one.
        width: number of even units of each layer, and of odd ones: 128 of each are the source's 256.

    Raises:
        InputError: if the radius is not positive; at a call, if the latent vector is missing or of another length.
    """

    def __init__(
        self,
        radius: float,
        generator: torch.Generator,
        *,
        scale: float = 1.0,
        k_max: float = math.inf,
        latent: int = 0,
        width: int = 128,
    ) -> None:
        super().__init__()
        if not radius > 0:
            raise InputError(f"the object's radius must be positive, not {radius:g} pixels")
        self.scale, self.k_max, self.latent = scale, k_max, latent
        # Half the radius: the layers after the first multiply frequencies, and from the whole radius fits were worse.
        self.amplitude = _ParityNetwork(radius / 2, latent, 3, width, generator)
        self.phase = _ParityNetwork(radius / 2, latent, 2, width, generator)

    def zero_(self) -> "FourierNet":
        """Make the volume zero, and return it: only the last layer of a, so that it can grow from there (3.11)."""
        for last in (self.amplitude.even_out, self.amplitude.odd_out, self.amplitude.bias):
            nn.init.zeros_(last)
        return self

    def given(self, latent: Float[Tensor, "l"]) -> "ConditionedFourierNet":
        """The volume of one latent vector."""
        return ConditionedFourierNet(self, latent)

    def fourier(
        self, points: Float[Tensor, "... 3"], latent: Float[Tensor, "l"] | None = None
    ) -> Complex[Tensor, "..."]:
        """``v̂(k)`` at frequency vectors in radians per pixel, in the network's precision; dtype follows ``points``.

        Raises:
            InputError: if the latent vector is missing or of another length.
        """
        own = self.amplitude.bias
        z = own.new_zeros(0) if latent is None else latent.to(own.dtype)
        if len(z) != self.latent:
            raise InputError(f"this network takes a latent vector of {self.latent} numbers, not {len(z)}; give it one")
        flat = points.reshape(-1, 3).to(own.dtype)
        (even, odd), (envelope, phase) = self.amplitude(flat, z), self.phase(flat, z)
        values = torch.complex(even, odd) * torch.polar(self.scale * torch.exp(envelope), phase)
        # Rotated to any direction, a frequency of length k_max is still inside.
        values = torch.where(flat.norm(dim=-1) <= self.k_max * (1 + 1e-6), values, 0)
        return values.reshape(points.shape[:-1]).to(points.dtype.to_complex())

    def to_grid(self, n: int, latent: Float[Tensor, "l"] | None = None) -> Float[Tensor, "n n n"]:
        """Density on an n³ grid in (z, y, x) order, from v̂ at the grid's own frequencies.

        Raises:
            InputError: if the latent vector is missing or of another length.
        """
        points = frequency_vectors(n, 3).to(self.amplitude.bias).reshape(-1, 3)
        spectrum = torch.cat([self.fourier(part, latent) for part in points.split(_POINTS_AT_ONCE)])
        return centred_ifft(spectrum.reshape(n, n, n) / n**1.5, ndim=3).real


@dataclass(frozen=True, eq=False)
class ConditionedFourierNet:
    """A :class:`FourierNet` with its latent vector: a :class:`Volume`."""

    net: FourierNet
    latent: Float[Tensor, "l"]

    def fourier(self, points: Float[Tensor, "... 3"]) -> Complex[Tensor, "..."]:
        """``v̂(k)`` at frequency vectors in radians per pixel."""
        return self.net.fourier(points, self.latent)

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        """Density on an n³ grid in (z, y, x) order."""
        return self.net.to_grid(n, self.latent)
