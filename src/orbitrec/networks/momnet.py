"""MoM-net's encoder ξ_θ (3.8) for moments on the polar grid: volume, density of views and spread of shifts.

It works at one bandwidth and in units of the ball that holds the particle, so that one network serves images of any
size: a particle of twice the pixels has the same moments at half the frequencies.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.densities.harmonic import probabilities_on_nodes
from orbitrec.errors import InputError
from orbitrec.geometry.harmonics import degree_of, harmonic_count, nonconstant_harmonics, order_of
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.analytic import Moments, bounded_spread
from orbitrec.moments.batched import BatchedMoments
from orbitrec.moments.losses import kam_loss
from orbitrec.networks.base import StoredNetwork
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

_VIEW_UNIT = 0.1
"""Of the log density's harmonics: outputs of size 1 would be a single view, from which no gradient leads away."""


@dataclass(frozen=True)
class MomNetSetting:
    """The images that a network is made for, 15 × 15 up to Nyquist (section 3.4.1), and the sizes of its answers.

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
        return nonconstant_harmonics(directions, self.density_degree)

    @cached_property
    def reflections(self) -> Float[Tensor, "eight p"]:
        """Signs of the coefficients under reflections of x, y and z, in all eight combinations.

        Half of them are rotations by 180°, which moments do not see if the views rotate too; the others are the same
        for the other handedness, which moments do not see either.
        """
        return _reflected_signs(self.basis.lm)[0]

    @cached_property
    def view_rotations(self) -> Float[Tensor, "eight h"]:
        """Signs of z_ρ that go with :attr:`reflections`: of the rotation that is left when handedness is set aside."""
        return _reflected_signs(torch.arange(1, harmonic_count(self.density_degree)))[1]

    def kam_losses(self, moments: Moments, estimate: "MomNetEstimate") -> Float[Tensor, "b"]:
        """(3.13) of every problem of a batch."""
        density = estimate.density(self.harmonics(self.directions))
        return kam_loss(moments, self.moments(estimate.coefficients, density, estimate.shift_px))

    def grid_for(self, box: int, radius: float) -> PolarGrid:
        """The grid on which images of another size have the same moments.

        Raises:
            InputError: if the images do not reach the network's resolution.
        """
        k_max = math.pi * self.radius / radius
        if k_max > math.pi * (1 + 1e-9):
            raise InputError(
                f"this network needs a particle of at least {self.radius:g} px radius, not {radius:g}; use images that "
                "are less binned"
            )
        return PolarGrid(box, min(k_max, math.pi), self.radial_nodes, self.max_mode)

    def volume(self, coefficients: Float[Tensor, "p"], radius: float) -> SphericalBesselVolume:
        """The volume of coefficients found from moments of images in which the particle's ball has ``radius`` px."""
        basis = SphericalBesselBasis(radius, self.bandwidth / radius)
        # An orthonormal function's transform goes with radius^{3/2}, polar coordinates with frequency.
        return SphericalBesselVolume(basis, coefficients.double() * math.sqrt(self.radius / radius))


def _reflected_signs(lm: Int[Tensor, "n"]) -> tuple[Float[Tensor, "eight n"], Float[Tensor, "eight n"]]:
    """Signs of harmonics ``l² + l + m`` under reflections of x, y, z, and under the rotations that go with them.

    An odd number of reflections is a rotation and the reflection in the origin, of sign ``(−1)^l``.
    """
    degree, order = degree_of(lm), order_of(lm)
    odd = torch.stack([order + (order < 0), (order < 0).long(), degree + order])  # in x, y, z
    which = torch.cartesian_prod(*3 * [torch.arange(2)])
    flips = which @ odd
    rotations = flips + which.sum(1, keepdim=True) * degree
    return (1 - 2 * (flips % 2)).float(), (1 - 2 * (rotations % 2)).float()


@dataclass(frozen=True, eq=False)
class MomNetEstimate:
    """``(z_v, z_ρ, η̂)`` of a batch: coefficients, harmonics of the log density, pixels of the setting."""

    coefficients: Float[Tensor, "b p"]
    log_density: Float[Tensor, "b h"]
    shift_px: Float[Tensor, "b"]

    def density(self, harmonics: Float[Tensor, "d h"]) -> Float[Tensor, "b d"]:
        """Probabilities of the directions whose harmonics are given, summing to 1."""
        return probabilities_on_nodes(self.log_density, harmonics)

    def double(self) -> "MomNetEstimate":
        """The same in float64."""
        return MomNetEstimate(self.coefficients.double(), self.log_density.double(), self.shift_px.double())

    @classmethod
    def chosen(cls, among: "list[MomNetEstimate]", costs: Float[Tensor, "k b"]) -> "MomNetEstimate":
        """Of every problem the estimate of least cost."""
        best, each = costs.argmin(0), torch.arange(costs.shape[1])
        parts = ((e.coefficients, e.log_density, e.shift_px) for e in among)
        return cls(*(torch.stack(part)[best, each] for part in zip(*parts, strict=True)))


class MomNet(StoredNetwork):
    """What any encoder ξ_θ of cryo-EM shares.

    Moments come at any scale and are brought to unit power, so that scaling the volume scales z_v. Two moments leave a
    choice, at least that of the handedness, and the mean of what they leave explains them badly. So an encoder may make
    several proposals, and its answer is the one whose own moments are nearest to those it was given.

    Args:
        setting: bandwidth, grid, directions.
    """

    def __init__(self, setting: MomNetSetting) -> None:
        super().__init__()
        self.setting = setting
        self.sizes = [len(setting.basis), harmonic_count(setting.density_degree) - 1, 1]
        self.register_buffer("scale", torch.ones(self.sizes[0]))

    scale: Tensor

    @abstractmethod
    def answers(self, moments: Moments) -> Float[Tensor, "b proposals outputs"]:
        """Coefficients over :attr:`scale`, harmonics of the log density in tenths, and a spread of shifts, unbounded.

        Args:
            moments: a batch of unit power, in the weights' precision.
        """

    def proposals(self, moments: Moments) -> list[MomNetEstimate]:
        """All answers to a batch of moments on the setting's grid, in the weights' precision."""
        moments = self._converted(moments)
        power = power_of(moments)
        estimates = []
        for answer in self.answers(scaled(moments, power)).unbind(1):
            volume, density, shift = answer.split(self.sizes, dim=1)
            spread = bounded_spread(shift[:, 0], self.setting.largest_shift_px)
            coefficients = volume * self.scale * power.sqrt()[:, None]
            estimates.append(MomNetEstimate(coefficients, _VIEW_UNIT * density, spread))
        return estimates

    def forward(self, moments: Moments) -> MomNetEstimate:
        """``(z_v, z_ρ, η̂)`` of a batch: of every problem the proposal of least Kam loss."""
        proposals = self.proposals(moments)
        if len(proposals) == 1:
            return proposals[0]
        with torch.no_grad():
            converted = self._converted(moments)
            losses = torch.stack([self.setting.kam_losses(converted, proposal) for proposal in proposals])
        return MomNetEstimate.chosen(proposals, losses)

    def _converted(self, moments: Moments) -> Moments:
        """In the weights' precision."""
        kind = self.scale.dtype.to_complex()
        return Moments(moments.first.to(kind), moments.second.to(kind), moments.weights.to(self.scale.dtype))


def power_of(moments: Moments) -> Float[Tensor, "b"]:
    """Mean energy of an image, of each problem of a batch."""
    return moments.second.diagonal(dim1=-2, dim2=-1).real.sum((-2, -1)).clamp(min=torch.finfo(torch.float32).tiny)


def scaled(moments: Moments, power: Float[Tensor, "b"]) -> Moments:
    """Moments of images of so much less power."""
    first = moments.first / power.sqrt()[:, None, None]
    return Moments(first, moments.second / power[:, None, None, None], moments.weights)
