"""One resolution of the search: its directions, angles and basis, and the model on them.

Everything scales with the bandwidth ``B = radius · k_max``, the number of Nyquist samples across the particle's radius
(times π): harmonics, circular modes and radial functions stop near B, so directions and angles that resolve degree B
resolve the particle, whatever its size.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.densities.kernel import smoothing_weights
from orbitrec.geometry.asymmetric_unit import spread_directions
from orbitrec.geometry.point_groups import NO_SYMMETRY, PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import design_sizes
from orbitrec.inference.orbit_likelihood import GaussianPrior
from orbitrec.models.base import Circle
from orbitrec.models.cryoem import PolarProjector, polar_circle
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

PRIOR_FACTOR = 4.0
"""Prior variance of a coefficient over the current mean square of its shell: above one, so that a shell can grow; it
plays the part of RELION's regularisation parameter T."""
DENSITY_FLOOR = 0.2
"""Weight of the uniform density mixed into the estimated view density, so that no direction is given up."""


def design_degree(bandwidth: float) -> int:
    """Degree of the spherical design that resolves a bandwidth, radius · k_max."""
    return min(max(design_sizes()), math.ceil(1.05 * bandwidth + 2))


@dataclass(frozen=True, eq=False)
class VolumeAndViews:
    """The unknowns of a search: a volume, and the density of the views of it.

    Attributes:
        coefficients: (p,) real coefficients of the volume.
        log_views: (d,) log probability of each viewing direction; the probabilities sum to 1.
    """

    coefficients: Float[Tensor, "p"]
    log_views: Float[Tensor, "d"]


@dataclass(frozen=True, eq=False)
class ShellPowerPrior:
    """The prior of an ab initio search: every M-step takes its variances from the power that shells have then.

    A model then grows only gradually, an annealing that needs no temperature. Its energy is that of a volume with its
    own power, the same for all of them, and is left out.
    """

    level: "ResolutionLevel"

    def precision(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """One over :meth:`ResolutionLevel.prior_variance`."""
        return 1 / self.level.prior_variance(w).double()

    def energy(self, w: Float[Tensor, "p"]) -> float:
        """Zero, as explained above."""
        return 0.0

    def fixed(self, w: Float[Tensor, "p"]) -> GaussianPrior:
        """The prior with the variances that w gives, for a solver whose objective must not change."""
        return GaussianPrior(self.precision(w))


@dataclass(frozen=True, eq=False)
class ResolutionLevel:
    """Projector and circle for one resolution, of ``bandwidth`` = radius · k_max."""

    bandwidth: float
    projector: PolarProjector
    circle: Circle

    @classmethod
    def at(
        cls, grid: PolarGrid, radius: float, bandwidth: float, group: PointGroup = NO_SYMMETRY, device: str = "cpu"
    ) -> "ResolutionLevel":
        """The level of a bandwidth, for a particle of some radius and symmetry.

        Directions are a spherical design of a degree a little above the bandwidth B, or as dense in the asymmetric unit
        of a group, and there are about 2.4 B angles.

        Args:
            grid: the images' polar grid; the level has its part below the bandwidth.
            radius: of the particle's ball, in pixels.
            bandwidth: radius · k_max.
            group: symmetry of the volume.
            device: where its templates, and the images compared with them, are; its models are on the CPU.

        Returns:
            Projector and circle.
        """
        part = grid.truncated(bandwidth / radius, radius)
        basis = SphericalBesselBasis(radius, float(part.nodes[-1]), group=group)
        angles = 2 * math.ceil(1.2 * bandwidth)
        directions = spread_directions(design_degree(bandwidth), group)
        projector = PolarProjector(basis, part, directions, device=device)
        return cls(bandwidth, projector, polar_circle(part, angles))

    @property
    def basis(self) -> SphericalBesselBasis:
        """The volume's basis."""
        return self.projector.basis

    @property
    def grid(self) -> PolarGrid:
        """The images' polar grid."""
        return self.projector.grid

    @property
    def view_floor(self) -> float:
        """Weight of the uniform density in the estimated one: :data:`DENSITY_FLOOR`, and one under T, O and I.

        Their asymmetric units have so few directions that a free density ends on one of them: a volume that only has to
        look right along one axis explains a shell, whose views are alike, better than the truth does.
        """
        return 1.0 if self.basis.group.polyhedral else DENSITY_FLOOR

    @property
    def directions(self) -> Float[Tensor, "d 3"]:
        """The viewing directions that are searched, unit vectors (d, 3)."""
        return self.projector.directions

    def volume(self, model: VolumeAndViews) -> SphericalBesselVolume:
        """The model's volume."""
        return SphericalBesselVolume(self.basis, model.coefficients.double())

    def density(self, model: VolumeAndViews) -> tuple[Float[Tensor, "n n n"], float]:
        """The volume (n, n, n) on the coarsest lattice that resolves it, and the lattice's spacing in pixels."""
        pixel = 0.8 * math.pi / self.basis.k_max  # its Nyquist frequency is 1.25 k_max
        scaled = self.basis.rescaled(pixel)
        n = 2 * math.ceil(1.3 * scaled.radius + 1)
        return SphericalBesselVolume(scaled, model.coefficients.double()).to_grid(n), pixel

    def unknowns(self, model: VolumeAndViews) -> Float[Tensor, "p_plus_d"]:
        """The model as a solver's vector: coefficients, then log density of views (float64)."""
        return torch.cat([model.coefficients, model.log_views]).double()

    def model(self, unknowns: Float[Tensor, "p_plus_d"]) -> VolumeAndViews:
        """The model of a solver's vector, in the projector's precision."""
        coefficients, log_views = unknowns.to(self.projector.dtype).split([len(self.basis), len(self.directions)])
        return VolumeAndViews(coefficients, log_views)

    def without_shells(self, unknowns: Float[Tensor, "p_plus_d"], bandwidth: float) -> Float[Tensor, "p_plus_d"]:
        """A solver's vector whose coefficients at frequencies beyond a bandwidth are zero."""
        beyond = self.basis.frequency * self.basis.radius > bandwidth
        return torch.where(torch.nn.functional.pad(beyond, (0, len(self.directions))), 0.0, unknowns)

    def prior_variance(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """τ² of every coefficient from the power of coefficients at neighbouring frequencies."""
        w = w.to(self.projector.dtype)
        average, radial = self._shell_average
        power = average @ w.new_zeros(len(average)).index_add_(0, radial, w.square())
        return PRIOR_FACTOR * power[radial].clamp(min=torch.finfo(w.dtype).tiny)

    @cached_property
    def _shell_average(self) -> tuple[Float[Tensor, "r r"], Int[Tensor, "p"]]:
        """Weights of the power of each radial function in the mean around each other's frequency; every function's."""
        frequency, radial, count = self.basis.frequency.unique(return_inverse=True, return_counts=True)
        width = 0.35 * math.pi / self.basis.radius  # a third of the spacing of radial functions of one degree
        kernel = torch.exp(-0.5 * ((frequency[:, None] - frequency) / width).square())
        return (kernel / (kernel @ count.to(kernel.dtype))[:, None]).to(self.projector.dtype), radial

    def random_model(
        self, generator: torch.Generator, ctf2_over_noise: Float[Tensor, "k"], energy: float = 0.5
    ) -> VolumeAndViews:
        """A random volume of low energy, and uniform views.

        Half a unit of energy moves log-likelihoods by order one, so the first posterior is flat and the first E-steps
        average the images; what then grows is what the data amplify most. Random volumes as strong as the data lock
        the first posterior on to noise and end in worse optima.

        Args:
            generator: source of the random coefficients.
            ctf2_over_noise: (k,) mean h² of the particles.
            energy: mean over directions of Σ h² |T|² of its templates.

        Returns:
            The model.
        """
        w = torch.randn(len(self.basis), generator=generator, dtype=torch.float64)
        w = (w * torch.exp(-2 * (self.basis.frequency * self.basis.radius / 6).square())).to(self.projector.dtype)
        power = self.projector.templates(w).abs().square().sum(1).mean(0).cpu()
        drawn = (power * ctf2_over_noise[: self.grid.node_count]).sum()
        return VolumeAndViews(w * (energy / drawn).sqrt(), self.uniform_views())

    def uniform_views(self) -> Float[Tensor, "d"]:
        """Log of equal weights on all directions."""
        count = len(self.directions)
        return torch.full((count,), -math.log(count), dtype=self.projector.dtype)

    def prolongated(self, model: VolumeAndViews, to: "ResolutionLevel") -> VolumeAndViews:
        """The model on a finer level: the same volume, the view density interpolated."""
        return VolumeAndViews(self.basis.embed(model.coefficients, to.basis), self._views_on(model, to))

    def restricted(self, model: VolumeAndViews, to: "ResolutionLevel") -> VolumeAndViews:
        """The model on a coarser level: the volume's part at its resolution, the view density smoothed."""
        return VolumeAndViews(self.basis.restrict(model.coefficients, to.basis), self._views_on(model, to))

    def _views_on(self, model: VolumeAndViews, to: "ResolutionLevel") -> Float[Tensor, "e"]:
        views = to.directional_kernel(self) @ model.log_views.exp()
        views = views.clamp(min=float(views.max()) * 1e-6)
        return (views / views.sum()).log()

    def directional_kernel(self, coarse: "ResolutionLevel") -> Float[Tensor, "d e"]:
        """Smoothing weights from a coarser level's directions to this one's: von Mises–Fisher of its spacing."""
        copies = coarse.basis.group.matrices()
        nodes = (coarse.directions @ copies.mT).movedim(0, 1).flatten(0, 1)  # each direction's copies side by side
        concentration = len(nodes) / 4  # spacing² ≈ 4π/e, so the kernel's width is about a spacing
        weights = smoothing_weights(nodes, self.directions, concentration)
        return weights.unflatten(1, (-1, len(copies))).sum(2).to(self.projector.dtype)
