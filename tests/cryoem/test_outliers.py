"""Images that are not of the particle are told from those that are by their energies."""

import math

import pytest
import torch

from orbitrec.cryoem.outliers import BANDS, energy_outliers, outlier_odds, robust_deviations
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.noise import NoiseSpectrum

N, COUNT, RADIUS = 32, 400, 10.0
GRID = PolarGrid.for_radius(N, 22.0 / RADIUS, RADIUS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(scale: float = 1.0) -> tuple[ParticleModes, torch.Tensor]:
    """Views of three brightnesses in noise, seen through two filters; every fiftieth has a blob in addition."""
    generator, sigma = seeded(1), 1.0
    x = torch.arange(N) - N // 2
    distance = (x[:, None].square() + x.square()).float()
    particle = torch.exp(-distance / (2 * 3.0**2))
    contrast = torch.tensor([0.5, 1.0, 1.5])[torch.arange(COUNT) % 3]
    images = contrast[:, None, None] * particle + sigma * torch.randn(COUNT, N, N, generator=generator)
    blobs = torch.arange(COUNT) % 50 == 7
    images[blobs] += 3 * torch.exp(-distance / (2 * 5.0**2))
    power = torch.stack([torch.ones(GRID.node_count), torch.linspace(0.2, 1.0, GRID.node_count)])
    index = torch.arange(COUNT) % 2
    modes = scale * GRID.from_images(images) * power[index].sqrt()[:, None]
    return ParticleModes(GRID, modes, power, index, NoiseSpectrum.white(N, 1.0), 1.0), blobs


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_bright_images_are_outliers_at_any_scale(scale):
    data, blobs = stack(scale)
    assert torch.equal(energy_outliers(data, RADIUS), blobs)


def test_a_stack_of_equals_has_none():
    data, blobs = stack()
    assert not bool(energy_outliers(data.subset((~blobs).nonzero().flatten()), RADIUS).any())


def test_a_search_coarser_than_the_bands_uses_those_there_are():
    data, blobs = stack()
    coarse = GRID.truncated(9.0 / RADIUS, RADIUS)
    modes = data.modes[:, : coarse.max_mode + 1, : coarse.node_count]
    data = ParticleModes(coarse, modes, data.filters[:, : coarse.node_count], data.filter_index, data.noise, 1.0)
    assert float(coarse.nodes[-1]) * RADIUS < BANDS[-1]
    assert torch.equal(energy_outliers(data, RADIUS), blobs)


def test_deviations_are_those_of_a_normal_sample():
    values = torch.randn(20_000, 1, generator=seeded(2), dtype=torch.float64)
    deviations = robust_deviations(3 * values + 5)
    # The median absolute deviation of N values has a relative standard error of about 1.17/√N.
    assert float((deviations - values).abs().max()) < 5 * 4.5 * 1.17 / math.sqrt(20_000)


def test_odds():
    odds = outlier_odds(torch.tensor([False, True]))
    assert float(torch.sigmoid(odds[0])) == pytest.approx(0.1)
    assert float(odds[1]) == math.inf
