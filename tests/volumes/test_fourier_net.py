import math

import pytest
import torch

from oracles import cartesian_templates
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_ifft
from orbitrec.geometry.grids import frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.base import Circle
from orbitrec.models.cryoem import polar_templates
from orbitrec.moments.analytic import full_moments, uniform_moments
from orbitrec.moments.losses import moment_loss
from orbitrec.volumes.base import Volume
from orbitrec.volumes.fourier_net import FourierNet
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(seed: int = 0, width: int = 6, latent: int = 0, scale: float = 1.0) -> FourierNet:
    return FourierNet(5.0, seeded(seed), width=width, latent=latent, scale=scale).double()


def in_ball(count: int, k_max: float, generator: torch.Generator) -> torch.Tensor:
    points = torch.randn(count, 3, generator=generator)
    return points / points.norm(dim=1, keepdim=True) * k_max * torch.rand(count, 1, generator=generator)


@pytest.mark.parametrize("latent", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_real_density_has_a_hermitian_transform(dtype, latent):
    net = FourierNet(8.0, seeded(1), latent=latent).to(dtype)
    volume = net.given(torch.randn(3, generator=seeded(2), dtype=dtype)) if latent else net
    points = 2 * torch.randn(7, 30, 3, generator=seeded(3), dtype=dtype)
    with torch.no_grad():
        found = volume.fourier(points)
        assert found.dtype == dtype.to_complex()
        scale = float(found.abs().max())
        assert torch.allclose(volume.fourier(-points), found.conj(), atol=50 * torch.finfo(dtype).eps * scale, rtol=0)
        # Not by being trivial: real and imaginary parts vary over the points.
        assert min(float(found.real.std()), float(found.imag.std())) > 0.05 * scale


@pytest.mark.parametrize("n", [9, 12])
def test_its_grid_is_real_and_has_its_transform(n):
    net = small()
    k = frequencies(n)
    z, y, x = torch.meshgrid(k, k, k, indexing="ij")
    points = torch.stack([x, y, z], dim=-1)
    with torch.no_grad():
        spectrum, grid = net.fourier(points), net.to_grid(n)
        # An even grid has the frequency −π without +π, so only without its planes is it closed under k → −k.
        odd = spectrum[1 - n % 2 :, 1 - n % 2 :, 1 - n % 2 :]
        assert float(centred_ifft(odd, ndim=3).imag.abs().max()) < 1e-13 * float(odd.abs().sum())
        again = VoxelVolume(grid).fourier(points)
    inside = points.abs().amax(-1) < math.pi - 1e-9
    assert torch.allclose(again[inside], spectrum[inside], atol=1e-9 * float(spectrum.abs().max()), rtol=0)


def test_nothing_is_left_beyond_k_max():
    net = FourierNet(5.0, seeded(0), width=6, k_max=1.5)
    points = in_ball(200, 3.0, seeded(1))
    inside = points.norm(dim=1) <= 1.5
    with torch.no_grad():
        found, unlimited = net.fourier(points), FourierNet(5.0, seeded(0), width=6).fourier(points)
    assert torch.equal(found[inside], unlimited[inside])
    assert float(found[~inside].abs().max()) == 0
    assert float(unlimited[~inside].abs().min()) > 0


def test_a_short_fit_finds_a_closed_form_transform():
    # Relative to the transform itself, at points held out: a network that is zero has the error 1.
    truth, scale = protein_phantom(20, 9.0, seeded(0)), 20.0
    net, generator = FourierNet(9.0, seeded(1), width=32, scale=scale), seeded(2)
    held_out = in_ball(2000, 1.5, seeded(3))
    expected = truth.fourier(held_out)
    steps = 120
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for _ in range(steps):
        points = in_ball(512, 1.5, generator)
        loss = ((net.fourier(points) - truth.fourier(points)) / scale).abs().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        error = (net.fourier(held_out) - expected).norm() / expected.norm()
    assert float(error) < 1 / 20


def moment_losses(net: FourierNet) -> torch.Tensor:
    """The loss (2.17) of the polar moments and of the Cartesian ones of one small problem."""
    truth, directions = protein_phantom(6, 3.0, seeded(4)), spherical_design(3)
    density = torch.rand(len(directions), generator=seeded(5), dtype=torch.float64).softmax(0)
    grid = PolarGrid(10, 1.8, 3, 3)
    rotations = torch.linalg.qr(torch.randn(4, 3, 3, generator=seeded(6), dtype=torch.float64))[0]
    weights = torch.full((4, 1), 0.25, dtype=torch.float64)
    circle = Circle(torch.tensor([0]), 1)
    polar = [uniform_moments(polar_templates(v, grid, directions), density, grid) for v in (truth, net)]
    cartesian = [full_moments(cartesian_templates(v, 5, rotations), weights, circle) for v in (truth, net)]
    return torch.stack([moment_loss(target, model) for target, model in (polar, cartesian)])


def test_gradients_flow_through_both_grids():
    net = small(7, scale=3.0)
    parameters = list(net.parameters())
    along = [torch.randn(p.shape, generator=seeded(8), dtype=p.dtype) / 30 for p in parameters]

    def moved(by: float) -> torch.Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p += by * d
            losses = moment_losses(net)
            for p, d in zip(parameters, along, strict=True):
                p -= by * d
        return losses

    step = 1e-4
    differences = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    for loss, expected in zip(moment_losses(net), differences, strict=True):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        assert all(float(g.abs().max()) > 0 for p, g in zip(parameters, gradients, strict=True) if p.numel())
        found = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True))
        assert found == pytest.approx(float(expected), rel=1e-6)


def test_gradients_flow_to_points_and_latent_vector():
    net = small(9, latent=2)
    points = torch.randn(5, 3, generator=seeded(10), dtype=torch.float64).requires_grad_()
    latent = torch.randn(2, generator=seeded(11), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda k, z: net.given(z).fourier(k), (points, latent))


def test_weights_follow_the_generator_alone():
    torch.manual_seed(0)
    first = FourierNet(6.0, seeded(12), width=5, latent=2).state_dict()
    torch.manual_seed(1)
    second, other = (FourierNet(6.0, seeded(s), width=5, latent=2).state_dict() for s in (12, 13))
    assert all(torch.equal(second[name], value) for name, value in first.items())
    drawn = [name for name, value in first.items() if float(value.abs().max()) > 0]
    assert len(drawn) == len(first) - 2  # all but the two outputs' offsets
    assert not any(torch.equal(other[name], first[name]) for name in drawn)


def test_the_latent_vector_chooses_the_volume():
    net = small(14, latent=2)
    points = torch.randn(9, 3, generator=seeded(15), dtype=torch.float64)
    one, two = (net.given(torch.tensor(z, dtype=torch.float64)) for z in ([0.5, -1.0], [0.4, -1.0]))
    assert isinstance(net, Volume)
    assert isinstance(one, Volume)
    with torch.no_grad():
        assert float((one.fourier(points) - two.fourier(points)).abs().max()) > 1e-4
        assert torch.equal(one.to_grid(4), net.to_grid(4, one.latent))


def test_bad_input_is_said():
    points = torch.zeros(1, 3)
    with pytest.raises(InputError, match="radius must be positive"):
        FourierNet(0.0, seeded(0))
    with pytest.raises(InputError, match="latent vector of 2 numbers, not 0"):
        small(latent=2).fourier(points)
    with pytest.raises(InputError, match="latent vector of 0 numbers, not 1"):
        small().given(torch.zeros(1)).fourier(points)
