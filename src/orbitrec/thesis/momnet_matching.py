"""The reconstruction phase of MoM-net (section 3.4.2) on the polar grid: one data set's moments matched from a start.

Matched are the two relative errors of the Kam loss (3.13): their squares over coefficients, harmonics of the log
density and the spread of shifts, by L-BFGS, which wants a smooth function; or their sum over the weights θ of the
encoder, by Adam, as the thesis does. Then a FourierNet that starts at zero is added (3.11) and refines.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.moments.analytic import Moments, bounded_spread, shifted_uniform_moments, uniform_moments
from orbitrec.moments.batched import BatchedMoments
from orbitrec.moments.losses import kam_loss, relative_errors
from orbitrec.networks.momnet import MomNet, MomNetEstimate, MomNetSetting
from orbitrec.networks.momnet_moments import log_views
from orbitrec.optim.adam import ScheduledAdam, constant, cosine
from orbitrec.optim.lbfgs import minimise
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.spherical_bessel import SphericalBesselVolume

_NO_SHIFT = -30.0  # of the free parameter: a spread of 1e-13 of the largest
_RATE = 1e-3
_PRIOR = 1e-7  # keeps a density that moments do not determine from running away


@dataclass(frozen=True, eq=False)
class MomNetMatching:
    """What is matched and with what: everything is in pixels of the images that the moments are of.

    Attributes:
        target: one problem's moments on the projector's grid, a batch of one.
        projector: basis, grid, directions in antipodal pairs.
        density_degree: largest degree of the log density of views.
        largest_shift_px: η_max; zero for the framework of chapter 2, which knows no shifts.
    """

    target: Moments
    projector: PolarProjector
    density_degree: int
    largest_shift_px: float

    @cached_property
    def moments(self) -> BatchedMoments:
        """The forward map (3.12)."""
        return BatchedMoments(self.projector)

    @cached_property
    def harmonics(self) -> Float[Tensor, "d h"]:
        """Of the directions, as in :meth:`MomNetSetting.harmonics`."""
        return nonconstant_harmonics(self.projector.directions, self.density_degree).to(self.projector.dtype)

    def loss(self, estimate: MomNetEstimate) -> Float[Tensor, ""]:
        """The Kam loss."""
        return kam_loss(self.target, self.explained(estimate)).sum()

    def explained(self, estimate: MomNetEstimate) -> Moments:
        """Moments of an estimate."""
        return self.moments(estimate.coefficients, estimate.density(self.harmonics), estimate.shift_px)

    def matched(self, start: MomNetEstimate, iterations: int) -> MomNetEstimate:
        """L-BFGS from an estimate, a batch of one, over all it consists of."""
        unit = start.coefficients.square().mean().sqrt()
        share = (start.shift_px / max(self.largest_shift_px, 1e-12)).clamp(0.02, 0.98)
        free = torch.logit(share) if self.largest_shift_px else torch.full_like(share, _NO_SHIFT)
        sizes = [start.coefficients.shape[1], start.log_density.shape[1], 1]

        def unpack(x: Float[Tensor, "x"]) -> MomNetEstimate:
            w, density, shift = x[None].split(sizes, dim=1)
            return MomNetEstimate(w * unit, density, bounded_spread(shift[:, 0], self.largest_shift_px))

        def squares(x: Float[Tensor, "x"]) -> Float[Tensor, ""]:
            errors = relative_errors(self.target, self.explained(unpack(x)))
            return errors[0].square().sum() + errors[1].square().sum() + _PRIOR * x[sizes[0] : -1].square().sum()

        x = torch.cat([start.coefficients[0] / unit, start.log_density[0], free])
        return unpack(minimise(squares, x.detach(), iterations).x)

    def encoded(
        self, net: MomNet, iterations: int, callback: Callable[[int, float, float], None] = lambda *step: None
    ) -> MomNetEstimate:
        """Adam over the weights θ of a copy of the encoder.

        Args:
            net: the encoder.
            iterations: of Adam.
            callback: called with each iteration's number, Kam loss and seconds.

        Returns:
            The answer of least loss.
        """
        net = copy.deepcopy(net).train()
        adam = ScheduledAdam(net.parameters(), cosine(_RATE, iterations))
        begun, best, least = time.process_time(), net(self.target), float("inf")
        for iteration in range(iterations + 1):
            estimate = net(self.target)
            loss = self.loss(estimate)
            if float(loss.detach()) < least:
                best, least = estimate, float(loss.detach())
            callback(iteration, float(loss.detach()), time.process_time() - begun)
            adam.step(loss)
        return MomNetEstimate(best.coefficients.detach(), best.log_density.detach(), best.shift_px.detach())

    def refined(self, estimate: MomNetEstimate, net: FourierNet, iterations: int, rate: float = 1e-4) -> float:
        """Train ``net``, which starts at zero, beside the estimate's volume (3.11).

        Views and shifts stay. Half of the directions are enough: the others are their mirror images.

        Args:
            estimate: views and shifts stay as they are.
            net: what is added to the volume.
            iterations: of Adam.
            rate: its learning rate.

        Returns:
            The least Kam loss.
        """
        grid, half = self.projector.grid, self.projector.directions[: len(self.projector.directions) // 2]
        basis = self.projector.basis
        with torch.no_grad():
            fixed = polar_templates(SphericalBesselVolume(basis, estimate.coefficients[0].double()), grid, half)
            density = estimate.density(self.harmonics)[0].detach()
        fixed = fixed.to(torch.complex64)
        sign = (1 - 2 * (torch.arange(grid.max_mode + 1) % 2)).float()[:, None]
        adam = ScheduledAdam(net.parameters(), constant(rate))
        least = float("inf")
        for _ in range(iterations + 1):
            added = polar_templates(net, grid, half).to(torch.complex64)
            templates = fixed + added
            templates = torch.cat([templates, sign * templates.conj()])
            model = shifted_uniform_moments(
                uniform_moments(templates, density, grid), grid, estimate.shift_px[0].detach()
            )
            batch = Moments(model.first[None], model.second[None], model.weights)
            loss = kam_loss(self.target, batch).sum()
            least = min(least, float(loss.detach()))
            adam.step(loss)
        return least


def smooth_views(estimate: MomNetEstimate, setting: MomNetSetting, directions: Float[Tensor, "d 3"]) -> MomNetEstimate:
    """The estimate with a smooth density: the polynomial nearest to :func:`log_views`, by least squares.

    Args:
        estimate: the network's output, a batch of one.
        setting: the network's.
        directions: unit vectors (d, 3) on which the polynomial is fitted.

    Returns:
        The same estimate with this log density.
    """
    harmonics = setting.harmonics(directions).to(estimate.log_density)
    design = torch.cat([harmonics, harmonics.new_ones(len(directions), 1)], dim=1)
    fitted = torch.linalg.lstsq(design, log_views(estimate, setting, directions)[:, None]).solution
    return replace(estimate, log_density=fitted[:-1].mT)
