import pytest
import torch

from orbitrec.volumes.base import Volume
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.summed import SummedVolume


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def atom(x: float) -> GaussianMixture:
    return GaussianMixture(torch.tensor([[x, 0.5, -1.0]]), torch.tensor([1.4]), torch.tensor([2.0 + x]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_gaussians_are_the_mixture_of_both(dtype):
    a, b = atom(1.0), atom(-2.0)
    both = GaussianMixture(*(torch.cat([getattr(v, f) for v in (a, b)]) for f in ("centers", "widths", "weights")))
    summed = SummedVolume(a, b)
    points = torch.randn(4, 5, 3, generator=seeded(0), dtype=dtype)
    assert isinstance(summed, Volume)
    assert summed.fourier(points).dtype == dtype.to_complex()
    assert torch.allclose(summed.fourier(points), both.fourier(points), atol=1e-5)
    assert torch.allclose(summed.to_grid(9), both.to_grid(9), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_refinement_starts_at_zero_and_grows(dtype):
    basis = SphericalBesselBasis(6.0, 1.0)
    coarse = SphericalBesselVolume(basis, torch.randn(len(basis), generator=seeded(1), dtype=torch.float64))
    net = FourierNet(6.0, seeded(2), width=16, scale=10.0).zero_().to(dtype)
    refined, truth = SummedVolume(coarse, net), atom(1.0)
    points = torch.randn(300, 3, generator=seeded(3), dtype=dtype)
    assert torch.equal(refined.fourier(points), coarse.fourier(points))
    assert torch.equal(refined.to_grid(9), coarse.to_grid(9))
    remainder, known = truth.fourier(points) - coarse.fourier(points), coarse.fourier(points)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(60):
        optimiser.zero_grad()
        (net.fourier(points) - remainder).abs().square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        left = (refined.fourier(points) - truth.fourier(points)).norm() / (known - truth.fourier(points)).norm()
    assert float(left) < 0.5
