"""First and second moments of templates, what Gaussian shifts do to them, and their one-pass estimate from data.

The M·K coordinates (m, k) fall into blocks between which the second moment vanishes. In general there is one block of
them all; where the in-plane angle is uniform every circular mode m is its own block and only m = 0 has a first moment.
So both forms are one stack of Hermitian matrices, and everything on top of :class:`Moments` is written once.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.base import Circle, circular_coefficients


@dataclass(frozen=True, eq=False)
class Moments:
    """``first[b, i] = E Y`` and ``second[b, i, j] = E Y Y*`` of the coordinates of each block b.

    ``weights[b]`` is what the squared norm of block b counts in the Frobenius norm of the whole second moment: 1, or
    ½ for the blocks m > 0 of real images, whose twin −m is not kept (``c_m⁻²``, :class:`PolarGrid`). Leading axes, if
    any, are a batch of problems.
    """

    first: Complex[Tensor, "*batch b i"]
    second: Complex[Tensor, "*batch b i i"]
    weights: Float[Tensor, "b"]

    def first_norm(self) -> Float[Tensor, "*batch"]:
        """Euclidean norm of the first moment."""
        return self.first.abs().square().sum((-2, -1)).sqrt()

    def second_norm(self) -> Float[Tensor, "*batch"]:
        """Frobenius norm of the whole second moment."""
        return (self.weights * self.second.abs().square().sum((-2, -1))).sum(-1).sqrt()

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.first - other.first, self.second - other.second, self.weights)


def full_moments(
    templates: Complex[Tensor, "*batch d m k"], density: Float[Tensor, "*batch d a"], circle: Circle
) -> Moments:
    """Moments (2.3), (2.8) for any density on directions and angles, as one block of m·k coordinates.

    ``M¹[m, k] = Σ_d ρ̂_d(m) T[d, m, k]``, ``M²[mk, m'k'] = Σ_d ρ̂_d(m − m') T[d, m, k] conj(T[d, m', k'])`` with the
    Fourier coefficients ρ̂_d of the density. The second factor is conjugated, as (2.2) has it.

    Args:
        templates: one for each direction.
        density: probabilities of directions and angles, summing to 1.
        circle: the integer order of each mode, and the angles. A polar grid's modes m ≥ 0 hold all of a uniform
            angle's second moment; for a non-uniform angle give the modes −M … M of a real image.
    """
    single = circular_coefficients(density, circle.modes).to(templates.dtype)
    first = torch.einsum("...dm,...dmk->...mk", single, templates).flatten(-2)
    pairs = circular_coefficients(density, circle.modes[:, None] - circle.modes).to(templates.dtype)
    second = torch.einsum("...dmn,...dmk,...dnl->...mknl", pairs, templates, templates.conj())
    second = second.flatten(-4, -3).flatten(-2)
    return Moments(first[..., None, :], second[..., None, :, :], first.real.new_ones(1))


def uniform_moments(templates: Complex[Tensor, "d m k"], density: Float[Tensor, "d"], grid: PolarGrid) -> Moments:
    """Moments of real images on a polar grid whose in-plane angle is uniform: one block for each mode.

    ``M¹[0, k] = Σ_d ρ_d T[d, 0, k]`` and ``M²[m, k, k'] = Σ_d ρ_d T[d, m, k] conj(T[d, m, k'])``.

    Args:
        templates: polar templates, one for each direction.
        density: probabilities of the directions, summing to 1.
        grid: the templates' grid.
    """
    by_mode = templates.transpose(0, 1)
    weighted = density.to(templates.real.dtype)[:, None] * by_mode
    first = torch.cat([weighted[:1].sum(1), torch.zeros_like(templates[0, 1:])])
    return Moments(first, weighted.mT @ by_mode.conj(), grid.mode_weights.pow(-2).to(first.real.dtype))


def antipodal_moments(templates: Complex[Tensor, "m h k"], density: Float[Tensor, "d"], grid: PolarGrid) -> Moments:
    """:func:`uniform_moments` from the templates of half of the directions, modes first; the rest are their antipodes.

    ``T[−d, m] = (−1)^m conj T[d, m]``, so what both directions share weighs real parts of the products, and what sets
    them apart weighs imaginary parts.

    Args:
        templates: of the first half of the directions.
        density: probabilities of all directions, direction ``i + d/2`` being minus direction i; they sum to 1.
        grid: the templates' grid.
    """
    half = templates.shape[1]
    even, odd = (density[:half] + density[half:])[:, None], (density[:half] - density[half:])[:, None]
    a, b = templates.real, templates.imag
    cross = (odd * b).mT @ a
    second = torch.complex((even * a).mT @ a + (even * b).mT @ b, cross - cross.mT)
    first = torch.complex((even * a[:1]).sum(1), (odd * b[:1]).sum(1))
    rest = torch.zeros(len(a) - 1, a.shape[2], dtype=first.dtype)
    return Moments(torch.cat([first, rest]), second, grid.mode_weights.pow(-2).to(a.dtype))


def bounded_spread(free: Float[Tensor, "*batch"], largest: float) -> Float[Tensor, "*batch"]:
    """A standard deviation of shifts η in (0, η_max) from a free parameter: ``η_max / (1 + e^{−x})`` (3.8)."""
    return largest * torch.sigmoid(free)


def shifted_uniform_moments(moments: Moments, grid: PolarGrid, sigma: Float[Tensor, "*batch"]) -> Moments:
    """Block moments after Gaussian shifts of standard deviation ``sigma`` pixels in x and in y (3.6), (3.7).

    The first moment is damped by ``exp(−η²k²/2)``. The second is multiplied by ``exp(−η²‖k − k'‖²/2)``, a function of
    Δ = φ − φ': over m it convolves the blocks with ``exp(−η²(k² + k'²)/2) I_q(η²kk')``. That is done on the circle of
    Δ, where the second moment ``Σ_m M²[m] e^{imΔ}`` is real, since block −m of real images is the conjugate of block m.
    Blocks above the largest mode are taken as zero. A batch of problems has a batch of spreads, or one for all.
    """
    k = grid.nodes.to(moments.weights)
    variance = sigma.to(k).square()[..., None, None, None]
    # I_q(x) e^{−x} is below 1e-16 beyond q ≈ 9√x + 12: so many modes past M must not alias into the kept ones.
    tail = math.ceil(9 * float(sigma.detach().max()) * float(k[-1])) + 12
    count = 2 * grid.max_mode + 2 * (tail // 2 + 1)
    delta = 2 * math.pi * torch.arange(count, dtype=k.dtype, device=k.device) / count
    square = k[:, None].square() + k.square() - 2 * k[:, None] * k * delta.cos()[:, None, None]
    scale = moments.weights[:, None, None]  # kept blocks hold c_m² times the mode's own second moment
    on_circle = torch.fft.irfft(moments.second * scale, n=count, dim=-3, norm="forward")
    second = torch.fft.rfft(on_circle * torch.exp(-variance * square / 2), dim=-3, norm="forward")
    first = moments.first * torch.exp(-variance[..., 0] * k.square() / 2)
    return Moments(first, second[..., : grid.max_mode + 1, :, :] / scale, moments.weights)


def shifted_cartesian_moments(
    moments: Moments, points: Float[Tensor, "i 2"], sigma: Float[Tensor, "*batch"]
) -> Moments:
    """Moments on Cartesian frequencies (radians per pixel) after Gaussian shifts: the elementwise factors of (3.12)."""
    apart, variance = (points[:, None] - points).square().sum(-1), sigma.to(points).square()[..., None, None]
    return Moments(
        moments.first * torch.exp(-variance * points.square().sum(-1) / 2),
        moments.second * torch.exp(-variance[..., None] * apart / 2),
        moments.weights,
    )


@dataclass(eq=False)
class MomentAccumulator:
    """Sums over observations from which the debiased block moments follow; mergeable, all in float64.

    Observations are images ``X = h·F + noise`` in polar coordinates, with white pixel noise of variance 1 and a radial
    CTF h. Least squares over all of them, with ``Y = h·X`` and the noise's Gram matrix G_m of the grid, gives

        M¹[0, k] = Σ_j Y_j / Σ_j h_j²,     M²[m, k, k'] = (Σ_j Y_j Y_j* − G_m Σ_j h_j h_j') / Σ_j h_j² h_j'².

    The CTF is applied at the nodes and not, as for the likelihood, to the pixels: it spreads the signal over the box,
    and done there once more what leaves one side would come back in at the other. With astigmatism h is the average
    over the circle (:meth:`CTFParameters.radial`), which leaves out that harmonics of the CTF mix modes m and m ± 2.

    Attributes:
        grid: where the modes live.
        first: ``Σ Y[m=0]``, real for real images.
        second: ``Σ Y Y*`` as real part plus imaginary part. One is symmetric and the other antisymmetric, so nothing
            is lost, and sums and products take half of a complex matrix's room and time.
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
        """No observations yet."""
        k, m = grid.node_count, grid.max_mode + 1
        shapes = [(k,), (m, k, k), (k,), (k, k), (k, k)]
        sums = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(grid, *sums, count=torch.zeros((), dtype=torch.long, device=device))

    def update(self, modes: Complex[Tensor, "b m k"], ctf: Float[Tensor, "b k"]) -> None:
        """Add a batch of observations and their radial CTFs (ones where there is none).

        Products are formed in the observations' precision and added in float64: in float32 a batch should hold no more
        than some thousand images.
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

    def below(self, k_max: float, radius: float) -> "MomentAccumulator":
        """The sums on the part of the grid below ``k_max`` for objects of ``radius`` px (:meth:`PolarGrid.below`)."""
        grid = self.grid.below(k_max, radius)
        m, k = slice(grid.max_mode + 1), slice(grid.node_count)
        return MomentAccumulator(
            grid, self.first[k], self.second[m, k, k], self.power[k], self.noise[k, k], self.product[k, k], self.count
        )

    def estimate(self, regularisation: float = 1e-3) -> Moments:
        """Debiased moments; denominators are raised by ``regularisation`` times their mean, for zeros of the CTF.

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
        """Every sum by name: all that defines the accumulator beside its grid."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "grid"}
