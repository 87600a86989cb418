"""Paper exercise: a volume representation that the library does not have, as the unknown of a tiny cryo-EM problem.

The density is a sum of Gaussian blobs on a coarse lattice with unknown weights. Templates are linear in the weights, so
a projector of two methods is all that the likelihood needs.
"""

from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.inference.group_density import EstimatedDirections
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import GaussianPrior, ObservationSet, OrbitLikelihood
from orbitrec.models.base import LinearProjector, Projector
from orbitrec.models.cryoem import polar_circle, polar_templates
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.termination import Termination
from orbitrec.volumes.gaussians import GaussianMixture

N, SPACING, WIDTH, COUNT, ANGLES = 15, 3.0, 1.6, 400, 24


@dataclass(frozen=True, eq=False)
class BlobProjector(LinearProjector):
    """Templates of blobs of one width at fixed centres, linear in their weights."""

    grid: PolarGrid
    directions: Tensor
    centres: Tensor

    @property
    def dimension(self) -> int:
        return len(self.centres)

    @cached_property
    def columns(self) -> Tensor:
        """(p, d, m, k): the template of each blob, exact."""
        one = torch.ones(1, dtype=torch.float64)
        blobs = (GaussianMixture(centre[None], WIDTH * one, one) for centre in self.centres)
        return torch.stack([polar_templates(blob, self.grid, self.directions) for blob in blobs])

    def templates(self, w: Tensor) -> Tensor:
        return torch.einsum("p,pdmk->dmk", w.to(self.columns.dtype), self.columns)

    def adjoint(self, x: Tensor) -> Tensor:
        return torch.einsum("pdmk,dmk->p", self.columns.conj(), x).real


def lattice() -> Tensor:
    axis = SPACING * torch.arange(-1, 2, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


@pytest.fixture(scope="module")
def projector() -> BlobProjector:
    return BlobProjector(PolarGrid(N, 1.6, 10, 8), spherical_design(15), lattice())


def test_it_is_a_projector_and_its_adjoint_is_one(projector):
    assert isinstance(projector, Projector)
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(projector.dimension, generator=generator, dtype=torch.float64)
    x = torch.randn(projector.templates(w).shape, generator=generator, dtype=torch.complex128)
    left, right = (projector.templates(w).conj() * x).real.sum(), w @ projector.adjoint(x)
    assert float(left) == pytest.approx(float(right), rel=1e-12)
    weight = torch.rand(x.shape[0], x.shape[2], generator=generator, dtype=torch.float64)
    assert torch.allclose(projector.gram(weight) @ w, projector.normal(w, weight))


def test_its_weights_are_recovered_from_images_at_unknown_rotations(projector):
    """EM from a disturbed start, at SNR 5: within a tenth of their size."""
    generator = torch.Generator().manual_seed(2)
    truth = 3 * torch.rand(projector.dimension, generator=generator, dtype=torch.float64) ** 3
    widths = torch.full((projector.dimension,), WIDTH, dtype=torch.float64)
    simulation = ParticleSimulation(GaussianMixture(lattice(), widths, truth), N, 1.0, *random_poses(COUNT, generator))
    sigma = (simulation.signal_variance() / 5) ** 0.5
    clean = simulation.clean(torch.arange(COUNT), torch.float64)
    images = clean / sigma + torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    modes, ones = projector.grid.from_images(images)[:, None], torch.ones(projector.grid.node_count).double()

    def observe(rows: Tensor) -> Observations:
        return Observations(modes[rows], ones.expand(len(rows), -1), torch.zeros(1, dtype=torch.float64))

    problem = OrbitLikelihood(
        projector,
        polar_circle(projector.grid, ANGLES),
        EstimatedDirections(len(projector.directions), ANGLES),
        ObservationSet(observe, COUNT, ones),
        GaussianPrior.flat(projector.dimension),
    )
    start = truth / sigma * (1 + 0.4 * torch.randn(len(truth), generator=generator, dtype=torch.float64))
    w = torch.cat([start, torch.zeros(len(projector.directions), dtype=torch.float64)])
    found = run(solvers.em(), problem, w, Termination(moved=1e-8, epochs=200.0))
    weights = problem.split(found.w)[0] * sigma
    assert float((weights - truth).norm() / truth.norm()) < 0.1
    assert float((start * sigma - truth).norm() / truth.norm()) > 0.2
