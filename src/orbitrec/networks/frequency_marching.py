"""Frequency marching: the closed-form inversion of the moments (2.3) that the structured encoder starts from."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MarchedCoefficients:
    """Fourier coefficients k = 0 … (n − 1)//2 in the frame where v̂(1) and ρ̂(1) are positive, and how sure they are.

    Attributes:
        signal: ``v̂(k)``, unitary.
        signal_certainty: its inverse variance.
        density: the inverse-variance weighted sum of all estimates of ``ρ̂(q)``: divide by ``density_certainty``.
        density_certainty: sum of the weights, the inverse variance of ``ρ̂(q)``.
        angle: α, which brings the density back into the observations' frame, ``ρ̂(q) e^{iqα}``.
    """

    signal: Complex[Tensor, "b h"]
    signal_certainty: Float[Tensor, "b h"]
    density: Complex[Tensor, "b h"]
    density_certainty: Float[Tensor, "b h"]
    angle: Float[Tensor, "b"]


def march_frequencies(
    first: Complex[Tensor, "b n"],
    second: Complex[Tensor, "b n n"],
    sigma: Float[Tensor, "b"],
    count: Float[Tensor, "b"],
) -> MarchedCoefficients:
    """Invert the moments of a signal of unit mean square: exact where they are and no ``v̂(k)`` on the way vanishes.

    The diagonal of M² is |v̂|², and its subdiagonal ``v̂(k + 1) ρ̂(1) conj v̂(k)`` gives the phase of v̂(k + 1) from that
    of v̂(k), since the common shift can be chosen so that ρ̂(1) > 0. With v̂ known every entry of M¹ and M² estimates one
    ρ̂(q). Entries are weighted by the inverse variance that noise of level σ leaves after N observations: σ²/N for M¹,
    ``(σ²(|v̂(k)|² + |v̂(k')|²) + σ⁴)/N`` for M².

    Args:
        first: M¹ (2.3), the zero frequency at index n // 2.
        second: M² (2.3), likewise.
        sigma: noise level of the observations; 0 where moments are exact.
        count: number of observations; infinite where moments are exact.

    Returns:
        Coefficients of signal and density, and their inverse variances.
    """
    n = first.shape[1]
    half = (n - 1) // 2  # the Nyquist mode of an even n is left out
    origin, modes = n // 2, torch.arange(half + 1, device=first.device)
    angle = first[:, origin + 1].angle()
    back = torch.exp(-1j * angle[:, None] * modes)
    first = first[:, origin : origin + half + 1] * back
    power = second.diagonal(dim1=1, dim2=2).real[:, origin : origin + half + 1].clamp(min=0)
    step = torch.sgn(second[:, origin + modes[1:], origin + modes[:-1]] * back[:, 1:2])
    phase = torch.cumprod(torch.cat([torch.ones_like(step[:, :1]), step], dim=1), dim=1)
    signal = power.sqrt() * phase

    rounding = (100 * torch.finfo(power.dtype).eps) ** 2
    noise = sigma.square()[:, None]
    left, right, hop, twins = (x.to(first.device) for x in _pairs(half))
    variance = (noise * (power[:, left.abs()] + power[:, right.abs()]) + noise.square()) / count[:, None] + rounding
    weight = twins.to(variance) / variance
    both = torch.cat([signal, signal[:, 1:].flip(1).conj()], dim=1)  # negative modes by negative indices
    product = both[:, left] * both[:, right].conj()
    entries = second[:, origin + left, origin + right] * back[:, hop]
    select = (hop[:, None] == modes).to(entries)
    first_weight = 1 / (noise / count[:, None] + rounding)
    density = (weight * entries * product.conj()) @ select + first_weight * first * signal.conj()
    density_certainty = (weight * product.abs().square()) @ select.real + first_weight * power

    # |v̂|² is known with this variance; where it vanishes, |v̂| is still known to be small.
    variance = (2 * noise * power + noise.square()) / count[:, None] + rounding
    certainty = 4 * power / variance + variance.rsqrt()
    return MarchedCoefficients(signal, certainty, density, density_certainty, angle)


def _pairs(half: int) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"], Int[Tensor, "p"], Int[Tensor, "p"]]:
    """Entries (k, k') of the second moment of a real signal that are different: their k, k', k − k', and number.

    (k, k'), (−k', −k) and their conjugates (k', k), (−k, −k') say the same. Kept are those with k ≥ k' and k + k' ≥ 0;
    of their twins only (−k', −k) has the same hop.
    """
    k = torch.arange(-half, half + 1)
    left, right = (x.flatten() for x in torch.meshgrid(k, k, indexing="ij"))
    hop = left - right
    kept = (hop >= 0) & (hop <= half) & (left + right >= 0)
    return left[kept], right[kept], hop[kept], 1 + (left + right > 0)[kept].long()


def from_half(
    coefficients: Complex[Tensor, "b h"], n: int, origin: int = 0, *, unitary: bool = True
) -> Float[Tensor, "b n"]:
    """Real samples from coefficients k = 0 … (n − 1)//2.

    Args:
        coefficients: of a real function.
        n: number of samples.
        origin: index of the origin.
        unitary: whether the coefficients are of the unitary transform, as a signal's are and a density's are not.

    Returns:
        The samples.
    """
    samples = torch.fft.irfft(coefficients, n=n) * (math.sqrt(n) if unitary else 1)
    return torch.roll(samples, origin, dims=1)
