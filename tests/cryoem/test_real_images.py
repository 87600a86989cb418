"""Real particles of three dialects through reading, CTF, whitening and one pass of the likelihood."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from orbitrec.cryoem.centring import shift_grid
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.likelihood import centred_likelihood
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.volumes.base import Volume
from orbitrec.volumes.voxel import VoxelVolume

BANDWIDTH = 12.0


class Enlarged:
    """A volume in smaller pixels: ``v(x / factor)``."""

    def __init__(self, volume: Volume, factor: float) -> None:
        self.volume, self.factor = volume, factor

    def fourier(self, points: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        return self.volume.fourier(points * self.factor) * self.factor**3

    def to_grid(self, n: int) -> Float[Tensor, "n n n"]:
        raise NotImplementedError("only its transform is asked for")


def _prepared(path: Path, radius_A: float) -> tuple[ParticleModes, ResolutionLevel]:
    stack = ParticleStack.open(path)
    radius = radius_A / stack.pixel_size_A
    data = preprocess(stack, BANDWIDTH / radius, radius + 10)
    return data, ResolutionLevel.at(data.grid, radius, BANDWIDTH)


def _likelihood(data: ParticleModes, level: ResolutionLevel, volume: Volume) -> Callable[[float], float]:
    """The log-likelihood of all particles for the volume at a signed scale, 1 for templates of the noise's strength."""
    model = VolumeAndViews(fitted_coefficients(level, volume), level.uniform_views())
    rows, nowhere = torch.arange(len(data)), torch.zeros(len(data), 2).double()
    shifts = shift_grid(0.15 * level.basis.radius, 0.05 * level.basis.radius)
    log_shift = torch.full((len(shifts),), 1 / len(shifts)).log()
    observed = data.observations(rows, level.grid, nowhere, shifts, log_shift)
    problem = centred_likelihood(data, level, nowhere, rows)
    problem = replace(problem, data=replace(problem.data, observe=lambda index: observed))
    templates = level.projector.templates(model.coefficients)
    power = (templates.abs().square().sum(1).mean(0) * observed.ctf2_over_noise).sum(1).mean()

    def at(scale: float) -> float:
        scaled = VolumeAndViews(scale / float(power) ** 0.5 * model.coefficients, model.log_views)
        return problem.statistics(level.unknowns(scaled)).log_likelihood

    return at


@pytest.mark.parametrize(("suffix", "sign"), [("star", -1), ("cs", 1)])
def test_ribosomes_are_found_in_the_right_contrast(shared_data: Path, suffix: str, sign: int) -> None:
    """EMPIAR-10076: 50S ribosomes, dense dark in the file. RELION's table does not say so, cryoSPARC's does.

    The reference is a 70S ribosome of about 260 Å; at 70 Å the two halves look alike enough to be told from nothing,
    and from a hole of the same shape.
    """
    data, level = _prepared(shared_data / "particles" / f"empiar_10076_7.{suffix}", 150.0)
    assert len(data) == 7
    ribosome, _ = read_map(shared_data / "maps" / "ribosome_70s_65.mrc", 5.4)
    ribosome = ribosome - ribosome[0].mean()
    likelihood = _likelihood(data, level, Enlarged(VoxelVolume(ribosome.double()), 5.4 / data.pixel_size_A))
    right, wrong = (max(likelihood(s * scale) for scale in (2.0, 4.0, 8.0)) for s in (sign, -sign))
    assert right > 20
    assert right > wrong + 20


def test_both_dialects_of_one_set_give_the_same_modes(shared_data: Path) -> None:
    star, cs = (_prepared(shared_data / "particles" / f"empiar_10076_7.{s}", 150.0)[0] for s in ("star", "cs"))
    difference = (star.modes + cs.modes).abs().square().sum() / star.modes.abs().square().sum()
    assert float(difference) < 1e-6  # the angles are rounded in RELION's table
    assert torch.allclose(star.filters, cs.filters, rtol=1e-4)


def test_filaments_at_their_own_poses(shared_data: Path) -> None:
    """RELION 3.1: the poses in the file explain the images with each other's mean better than poses rotated by 90°."""
    stack = ParticleStack.open(shared_data / "particles" / "relion31.star")
    poses = stack.poses()
    assert poses is not None
    data, level = _prepared(stack.table.path, 300.0)
    assert len(data) == 5
    # A filament lies along its psi: rotated upright, by the angle that the file gives, the images agree.
    from_psi = torch.atan2(poses[0][:, 2, 1], -poses[0][:, 2, 0])
    m = torch.arange(level.grid.max_mode + 1)
    modes = data.modes[:, : level.grid.max_mode + 1, : level.grid.node_count]

    def agreement(angles: Tensor) -> float:
        upright = modes * torch.exp(1j * m * angles[:, None]).to(torch.complex64)[:, :, None]
        pairs = torch.einsum("amk,bmk->ab", upright[:, 1:], upright[:, 1:].conj()).real
        return float((pairs.sum() - pairs.trace()) / pairs.trace())

    crossed = from_psi + torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).double() * torch.pi / 2
    assert agreement(-from_psi) > agreement(-crossed) + 0.05
