"""The two tensors and the circle that every problem is written in (``docs/architecture.md``).

Templates ``T[d, m, k]`` and observations ``Y[j, s, m, k]`` (s: known displacements to be marginalised, often one) share
circular modes m and nodes k; turning by α multiplies mode m by ``exp(−imα)``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Circle:
    """The circle's integer ``modes`` (one for each index m) and its ``angles`` α_i = 2πi/angles.

    One mode 0 and one angle make a problem with no circle: windowed MRA, cryo-EM on the Cartesian grid.
    """

    modes: Int[Tensor, "m"]
    angles: int

    @property
    def alphas(self) -> Float[Tensor, "a"]:
        """The angles in radians (float64)."""
        return 2 * torch.pi * torch.arange(self.angles, dtype=torch.float64) / self.angles

    def synthesis(self, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, "a two_m"]:
        """Rows (cos mα, sin mα) for every m: ``Re Σ_m c_m e^{imα}`` as one product with the pairs (Re c_m, −Im c_m)."""
        phase = self.alphas[:, None] * self.modes.double().cpu()
        return torch.stack([phase.cos(), phase.sin()], dim=2).flatten(1).to(dtype).to(device)


def circular_coefficients(density: Float[Tensor, "... a"], order: Int[Tensor, "*q"]) -> Complex[Tensor, "..."]:
    """``ρ̂_d(q) = Σ_α ρ[d, α] e^{−iqα}`` at integer orders q: Fourier coefficients of the density on each direction."""
    table = torch.fft.fft(density, dim=-1)
    return table[..., order % density.shape[-1]]
