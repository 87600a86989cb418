"""FourierNets matched from many random starts, and one on top of their mean.

The mean (:mod:`orbitrec.thesis.volume_matching.consensus`) is nearer to the truth than the networks, but its moments
are farther from the target: averaging takes power away. A last network on top of it, which starts at zero (3.11), gives
that back.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from orbitrec.densities.harmonic import HarmonicDensity, polynomial
from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.models.cryoem import PolarProjector
from orbitrec.moments.matching import MomentTarget
from orbitrec.runtime.threads import run_threaded
from orbitrec.thesis.volume_matching.consensus import Consensus
from orbitrec.thesis.volume_matching.grids import ShellMomentGrid
from orbitrec.thesis.volume_matching.neural import NeuralMatching, match_neural, recon_loss
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.voxel import VoxelVolume

_WARM_UP = 50  # steps
_VIEW_UNIT = 12.0  # Adam moves all parameters alike; views are to move this much faster


@dataclass(frozen=True)
class NeuralSettings:
    """How much to do, and the networks' sizes.

    Attributes:
        members: networks.
        steps: of Adam for each of them, and for the one on top of their mean.
        rate: its learning rate, which falls to a tenth in the second half.
        width: even units of each layer, and odd ones.
        spread: radius that a network is made for, in maximal radii of the molecule. It decides how smooth the network
            is in the frequency: smaller ones gather their density about the centre.
        density_degree: largest degree of the log density of views; 0 keeps them as they begin.
    """

    members: int = 8
    steps: int = 200
    rate: float = 2e-4
    width: int = 64
    spread: float = 0.4
    density_degree: int = 6


@dataclass(frozen=True, eq=False)
class Member:
    """A volume on voxels, harmonics of its views' log density beyond what they began at, and its loss (2.17)."""

    voxels: Float[Tensor, "n n n"]
    views: Float[Tensor, "b"]
    loss: float

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        return HarmonicDensity(self.views.double()).probabilities(directions)


@dataclass(frozen=True, eq=False)
class NeuralEnsemble:
    """The problem.

    Args:
        target: the moments (float32).
        projector: rotates harmonics to the views' directions; its basis bounds the images' content.
        max_radius: of the ball that holds the molecule, pixels.
        settings: see there.
    """

    target: MomentTarget
    projector: PolarProjector
    max_radius: float
    settings: NeuralSettings

    @cached_property
    def _grid(self) -> ShellMomentGrid:
        return ShellMomentGrid(self.projector)

    def members(
        self,
        generator: torch.Generator,
        step: Callable[[str, Callable[[], Member]], Member] = lambda name, compute: compute(),
    ) -> list[Member]:
        """Networks matched from as many random starts.

        Args:
            generator: source of the starts.
            step: called with a member's name and what makes it, from several threads at once.
        """
        seeds = torch.randint(2**62, (self.settings.members,), generator=generator).tolist()
        return run_threaded([partial(step, f"member {i}", partial(self.member, seed)) for i, seed in enumerate(seeds)])

    def member(self, seed: int, log_density: Float[Tensor, "d"] | None = None) -> Member:
        """One network, matched by Adam; views begin at ``log_density``, or even. With no degrees they stay there."""
        net = self._network(torch.Generator().manual_seed(seed))
        even = torch.zeros(len(self.projector.directions))
        views, loss = self._match(net, even if log_density is None else log_density.float())
        return Member(self._voxels(net), views, loss)

    def refined(self, mean: Consensus, generator: torch.Generator) -> "Refined":
        """A mean and a network on top of it, and views that begin with the mean's, matched together."""
        net = self._network(generator).zero_()
        logits = mean.view_density(self.projector.directions).log().float()
        held = VoxelVolume(mean.voxels).fourier(self._grid.points).to(torch.complex64)
        views, loss = self._match(net, logits, held)
        return Refined(mean, Member(self._voxels(net), views, loss))

    def _match(
        self, net: FourierNet, logits: Float[Tensor, "d"], held: Complex[Tensor, "p"] | None = None
    ) -> tuple[Float[Tensor, "b"], float]:
        """Match a network and views that begin at ``logits``; returns the views' harmonics, and the loss."""
        harmonics = nonconstant_harmonics(self.projector.directions, self.settings.density_degree).float() * _VIEW_UNIT
        views = nn.Parameter(torch.zeros(harmonics.shape[1]))
        loss, parameters = recon_loss(self.target.moments), [*net.parameters(), views]
        problem = NeuralMatching(self._grid, loss, net, lambda: logits + polynomial(views, harmonics), parameters, held)
        match_neural(problem, self._rates())
        return views.detach() * _VIEW_UNIT, float(loss(problem.moments()))

    @torch.no_grad()
    def _voxels(self, net: FourierNet) -> Float[Tensor, "n n n"]:
        return net.to_grid(self.target.grid.box).double()

    @property
    def unknowns(self) -> int:
        """Parameters of one network."""
        return sum(parameter.numel() for parameter in self._network(torch.Generator()).parameters())

    def _network(self, generator: torch.Generator) -> FourierNet:
        radius, width, grid = self.settings.spread * self.max_radius, self.settings.width, self.target.grid
        return FourierNet(radius, generator, scale=self._typical_size(), k_max=float(grid.nodes[-1]), width=width)

    def _typical_size(self) -> float:
        """Root mean square of v̂ on the images' disc."""
        energy = torch.diagonal(self.target.moments.second, dim1=1, dim2=2).real.sum()
        return math.sqrt(float(energy / self.target.grid.scale.square().sum()))

    def _rates(self) -> list[float]:
        steps, rate = self.settings.steps, self.settings.rate
        return [rate * min(1.0, (step + 1) / _WARM_UP) * 10 ** min(0.0, 1 - 2 * step / steps) for step in range(steps)]


@dataclass(frozen=True, eq=False)
class Refined:
    """A mean and what a network on top of it changes: its voxels are added, and so is its views' log density."""

    mean: Consensus
    change: Member

    @property
    def voxels(self) -> Float[Tensor, "n n n"]:
        """The sum."""
        return self.mean.voxels + self.change.voxels

    def view_density(self, directions: Float[Tensor, "d 3"]) -> Float[Tensor, "d"]:
        """Probabilities of directions, which should be spread evenly."""
        product = self.mean.view_density(directions) * self.change.view_density(directions)
        return product / product.sum()
