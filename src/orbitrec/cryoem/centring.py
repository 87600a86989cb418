"""Centring before any model exists: EM for a radially symmetric template over shifts.

The same likelihood with one direction and one mode: the template is the azimuthal mean ``t(k)`` of the particle's
image, the group is the plane's translations with a Gaussian prior of unknown width. It takes a pass over low
frequencies and usually removes most of the shift, so that the search over orientations need not carry one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import jv
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.grids import pixel_vectors
from orbitrec.geometry.polar import PolarGrid
from orbitrec.runtime.progress import RunState

CENTRING_BANDWIDTHS = (6.0, 9.0, 12.0)
"""Bandwidths at which images are centred, one after the other; none above the finest of the search is used."""


def shift_grid(radius: float, step: float) -> Float[Tensor, "s 2"]:
    """Displacements (x, y) on a square lattice of ``step`` pixels within ``radius`` pixels; zero is one of them."""
    points = step * pixel_vectors(2 * int(radius / step) + 3).reshape(-1, 2)
    return points[points.norm(dim=1) <= radius * (1 + 1e-9)]


@dataclass(frozen=True)
class Centring:
    """Where each particle's content is in its image, as the fit of a radially symmetric template finds it.

    Neither standard deviation is below that of a cell of the lattice of shifts, its step/√12.

    Attributes:
        centres: (N, 2) posterior mean of the displacement (x, y), in pixels.
        prior_px: fitted standard deviation of the shifts per axis, in pixels.
        residual_px: posterior standard deviation of the shifts per axis, in pixels.
        profile: (k,) the template t(k), in polar coordinates of mode 0.
    """

    centres: Float[Tensor, "N 2"]
    prior_px: float
    residual_px: float
    profile: Float[Tensor, "k"]

    def tells(self, k_max: float) -> bool:
        """Whether the images tell where their content is: to a phase of one radian at the frequency ``k_max``."""
        return k_max * self.residual_px < 1


def _mode_zero_after_shift(grid: PolarGrid, shifts: Float[Tensor, "s 2"]) -> Float[Tensor, "s two m k"]:
    """Rows of ``Re Σ_m``: mode 0 of an image moved back by each shift, from its modes (Jacobi–Anger).

    ``e^{ik·s} = Σ_q i^q J_q(k|s|) e^{iq(φ−θ)}``, so mode 0 gathers ``i^m J_m e^{imθ} F_m`` over m of both signs.
    """
    distance, theta = shifts.norm(dim=1), torch.atan2(shifts[:, 1], shifts[:, 0])
    m = torch.arange(grid.max_mode + 1)
    bessel = np.stack([jv(int(q), (distance[:, None] * grid.nodes).numpy()) for q in m], axis=1)
    powers = torch.tensor([1j**q for q in range(len(m))], dtype=torch.complex128)
    phase = torch.exp(1j * m * theta[:, None]) * powers * grid.mode_weights
    kernel = torch.from_numpy(bessel) * phase[:, :, None]
    return torch.stack([kernel.real, -kernel.imag], dim=1)


def centre(data: ParticleModes, k_max: float, *, prior_px: float, chunk: int = 1024, iterations: int = 8) -> Centring:
    """Centre all particles by EM, for a radially symmetric template and a Gaussian prior of the shifts.

    The E-step is the posterior over a lattice of shifts, with the images' mode 0 after each shift by the Jacobi–Anger
    expansion. The M-step updates the template, by weighted least squares, and the width of the prior.

    Args:
        data: the particles.
        k_max: highest frequency used, in radians per pixel.
        prior_px: first guess of the shifts' standard deviation per axis, in pixels; shifts up to three of them are
            tried.
        chunk: particles at once.
        iterations: of EM.

    Returns:
        Centres, template and widths.
    """
    max_radius = 3 * prior_px
    grid = data.grid.truncated(k_max, max_radius + 1)
    step = 0.8 / k_max
    shifts = shift_grid(max_radius, step)
    kernel = _mode_zero_after_shift(grid, shifts).to(data.device, torch.float32).flatten(1, 2)
    correlation = torch.empty(len(data), len(shifts), grid.node_count, device=data.device)
    for rows in torch.arange(len(data)).split(chunk):
        modes = torch.view_as_real(data.seen(rows, grid)[0])
        flat = modes.permute(2, 0, 3, 1).flatten(2)  # (k, b, 2m)
        correlation[rows] = torch.matmul(flat, kernel.permute(2, 1, 0)).permute(1, 2, 0)
    power = data.ctf2_over_noise(torch.arange(len(data)))[:, : grid.node_count].to(data.device)
    counted = data.inliers().to(power)[:, None]
    total = counted.mT @ power
    shifts = shifts.to(data.device)
    square = shifts.square().sum(1)
    profile = (counted * correlation[:, int(square.argmin())]).sum(0) / total[0]
    # A point of the lattice stands for its cell: well-centred particles would drive the width to zero, and 0/0.
    variance, cell = prior_px**2, step**2 / 12
    p = correlation.new_zeros(len(data), len(shifts))
    for _ in range(iterations):
        # A radial template's energy is the same at every shift and drops out of the posterior.
        score = correlation @ profile - (square / (2 * variance)).float()
        p = torch.softmax(score, dim=1)
        profile = torch.einsum("bs,bsk->k", counted * p, correlation) / total[0]
        variance = max(float(((counted * p).double() @ square).sum() / counted.sum() / 2), cell)
    centres = p.double() @ shifts
    spread = p.double() @ square - centres.square().sum(1)
    residual = max(float((counted[:, 0] * spread).sum() / counted.sum() / 2), cell)
    return Centring(centres.cpu(), variance**0.5, residual**0.5, profile.cpu())


def centre_from_coarse_to_fine(data: ParticleModes, k_starts: list[float], *, prior_px: float) -> Centring:
    """Centre all particles at rising frequencies, until the fit no longer describes shifts of whole particles.

    A radial template can lock on to a feature that is smaller than the particle. It then moves the images more than
    they were displaced, and the fitted width of the shifts grows: the last resolution before that happens is kept.

    Args:
        data: the particles.
        k_starts: highest frequencies of the fits, rising, in radians per pixel.
        prior_px: first guess of the shifts' standard deviation per axis, in pixels, with which every fit begins.

    Returns:
        The fit at the last frequency that was kept.
    """
    best = centre(data, k_starts[0], prior_px=prior_px)
    for k_max in k_starts[1:]:
        finer = centre(data, k_max, prior_px=prior_px)
        if finer.prior_px > 1.2 * best.prior_px or finer.residual_px > best.residual_px:
            break
        best = finer
    return best


def centred(data: ParticleModes, radius: float, finest: float, shift_px: float, run: RunState) -> Centring:
    """The particles' centres, found at rising bandwidths.

    Args:
        data: the particles.
        radius: of the particle's ball, in pixels.
        finest: bandwidth (radius · k_max) of the search, which centring does not go beyond.
        shift_px: first guess of the shifts' standard deviation per axis, in pixels.
        run: keeps the record.

    Returns:
        The fit at the last bandwidth that :func:`centre_from_coarse_to_fine` keeps.
    """
    at = sorted({min(bandwidth, finest) / radius for bandwidth in CENTRING_BANDWIDTHS})
    return Centring(**run.step("centring", lambda: vars(centre_from_coarse_to_fine(data, at, prior_px=shift_px))))
