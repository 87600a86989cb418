"""Polar templates of beads: equal particles at free positions, cheap enough to be moved thousands of times.

Seen from direction d a bead lies at radius r and angle θ of the image. By the Jacobi–Anger expansion its slice has the
circular modes ``(−i)^m J_m(kr) e^{−imθ}``. Bessel functions are kept on a grid of radii and interpolated by cubics
between them, so that templates are two matrix products: beads to radii, radii to nodes.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from scipy.special import jv
from torch import Tensor

from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.rotations import direction_frames

_STEP = 0.5
"""Steps of the radial grid times the largest frequency: templates are right to 1e-4 of their size."""


@dataclass(frozen=True, eq=False)
class BeadProjector:
    """Templates of point beads seen from given directions, differentiable in positions and weights.

    Args:
        grid: the images' polar grid.
        directions: viewing directions.
        reach: no bead is farther from the origin, pixels; one that is shows at this distance from the image's centre.
        dtype: real dtype of the work.
    """

    grid: PolarGrid
    directions: Float[Tensor, "d 3"]
    reach: float
    dtype: torch.dtype = torch.float32

    @cached_property
    def _frames(self) -> Float[Tensor, "d 3 2"]:
        return direction_frames(self.directions.double())[:, :, :2].to(self.dtype)

    @property
    def _spacing(self) -> float:
        return _STEP / float(self.grid.nodes[-1])

    @cached_property
    def _bessel(self) -> Float[Tensor, "m r k"]:
        """``c_m s_k J_m(k r)`` at radii −h, 0, h, …, one beyond each end for the cubics."""
        radii = self._spacing * (torch.arange(int(self.reach / self._spacing) + 4, dtype=torch.float64) - 1)
        argument = (radii[:, None] * self.grid.nodes).numpy()
        table = torch.stack([torch.from_numpy(jv(m, argument)) for m in range(self.grid.max_mode + 1)])
        return (table * self.grid.mode_weights[:, None, None] * self.grid.scale).to(self.dtype)

    def templates(self, centers: Float[Tensor, "a 3"], weights: Float[Tensor, "a"]) -> Complex[Tensor, "m d k"]:
        """``T[m, d, k]`` of ``Σ_a weights_a δ(x − centers_a)``: modes first, as moments want them."""
        x, y = torch.einsum("dij,ai->jda", self._frames, centers)
        radius = (x.square() + y.square() + 1e-12).sqrt()  # differentiable at the centre
        turns = self._powers(torch.complex(x / radius, -y / radius))
        spread = self._spread(radius) * weights[:, None]
        by_radius = torch.cat([turns.real, turns.imag]).transpose(0, 1) @ spread
        real, imaginary = (part.transpose(0, 1) @ self._bessel for part in by_radius.chunk(2, dim=1))
        phases = torch.tensor([(-1j) ** m for m in range(len(real))], dtype=turns.dtype)
        return torch.complex(real, imaginary) * phases[:, None, None]

    def _powers(self, unit: Complex[Tensor, "d a"]) -> Complex[Tensor, "m d a"]:
        """``unit^m``, by doubling."""
        powers = torch.stack([torch.ones_like(unit), unit])
        while len(powers) <= self.grid.max_mode:
            powers = torch.cat([powers, powers[1:] * powers[-1]])
        return powers[: self.grid.max_mode + 1]

    def _spread(self, radius: Float[Tensor, "d a"]) -> Float[Tensor, "d a r"]:
        """Lagrange's cubic weights of the four radii around each bead."""
        count = self._bessel.shape[1]
        place = (radius / self._spacing + 1).clamp(max=count - 2)
        first = place.detach().floor().long().clamp(max=count - 3) - 1
        t = place - first - 1
        weights = torch.stack(
            [
                -t * (t - 1) * (t - 2) / 6,
                (t + 1) * (t - 1) * (t - 2) / 2,
                -(t + 1) * t * (t - 2) / 2,
                (t + 1) * t * (t - 1) / 6,
            ],
            dim=-1,
        )
        places = first[..., None] + torch.arange(4)
        return weights.new_zeros(*radius.shape, count).scatter(-1, places, weights)
