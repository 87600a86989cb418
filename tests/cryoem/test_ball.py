"""The ball of a shell, against shells of known radius."""

import pytest
import torch

from orbitrec.cryoem.ball import ball_radius
from orbitrec.geometry.polar import PolarGrid

WIDTH = 1.5


def _profile(grid: PolarGrid, radius: float) -> torch.Tensor:
    """Mode 0 of a thin shell, blurred by a Gaussian of :data:`WIDTH`: its transform is sin(ka)/(ka) e^{−k²σ²/2}."""
    k = grid.nodes
    return grid.scale * torch.sin(k * radius) / (k * radius) * torch.exp(-0.5 * (k * WIDTH).square())


@pytest.mark.parametrize("n", [48, 63])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.22, 0.3])
def test_the_ball_holds_a_shell_and_little_more(n, dtype, share):
    grid = PolarGrid.for_radius(n, 1.1, 0.48 * n)
    found = ball_radius(grid, _profile(grid, share * n).to(dtype), torch.ones(grid.node_count, dtype=dtype))
    assert found is not None
    assert share * n < found < share * n + 4 * WIDTH


def test_noise_of_a_long_average_does_not_move_it():
    n, generator = 64, torch.Generator().manual_seed(1)
    grid = PolarGrid.for_radius(n, 1.1, 0.48 * n)
    profile = _profile(grid, 19.0)
    noise = (
        torch.randn(grid.node_count, generator=generator, dtype=torch.float64) * 0.02 * profile.square().mean().sqrt()
    )
    power = torch.sin(3 * grid.nodes).square() + 0.05  # a CTF leaves gaps
    found = ball_radius(grid, profile + noise, power)
    assert found is not None
    assert 19.0 < found < 19.0 + 4 * WIDTH


def test_what_does_not_end_within_the_box_has_no_ball():
    n = 48
    grid = PolarGrid.for_radius(n, 1.1, 0.48 * n)
    assert ball_radius(grid, _profile(grid, 0.55 * n), torch.ones(grid.node_count)) is None
    noise = torch.randn(grid.node_count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = ball_radius(grid, noise, torch.ones(grid.node_count))
    assert found is None or found > 0.3 * n
