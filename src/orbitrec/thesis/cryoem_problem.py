"""The cryo-EM problem of section 4.5.2: six Gaussians at low resolution, seen in 3,600 images of 15 × 15 pixels.

What the thesis does not say is chosen here: a ball of 7 px for the basis; Gaussians within half of it, 1.2 to 1.8 px
wide, of weights 0.5 to 1.5; rotations uniform on SO(3), not only those of the quadrature; the SNR of
:mod:`orbitrec.models.simulate`. L = 3 and S = 4 are 40 coefficients with m ≥ 0, of which those with m > 0 are complex:
64 real unknowns.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import design_circle_rule, spherical_design
from orbitrec.inference.curvature import CurvedOrbitLikelihood
from orbitrec.inference.group_density import KnownDensity
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import GaussianPrior, ObservationSet, OrbitLikelihood
from orbitrec.models.cryoem import PolarProjector, polar_circle, polar_templates
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.thesis.cartesian import NO_CIRCLE, CartesianProjector
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

BOX, RADIUS, DEGREE, RADIAL, SNR = 15, 7.0, 3, 4, 0.34
DESIGN, ANGLES = 13, 12
"""100 directions × 12 angles: |Q| = 1200."""
NODES = 14
"""Radial nodes of the polar grid; circular modes beyond L = 3 vanish, so there are four."""


@dataclass(frozen=True, eq=False)
class CryoEMProblem:
    """Images with noise of variance one, (N, 15, 15), and the ``truth`` they were made from, (64,)."""

    images: Float[Tensor, "N n n"]
    truth: Float[Tensor, "p"]

    @classmethod
    def simulated(cls, seed: int, count: int = 3600) -> "CryoEMProblem":
        """Another volume, other rotations and other noise for every seed."""
        generator = torch.Generator().manual_seed(seed)
        truth = _six_gaussians(generator)
        poses = random_poses(count, generator)
        simulation = ParticleSimulation(SphericalBesselVolume(basis(), truth), BOX, 1.0, *poses)
        scale = math.sqrt(SNR / simulation.signal_variance())
        clean = torch.cat([simulation.clean(part, torch.float64) for part in torch.arange(count).split(256)])
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return cls(scale * clean + noise, scale * truth)

    def polar(self) -> CurvedOrbitLikelihood:
        """The likelihood on the polar grid."""
        projector = polar_projector()
        circle = polar_circle(projector.grid, ANGLES)
        modes = projector.grid.from_images(self.images)
        density = torch.full((len(projector.directions), ANGLES), 1.0, dtype=torch.float64)
        log_density = (density / density.sum()).log()
        return CurvedOrbitLikelihood(
            projector, circle, KnownDensity(log_density), _observed(modes), GaussianPrior.flat(len(basis()))
        )

    def cartesian(self, half_plane: bool = False) -> OrbitLikelihood:
        """The likelihood on the Cartesian grid as the thesis has it, or on the half plane that says the same."""
        rotations = design_circle_rule(DESIGN, ANGLES).flatten(0, 1)
        projector = CartesianProjector(basis(), BOX, rotations, half_plane)
        modes = projector.from_images(self.images)
        log_density = torch.full((len(rotations), 1), -math.log(len(rotations)), dtype=torch.float64)
        return OrbitLikelihood(
            projector, NO_CIRCLE, KnownDensity(log_density), _observed(modes), GaussianPrior.flat(len(basis()))
        )

    def random_start(self, seed: int) -> Float[Tensor, "p"]:
        """Independent Gaussian coefficients of 0.3 times the truth's root mean square: no likeness to the truth."""
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(self.truth.shape, generator=generator, dtype=torch.float64)
        return 0.3 * float(self.truth.square().mean().sqrt()) * w


def basis() -> SphericalBesselBasis:
    """L = 3, S = 4."""
    return SphericalBesselBasis.of_degrees(RADIUS, DEGREE, RADIAL)


def polar_projector() -> PolarProjector:
    """100 directions on the polar grid."""
    return PolarProjector(basis(), PolarGrid(BOX, math.pi, NODES, DEGREE), spherical_design(DESIGN), torch.float64)


def _six_gaussians(generator: torch.Generator) -> Float[Tensor, "p"]:
    """The basis's least-squares representation of their slices."""
    centers = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    distance, width, weight = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    centers *= (0.5 * RADIUS * distance ** (1 / 3) / centers.norm(dim=1))[:, None]
    mixture = GaussianMixture(centers, 1.2 + 0.6 * width, 0.5 + weight)
    projector = polar_projector()
    templates = polar_templates(mixture, projector.grid, projector.directions)
    even = torch.ones(len(templates), projector.grid.node_count, dtype=torch.float64)
    return torch.linalg.solve(projector.gram(even), projector.adjoint(templates))


def _observed(modes: Tensor) -> ObservationSet:
    """Images without CTF."""
    count, _, nodes = modes.shape
    power, none = torch.ones(nodes, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def observe(rows: Tensor) -> Observations:
        return Observations(modes[rows][:, None], power.expand(len(rows), -1), none)

    return ObservationSet(observe, count, power)
