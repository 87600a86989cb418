"""One resolution of a classification: the images' grid, the averages' basis, and the averages in it."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import GaussianPrior
from orbitrec.models.base import Circle
from orbitrec.models.planar import FourierBesselBasis, PlanarProjector

PRIOR_FACTOR = 2.0
"""Prior variance of a coefficient over the mean square of coefficients at its frequency: averages then keep no
frequency at which they have less signal than noise. RELION's regularisation parameter T has the same value."""


@dataclass(frozen=True, eq=False)
class ClassAverages:
    """The unknowns of a classification.

    Attributes:
        coefficients: (p,) of all averages, as :class:`orbitrec.models.planar.PlanarProjector` has them.
        log_weights: (d,) log share of the particles that each class has; the shares sum to 1.
    """

    coefficients: Float[Tensor, "p"]
    log_weights: Float[Tensor, "d"]


@dataclass(frozen=True, eq=False)
class ClassLevel:
    """Projector and circle for one resolution, of ``bandwidth`` = radius · k_max."""

    bandwidth: float
    projector: PlanarProjector
    circle: Circle

    @classmethod
    def at(cls, grid: PolarGrid, radius: float, bandwidth: float, classes: int) -> "ClassLevel":
        """The level of a bandwidth B, with about 2.4 B in-plane angles.

        Args:
            grid: the images' polar grid; the level has its part below the bandwidth.
            radius: of the averages' disc, in pixels.
            bandwidth: radius · k_max.
            classes: how many averages.

        Returns:
            Projector and circle.
        """
        part = grid.truncated(bandwidth / radius, radius)
        basis = FourierBesselBasis(radius, float(part.nodes[-1]))
        return cls(
            bandwidth,
            PlanarProjector(basis, part, classes),
            Circle(torch.arange(basis.max_mode + 1), 2 * math.ceil(1.2 * bandwidth)),
        )

    @property
    def basis(self) -> FourierBesselBasis:
        """The averages' basis."""
        return self.projector.basis

    @property
    def grid(self) -> PolarGrid:
        """The images' polar grid."""
        return self.projector.grid

    def unknowns(self, averages: ClassAverages) -> Float[Tensor, "p_plus_d"]:
        """The averages as a solver's vector: coefficients, then log weights (float64)."""
        return torch.cat([averages.coefficients, averages.log_weights]).double()

    def averages(self, unknowns: Float[Tensor, "p_plus_d"]) -> ClassAverages:
        """The averages of a solver's vector."""
        parts = unknowns.to(self.projector.dtype).split([self.projector.dimension, self.projector.classes])
        return ClassAverages(*parts)

    def observations(
        self,
        data: ParticleModes,
        rows: Int[Tensor, "b"],
        centres: Float[Tensor, "b 2"],
        shifts: Float[Tensor, "s 2"],
        log_shift: Float[Tensor, "s"],
    ) -> Observations:
        """Some particles, moved back by their centres and by every shift, in the modes that averages have.

        Args:
            data: the particles.
            rows: (b,) their indices.
            centres: (b, 2) displacement (x, y) of the content of each, in pixels.
            shifts: (s, 2) further displacements, over which the likelihood is marginalised.
            log_shift: (s,) their log probabilities.

        Returns:
            The observations.
        """
        moved = data.observations(rows, self.grid, centres, shifts, log_shift)
        modes = moved.modes[:, :, : self.basis.max_mode + 1]
        return Observations(modes, moved.ctf2_over_noise, moved.log_shift, moved.log_outlier)

    def prolongated(self, averages: ClassAverages, to: "ClassLevel") -> ClassAverages:
        """The same averages on a finer level."""
        finer = self.basis.embedded(self.projector.complex(averages.coefficients), to.basis)
        return ClassAverages(to.projector.real(finer), averages.log_weights)

    def images(self, averages: ClassAverages, n: int) -> Float[Tensor, "d n n"]:
        """The averages as images (y, x) of n × n pixels."""
        return self.basis.images(self.projector.complex(averages.coefficients), n)

    def prior_variance(self, coefficients: Complex[Tensor, "d c"]) -> Float[Tensor, "d c"]:
        """Prior variance of the real and the imaginary part of every coefficient.

        It is :data:`PRIOR_FACTOR` times the mean square of coefficients at neighbouring frequencies, of all classes:
        were it that of each class alone, weak classes would fade, and the others grow at their cost.
        """
        square = coefficients.abs().square() / torch.where(self.basis.mode > 0, 2.0, 1.0)
        power = self.shell_mean(square.mean(0, keepdim=True))
        return PRIOR_FACTOR * power.clamp(min=torch.finfo(power.dtype).tiny).expand(len(square), -1)

    def shell_mean(self, values: Float[Tensor, "d c"]) -> Float[Tensor, "d c"]:
        """The mean of values at neighbouring frequencies, for each coefficient."""
        return values @ self._shell_average.to(values.dtype).mT

    @cached_property
    def _shell_average(self) -> Float[Tensor, "c c"]:
        frequency, mode = self.basis.zero, self.basis.mode
        kernel = torch.exp(-0.5 * ((frequency[:, None] - frequency) / (0.35 * math.pi)).square())
        kernel = kernel * torch.where(mode > 0, 2.0, 1.0)  # a real and an imaginary part
        return (kernel / kernel.sum(1, keepdim=True)).to(self.projector.dtype)


@dataclass(frozen=True, eq=False)
class ClassPowerPrior:
    """Every M-step takes the prior variances from the power that the averages then have at each frequency.

    Averages then grow only gradually, as :class:`orbitrec.cryoem.search.level.ShellPowerPrior` has it for volumes.
    """

    level: ClassLevel

    def precision(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """One over :meth:`ClassLevel.prior_variance`."""
        projector = self.level.projector
        variance = self.level.prior_variance(projector.complex(w.to(projector.dtype)))
        return 1 / projector.real(torch.complex(variance, variance)).double()

    def energy(self, w: Float[Tensor, "p"]) -> float:
        """Zero: that of an average with its own power is the same for all of them."""
        return 0.0

    def fixed(self, w: Float[Tensor, "p"]) -> GaussianPrior:
        """The prior with the variances that w gives, for an objective that must not change."""
        return GaussianPrior(self.precision(w))
