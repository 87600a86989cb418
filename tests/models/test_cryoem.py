import math

import pytest
import torch

from oracles import cartesian_templates
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.geometry.rotations import direction_frames, euler_to_matrix, in_plane, random_rotations
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.models.cryoem import PolarProjector, equators, polar_templates
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume
from orbitrec.volumes.voxel import VoxelVolume

BASIS = SphericalBesselBasis(9.0, 0.9)
GRID = PolarGrid.for_radius(24, 0.8, 10.0)
DIRECTIONS = spherical_design(5)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 1.0], [-2.0, 2.5, 0.5]], dtype=torch.float64),
    torch.tensor([1.8, 2.0], dtype=torch.float64),
    torch.tensor([1.0, 2.0], dtype=torch.float64),
)


def coefficients(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(BASIS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@DTYPES
def test_projector_and_adjoint_are_a_pair(dtype, tolerance):
    projector = PolarProjector(BASIS, GRID, DIRECTIONS, dtype)
    w = coefficients(dtype)
    t = projector.templates(w)
    assert t.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
    x = torch.randn(t.shape, generator=torch.Generator().manual_seed(1), dtype=t.dtype)
    left, right = float((t.conj() * x).real.sum()), float(w @ projector.adjoint(x))
    assert abs(left - right) < tolerance * float(t.norm() * x.norm())
    weight = torch.rand(len(DIRECTIONS), GRID.node_count, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.allclose(
        projector.normal(w, weight), projector.adjoint(t * weight[:, None]), rtol=100 * tolerance, atol=100 * tolerance
    )


@DTYPES
def test_projector_gives_the_slices_of_its_volume(dtype, tolerance):
    w = coefficients(dtype)
    found = PolarProjector(BASIS, GRID, DIRECTIONS, dtype).templates(w)
    # The circle samples of polar_templates alias what is beyond its largest mode: J_20(7) ≈ 1e-8.
    expected = polar_templates(SphericalBesselVolume(BASIS, w.double()), GRID, DIRECTIONS)
    assert float((found - expected).abs().max() / expected.abs().max()) < max(tolerance, 1e-6)


def test_projector_agrees_with_slices_of_the_voxels():
    w = coefficients()
    found = PolarProjector(BASIS, GRID, DIRECTIONS, torch.float64).templates(w)
    voxels = VoxelVolume(SphericalBesselVolume(BASIS, w).to_grid(24))
    expected = polar_templates(voxels, GRID, DIRECTIONS)
    assert float((found - expected).norm() / expected.norm()) < 1e-2  # voxels alias a little


def test_turning_the_frame_multiplies_modes_by_phases():
    psi, frames = 0.6, direction_frames(DIRECTIONS) @ in_plane(torch.tensor(0.6, dtype=torch.float64))
    points = torch.cat([GRID.points, torch.zeros_like(GRID.points[..., :1])], dim=-1)
    rotated = GRID.from_circle(ATOMS.fourier(torch.einsum("dij,pkj->dpki", frames, points)))
    phase = torch.exp(1j * psi * torch.arange(GRID.max_mode + 1, dtype=torch.float64))[:, None]
    still = polar_templates(ATOMS, GRID, DIRECTIONS)
    assert float((rotated - phase * still).abs().max() / still.abs().max()) < 1e-7


@pytest.mark.parametrize("n", [24, 25])
def test_templates_are_the_transforms_of_projections(n):
    rotations = random_rotations(3, torch.Generator().manual_seed(3))
    simulation = ParticleSimulation(ATOMS, n, 1.0, rotations, torch.zeros(3, 2, dtype=torch.float64))
    images = simulation.clean(torch.arange(3), torch.float64)
    cartesian = cartesian_templates(ATOMS, n, rotations)
    assert torch.allclose(cartesian[:, 0].reshape(3, n, n), centred_fft(images), atol=1e-7)
    # On the polar grid: the view along R e_z in the frame with psi = 0, rotated by −psi.
    grid = PolarGrid.for_radius(n, 2.0, 11.0)
    directions = rotations[:, :, 2]
    left_over = direction_frames(directions).mT @ rotations
    psi = torch.atan2(left_over[:, 1, 0], left_over[:, 0, 0])
    phase = torch.exp(1j * psi[:, None] * torch.arange(grid.max_mode + 1, dtype=torch.float64))
    found = polar_templates(ATOMS, grid, directions) * phase[:, :, None]
    assert float((found - grid.from_images(images)).abs().max() / found.abs().max()) < 1e-6


@pytest.mark.parametrize("n", [24, 25])
def test_psi_turns_templates_of_voxels_as_it_turns_their_projections(n):
    # In-plane angle α = −psi: an image's mode m is that of the view with psi = 0 times e^{+im psi}.
    angles_deg = torch.tensor([[40.0, 70.0, 25.0], [-110.0, 130.0, 160.0], [0.0, 0.0, -75.0]], dtype=torch.float64)
    rotations, voxels = euler_to_matrix(angles_deg), VoxelVolume(ATOMS.to_grid(n))
    simulation = ParticleSimulation(voxels, n, 1.0, rotations, torch.zeros(3, 2, dtype=torch.float64))
    grid = PolarGrid.for_radius(n, 2.0, 11.0)
    images = grid.from_images(simulation.clean(torch.arange(3), torch.float64))
    templates = polar_templates(voxels, grid, rotations[:, :, 2])
    phase = torch.exp(1j * torch.deg2rad(angles_deg[:, 2:]) * torch.arange(grid.max_mode + 1, dtype=torch.float64))
    scale = float(images.abs().max())
    assert float((templates * phase[:, :, None] - images).abs().max()) < 3e-5 * scale
    assert float((templates * phase.conj()[:, :, None] - images).abs().max()) > 0.05 * scale


def test_turned_templates_are_relions_projections(shared_data):
    stack = ParticleStack.open(shared_data / "reference" / "relion" / "emd_0409_clean.star", ctf=False)
    rotations, _ = stack.poses()
    voxels = VoxelVolume(read_map(shared_data / "maps" / "emd_0409_64.mrc")[0].double())
    # This map's solvent is not zero: the corners of its cube, which images of its size cut off, cost a per cent.
    grid, rows = PolarGrid.for_radius(64, 0.6 * math.pi, 20.0), torch.arange(0, 24, 4)
    images = grid.from_images(stack.images(rows).double())
    rotations = rotations[rows].double()
    directions = rotations[:, :, 2]
    left_over = direction_frames(directions).mT @ rotations
    psi = torch.atan2(left_over[:, 1, 0], left_over[:, 0, 0])
    phase = torch.exp(1j * psi[:, None] * torch.arange(grid.max_mode + 1, dtype=torch.float64))[:, :, None]
    templates = polar_templates(voxels, grid, directions)

    def correlation(t: torch.Tensor) -> torch.Tensor:
        return (t.conj() * images).real.sum((1, 2)) / (
            t.abs().square().sum((1, 2)) * images.abs().square().sum((1, 2))
        ).sqrt()

    assert float(correlation(templates * phase).min()) > 0.985
    assert float(correlation(templates * phase.conj()).max()) < 0.8


def test_normal_operator_is_symmetric_and_positive():
    projector = PolarProjector(BASIS, GRID, DIRECTIONS, torch.float64)
    weight = torch.rand(len(DIRECTIONS), GRID.node_count, generator=torch.Generator().manual_seed(2)).double()
    a, b = coefficients(seed=3), coefficients(seed=4)
    left, right = float(a @ projector.normal(b, weight)), float(b @ projector.normal(a, weight))
    assert left == pytest.approx(right, rel=1e-12)
    energy = projector.templates(a).abs().square().sum(1)
    assert float(a @ projector.normal(a, weight)) == pytest.approx(float((weight * energy).sum()), rel=1e-12)


def test_opposite_views_are_mirror_images():
    # The frame of −d is that of d with its y axis reversed: φ → −φ, of a real image m → (−1)^m conj.
    half = len(DIRECTIONS) // 2
    templates = polar_templates(ATOMS, GRID, DIRECTIONS)
    sign = (-1.0) ** torch.arange(GRID.max_mode + 1, dtype=torch.float64)[:, None]
    assert torch.allclose(templates[half:], sign * templates[:half].conj(), atol=1e-12)


@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I"])
def test_equivalent_directions_have_one_template_and_its_adjoint_fits(name):
    """``v̂(g R k) = v̂(R k)``: the templates of d and of g d differ by the angle between their frames."""
    group = PointGroup.named(name)
    basis, grid = SphericalBesselBasis(9.0, 1.4, group=group), PolarGrid.for_radius(24, 1.2, 10.0)
    half = random_rotations(1, torch.Generator().manual_seed(5))[0] @ group.matrices()[:7]
    half = torch.cat([half[:, :, 2], (group.matrices()[1] @ half[:, :, 2].mT).mT])
    projector = PolarProjector(basis, grid, torch.cat([half, -half]), torch.float64)
    w = torch.randn(len(basis), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    count, templates = len(half) // 2, projector.templates(w)
    between = direction_frames(half[count:]).mT @ group.matrices()[1] @ direction_frames(half[:count])
    psi = torch.atan2(between[:, 1, 0], between[:, 0, 0])
    phase = torch.polar(torch.ones_like(psi)[:, None], psi[:, None] * torch.arange(grid.max_mode + 1))
    rotated = templates[count : 2 * count] * phase[..., None]
    assert torch.allclose(templates[:count], rotated, atol=1e-10 * float(templates.abs().max()))
    x = torch.randn(templates.shape, generator=torch.Generator().manual_seed(7), dtype=torch.complex128)
    assert float((templates.conj() * x).sum().real) == pytest.approx(float(w @ projector.adjoint(x)), rel=1e-10)
    weight = torch.rand(len(templates), grid.node_count, generator=torch.Generator().manual_seed(8)).double()
    assert torch.allclose(projector.gram(weight) @ w, projector.normal(w, weight), rtol=1e-8)


def test_uniform_diagonal_is_the_mean_over_directions():
    projector = PolarProjector(BASIS, GRID, spherical_design(2 * BASIS.degree + 1), torch.float64)
    weight = torch.rand(GRID.node_count, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    spread = weight.expand(len(projector.directions), -1) / len(projector.directions)
    exact = torch.stack([projector.normal(row, spread)[i] for i, row in enumerate(torch.eye(len(BASIS)).double())])
    assert torch.allclose(projector.uniform_diagonal(weight), exact, rtol=1e-6)


def test_equators_are_perpendicular_to_their_direction():
    circles = equators(DIRECTIONS, 7)
    assert torch.allclose(torch.einsum("dpi,di->dp", circles, DIRECTIONS), torch.zeros(len(DIRECTIONS), 7).double())
    assert torch.allclose(circles.norm(dim=-1), torch.ones(len(DIRECTIONS), 7).double())
    step = torch.einsum("dpi,dpi->dp", circles, circles.roll(1, 1))
    assert torch.allclose(step, torch.full_like(step, math.cos(2 * math.pi / 7)))


def test_directions_that_are_no_antipodal_pairs_are_refused():
    with pytest.raises(InputError, match="antipodal"):
        PolarProjector(BASIS, GRID, DIRECTIONS.flip(0)[1:])


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-10), (torch.float64, 1e-25)])
def test_what_templates_do_not_reach_is_a_rounding_error_of_them(dtype, share):
    projector = PolarProjector(BASIS, GRID, DIRECTIONS, dtype)
    power = projector.templates(coefficients().to(dtype)).abs().double().square()
    assert float((power * ~projector.reach).sum()) < share * float(power.sum())
    assert not projector.reach[BASIS.degree + 1 :].any()
    assert projector.reach[0].all()
    if dtype == torch.float32:  # modes far above k·radius are gone
        assert not projector.reach[BASIS.degree, 0]


def test_the_normal_operator_is_the_adjoint_of_weighted_templates():
    projector, w = PolarProjector(BASIS, GRID, DIRECTIONS, torch.float64), coefficients()
    weight = torch.rand(len(DIRECTIONS), GRID.node_count, generator=torch.Generator().manual_seed(7)).double()
    expected = projector.adjoint(projector.templates(w) * weight[:, None])
    assert torch.allclose(projector.normal(w, weight), expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))
