"""MoM-net's encoder ξ_θ (3.8) for moments on the polar grid: volume, density of views and spread of shifts.

It works at one bandwidth and in units of the ball that holds the particle, so that one network serves images of any
size: a particle of twice the pixels has the same moments at half the frequencies.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.inference.batched_moments import BatchedMoments
from orbitrec.inference.moments import Moments, bounded_spread
from orbitrec.models.cryoem import PolarProjector
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume, real_spherical_harmonics

_TOLERANCE = 1e-5
"""Of the largest variance of a moment's coordinates, what the compression leaves out."""
_FLOOR = 3e-4
"""Of the largest deviation, added to all: what is smaller is noise in practice."""


@dataclass(frozen=True)
class Setting:
    """What a network is made for: 15 × 15 images up to Nyquist (section 3.4.1), and what is the same at other sizes.

    Attributes:
        box: image edge in pixels.
        radius: of the ball that holds the particle, pixels.
        bandwidth: of the volume, ``radius · k_max``: a little above the images', which is ``π radius``, since what lies
            just beyond the band reaches into it.
        radial_nodes: of the polar grid.
        max_mode: of the polar grid. Shifts leave little above.
        view_degree: of the design of viewing directions; 13 has the thesis's 100 points.
        density_degree: largest degree of the log density of views, a polynomial on the sphere.
        largest_shift_px: η_max.
    """

    box: int = 15
    radius: float = 0.3125 * 15
    bandwidth: float = 16.0
    radial_nodes: int = 16
    max_mode: int = 14
    view_degree: int = 13
    density_degree: int = 8
    largest_shift_px: float = 4 / 3

    @cached_property
    def grid(self) -> PolarGrid:
        """Where the moments live."""
        return PolarGrid(self.box, math.pi, self.radial_nodes, self.max_mode)

    @cached_property
    def basis(self) -> SphericalBesselBasis:
        """What z_v are coefficients of."""
        return SphericalBesselBasis(self.radius, self.bandwidth / self.radius)

    @cached_property
    def directions(self) -> Float[Tensor, "d 3"]:
        """Q: the viewing directions, in antipodal pairs."""
        return spherical_design(self.view_degree)

    @cached_property
    def moments(self) -> BatchedMoments:
        """The forward map (3.12), in float32."""
        return BatchedMoments(PolarProjector(self.basis, self.grid, self.directions))

    def harmonics(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d h"]:
        """What z_ρ are coefficients of: harmonics without the constant, of mean square 1."""
        return real_spherical_harmonics(directions, self.density_degree)[:, 1:] * math.sqrt(4 * math.pi)

    def grid_for(self, box: int, radius: float) -> PolarGrid:
        """The grid on which images of another size have the same moments.

        Raises:
            InputError: if the images do not reach the network's resolution.
        """
        k_max = math.pi * self.radius / radius
        if k_max > math.pi * (1 + 1e-9):
            raise InputError(
                f"this network needs a particle of at least {self.radius:g} px radius, not {radius:g}; use images less "
                "binned, or a smaller --diameter would not do: it is the sampling that is missing"
            )
        return PolarGrid(box, min(k_max, math.pi), self.radial_nodes, self.max_mode)

    def volume(self, coefficients: Float[Tensor, "p"], radius: float) -> SphericalBesselVolume:
        """The volume of coefficients found from moments of images in which the particle's ball has ``radius`` px."""
        basis = SphericalBesselBasis(radius, self.bandwidth / radius)
        # An orthonormal function's transform goes with radius^{3/2}, polar coordinates with frequency.
        return SphericalBesselVolume(basis, coefficients.double() * math.sqrt(self.radius / radius))


@dataclass(frozen=True, eq=False)
class Estimate:
    """``(z_v, z_ρ, η̂)`` of a batch: coefficients, harmonics of the log density, pixels of the setting."""

    coefficients: Float[Tensor, "b p"]
    log_density: Float[Tensor, "b h"]
    shift_px: Float[Tensor, "b"]

    def density(self, harmonics: Float[Tensor, "d h"]) -> Float[Tensor, "b d"]:
        """Probabilities of the directions whose harmonics are given, summing to 1."""
        return torch.softmax(self.log_density @ harmonics.to(self.log_density).mT, dim=1)

    def double(self) -> "Estimate":
        """The same in float64."""
        return Estimate(self.coefficients.double(), self.log_density.double(), self.shift_px.double())


class _Compression(nn.Module):
    """Moments as a few hundred numbers of unit variance: each block on its leading radial functions.

    Images of a band-limited particle have far fewer degrees of freedom than the grid has nodes. The functions are the
    eigenvectors of the family's mean second moment; means and deviations of what remains are the family's too.
    """

    def __init__(self, modes: int, nodes: int, kept: tuple[int, ...]) -> None:
        super().__init__()
        self.kept = kept
        self.register_buffer("functions", torch.zeros(modes, nodes, max(kept)))
        first = kept[0]
        size = first + first * (first + 1) // 2 + sum(r * r for r in kept[1:])
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    functions: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, moments: Moments, tolerance: float) -> "_Compression":
        """Functions that hold all but ``tolerance`` of the family's largest variance."""
        values, vectors = torch.linalg.eigh(moments.second.real.mean(0))
        values, vectors = values.flip(1), vectors.flip(2)
        kept = tuple(max(1, int((v > tolerance * values.max()).sum())) for v in values)
        new = cls(len(values), values.shape[1], kept)
        for m, r in enumerate(kept):
            new.functions[m, :, :r] = vectors[m, :, :r]
        numbers = new.raw(moments)
        deviation = numbers.std(0)
        new.mean, new.deviation = numbers.mean(0), deviation + _FLOOR * deviation.max()
        return new

    def raw(self, moments: Moments) -> Float[Tensor, "b f"]:
        """Numbers before they are brought to unit variance."""
        parts = [moments.first[:, 0].real @ self.functions[0, :, : self.kept[0]]]
        blocks = self.functions.mT.to(moments.second.dtype) @ moments.second @ self.functions.to(moments.second.dtype)
        for m, r in enumerate(self.kept):
            rows, columns = torch.triu_indices(r, r)
            block = blocks[:, m, rows, columns]
            parts.append(block.real)
            if m > 0:  # mode 0 of real images is real
                parts.append(block.imag[:, rows != columns])
        return torch.cat(parts, dim=1)

    def forward(self, moments: Moments) -> Float[Tensor, "b f"]:
        """Standardised numbers."""
        return (self.raw(moments) - self.mean) / self.deviation


class _Residual(nn.Module):
    """``x + W₂ silu(W₁ norm(x))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "b w"]) -> Float[Tensor, "b w"]:
        return x + self.body(x)


class MomNet(nn.Module):
    """Compressed moments through a residual network of full layers.

    Moments come at any scale and are brought to unit power, so that scaling the volume scales z_v.

    Args:
        setting: bandwidth, grid, directions.
        kept: radial functions of each mode that the network sees.
        width: units of its layers.
        blocks: residual blocks of two layers.
    """

    def __init__(self, setting: Setting, kept: tuple[int, ...], width: int, blocks: int = 3) -> None:
        super().__init__()
        self.setting = setting
        self.compression = _Compression(setting.max_mode + 1, setting.radial_nodes, kept)
        p, h = len(setting.basis), (setting.density_degree + 1) ** 2 - 1
        self.sizes = [p, h, 1]
        self.register_buffer("scale", torch.ones(p))
        last = nn.Linear(width, sum(self.sizes))
        layers = (_Residual(width) for _ in range(blocks))
        self.body = nn.Sequential(nn.Linear(len(self.compression.mean), width), *layers, nn.LayerNorm(width), last)

    scale: Tensor

    @classmethod
    def for_family(cls, setting: Setting, moments: Moments, coefficients: Float[Tensor, "b p"], width: int) -> "MomNet":
        """An untrained network fit to look at moments like these and to answer with coefficients like these."""
        power = _power(moments)
        compression = _Compression.of(_scaled(moments, power), _TOLERANCE)
        net = cls(setting, compression.kept, width)
        net.compression = compression
        net.scale = (coefficients / power.sqrt()[:, None]).square().mean(0).sqrt()
        return net

    @property
    def kept(self) -> tuple[int, ...]:
        """Radial functions of each mode that the network sees."""
        return self.compression.kept

    def forward(self, moments: Moments) -> Estimate:
        """``(z_v, z_ρ, η̂)`` of a batch of moments on the setting's grid, in the weights' precision."""
        dtype = self.scale.dtype
        kind = dtype.to_complex()
        moments = Moments(moments.first.to(kind), moments.second.to(kind), moments.weights.to(dtype))
        power = _power(moments)
        answer = self.body(self.compression(_scaled(moments, power)))
        volume, density, shift = answer.split(self.sizes, dim=1)
        return Estimate(
            volume * self.scale * power.sqrt()[:, None],
            density,
            bounded_spread(shift[:, 0], self.setting.largest_shift_px),
        )


def _power(moments: Moments) -> Float[Tensor, "b"]:
    """Mean energy of an image."""
    return moments.second.diagonal(dim1=-2, dim2=-1).real.sum((-2, -1)).clamp(min=torch.finfo(torch.float32).tiny)


def _scaled(moments: Moments, power: Float[Tensor, "b"]) -> Moments:
    first = moments.first / power.sqrt()[:, None, None]
    return Moments(first, moments.second / power[:, None, None, None], moments.weights)
