"""MoM-net's encoder as printed: two-dimensional convolutions on the Cartesian moments (section 3.3, Appendix A.2).

Moments come on the polar grid and are carried to the 15 × 15 frequencies first, so that training, losses and files are
those of any :class:`MomNet`. z_ρ are harmonics of the log density, as there; the thesis's are values at the rotations.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.moments.analytic import Moments
from orbitrec.moments.plane import PlaneMoments
from orbitrec.networks.momnet import MomNet, Setting, power_of
from orbitrec.thesis.cartesian_encoder import CartesianMomentEncoder


class PrintedMomNet(MomNet):
    """Two networks of Figure A.1's shape, one for z_v, one for (z_ρ, η̂); one proposal.

    Args:
        setting: bandwidth, grid, directions.
        generator: source of the weights.
    """

    def __init__(self, setting: Setting, generator: torch.Generator) -> None:
        super().__init__(setting)
        self.plane = PlaneMoments(setting.grid)
        coefficients, harmonics, spread = self.sizes
        self.volume = CartesianMomentEncoder(setting.box, coefficients, generator, real=True)
        self.views = CartesianMomentEncoder(setting.box, harmonics + spread, generator, real=True)

    @classmethod
    def for_family(
        cls, setting: Setting, moments: Moments, coefficients: Float[Tensor, "b p"], generator: torch.Generator
    ) -> "PrintedMomNet":
        """An untrained network fit to answer with coefficients like these."""
        net = cls(setting, generator)
        net.scale = (coefficients / power_of(moments).sqrt()[:, None]).square().mean(0).sqrt()
        return net

    def answers(self, moments: Moments) -> Float[Tensor, "b proposals outputs"]:
        """See :class:`MomNet`."""
        plane = self.plane(moments)
        return torch.cat([self.volume(plane), self.views(plane)], dim=1)[:, None]
