"""Paper exercise: a group-structured problem of another kind, through the same inference and the same optimisers.

K planar images are seen under unknown in-plane rotations, with noise; which of the K an observation shows is unknown
too, and its centre is known. In the library's words: K directions, the image's circular modes, its radial nodes, and
the rotations as angles. Everything that has to be said is how an image's coefficients become templates.
"""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.group_density import EstimatedDirections
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import GaussianPrior, ObservationSet, OrbitLikelihood
from orbitrec.models.base import LinearProjector
from orbitrec.models.cryoem import polar_circle
from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.termination import Termination

N, K, ANGLES, COUNT, SNR = 16, 2, 24, 600, 2.0
GRID = PolarGrid(N, 1.3, 6, 6)


@dataclass(frozen=True)
class PlanarImages(LinearProjector):
    """K images by their polar coordinates: real and imaginary parts of (K, modes, nodes), side by side."""

    images: int
    grid: PolarGrid

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images, self.grid.max_mode + 1, self.grid.node_count

    @property
    def dimension(self) -> int:
        return 2 * self.images * (self.grid.max_mode + 1) * self.grid.node_count

    def templates(self, w: Tensor) -> Tensor:
        return torch.complex(*w.reshape(2, *self.shape))

    def adjoint(self, x: Tensor) -> Tensor:
        return torch.stack([x.real, x.imag]).flatten()


def blobs(generator: torch.Generator) -> Tensor:
    """K images of a few Gaussian blobs each, (K, n, n)."""
    x = torch.arange(N, dtype=torch.float64) - N // 2
    y, x = torch.meshgrid(x, x, indexing="ij")
    images = torch.zeros(K, N, N, dtype=torch.float64)
    for image in images:
        for cx, cy, weight in (torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1) * 4:
            image += (1 + weight.abs()) * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 5)
    return images


@pytest.fixture(scope="module")
def observed():
    """The true coordinates, and observations of them in unit noise; angles are continuous, shares uneven."""
    generator = torch.Generator().manual_seed(4)
    truth = GRID.from_images(blobs(generator))
    power = float(truth.abs().square().sum((1, 2)).mean()) / (truth[0].numel() * 2)
    truth = truth * (SNR / power) ** 0.5
    which = (torch.rand(COUNT, generator=generator) < 0.35).long()
    alpha = 2 * torch.pi * torch.rand(COUNT, generator=generator, dtype=torch.float64)
    rotated = truth[which] * torch.exp(-1j * alpha[:, None] * torch.arange(GRID.max_mode + 1))[:, :, None]
    noise = torch.randn(*rotated.shape, 2, generator=generator, dtype=torch.float64)
    return truth, rotated + torch.view_as_complex(noise)


def likelihood(modes: Tensor) -> OrbitLikelihood:
    ones = torch.ones(GRID.node_count, dtype=torch.float64)

    def observe(rows: Tensor) -> Observations:
        return Observations(modes[rows][:, None], ones.expand(len(rows), -1), torch.zeros(1, dtype=torch.float64))

    projector = PlanarImages(K, GRID)
    return OrbitLikelihood(
        projector,
        polar_circle(GRID, ANGLES),
        EstimatedDirections(K, ANGLES),
        ObservationSet(observe, len(modes), ones),
        GaussianPrior.flat(projector.dimension),
    )


def distance(found: Tensor, truth: Tensor) -> float:
    """Relative error over the best assignment of images and the best rotation of each."""
    m, alpha = torch.arange(GRID.max_mode + 1), 2 * torch.pi * torch.arange(720, dtype=torch.float64) / 720
    rotated = found[:, None] * torch.exp(1j * alpha[:, None] * m)[None, :, :, None]
    errors = (rotated[:, None] - truth[None, :, None]).abs().square().sum((-2, -1)).amin(2)  # (found, true)
    pairs = min(errors[0, 0] + errors[1, 1], errors[0, 1] + errors[1, 0])
    return float((pairs / truth.abs().square().sum()).sqrt())


@pytest.mark.parametrize("solver", [solvers.em(), solvers.svrg_bfgs()], ids=["EM", "SVRG+II"])
def test_both_images_are_recovered(observed, solver):
    """From two observations as they are. Noise of one in COUNT/K averages leaves an error of about 3 %."""
    truth, modes = observed
    problem = likelihood(modes)
    start = torch.stack([modes[0].real, modes[3].real, modes[0].imag, modes[3].imag]).flatten()
    w = torch.cat([start, torch.zeros(K, dtype=torch.float64)])
    begun = distance(problem.templates(w), truth)
    found = run(solver, problem, w, Termination(moved=1e-9, measured=400.0))
    values = [info.value for info in found.trace if info.accepted]
    assert all(b <= a + 1e-10 for a, b in pairwise(values))
    error = distance(problem.templates(found.w), truth)
    assert begun > 0.3
    assert error < 0.08
    share = problem.split(found.w)[1].softmax(0)
    assert float(share.min()) == pytest.approx(0.35, abs=4 * (0.35 * 0.65 / COUNT) ** 0.5)
