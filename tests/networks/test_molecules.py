"""The families of section 3.4.1: what is drawn is what the law says."""

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.networks.molecules import MEANS, PLAIN, ProteinLaw, ViewLaw, _chains
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_coefficients_of_a_gaussian_are_its_projection_on_the_basis():
    """``exp(−k²σ²/2) ψ(c)`` against the integral of the density over a fine grid; the Gaussian ends inside the ball."""
    basis, width = SphericalBesselBasis(8.0, 1.3), 1.2
    centre = torch.tensor([[1.0, -2.0, 1.5]], dtype=torch.float64)
    closed = basis.values(centre)[0] * torch.exp(-(basis.frequency * width).square() / 2)
    axis = torch.arange(-8, 9, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    inside = points.norm(dim=1) < 8
    blob = GaussianMixture(centre, torch.tensor([width]).double(), torch.ones(1).double()).to_grid(17).reshape(-1)
    summed = blob[inside] @ basis.values(points[inside])
    torch.testing.assert_close(closed, summed, atol=2e-4, rtol=0)


def test_values_are_what_volumes_are_made_of():
    basis = SphericalBesselBasis(5.0, 1.4)
    w = torch.randn(len(basis), generator=seeded(), dtype=torch.float64)
    grid = SphericalBesselVolume(basis, w).to_grid(11)
    points = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0], [-3.0, 0.0, 2.0]], dtype=torch.float64)
    at = points.long() + 5
    torch.testing.assert_close(basis.values(points) @ w, grid[at[:, 2], at[:, 1], at[:, 0]])


def test_proteins_have_norm_one_and_the_seed_decides_them():
    basis = SphericalBesselBasis(4.7, 2.5)
    one, same, other = (ProteinLaw().draw(20, basis, seeded(s)) for s in (1, 1, 2))
    torch.testing.assert_close(one.norm(dim=1), torch.ones(20).double())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one @ one.T - torch.eye(20).double()).abs().max() < 0.999


def test_chains_have_bonds_of_one_length_and_atoms_apart():
    chain = _chains(50, 20, seeded(3))
    bonds = (chain[:, 1:] - chain[:, :-1]).norm(dim=2)
    torch.testing.assert_close(bonds, torch.full_like(bonds, float(bonds[0, 0])))
    apart = torch.cdist(chain, chain) + torch.eye(20) * 9
    # Few chains run into corners without room.
    assert (apart.amin((1, 2)) > 0.84 * float(bonds[0, 0])).float().mean() > 0.5


def test_proteins_lie_in_their_principal_axes():
    """The second moments of the atoms' density along x, y, z rise; the atoms' own weights make it so exactly."""
    weights = torch.rand(30, 20, generator=seeded(4), dtype=torch.float64) + 0.5
    centres, _ = ProteinLaw(offset=0.0)._centres(torch.arange(30) % 2 == 0, weights, seeded(5))
    assert torch.einsum("na,nax->nx", weights, centres).abs().max() < 1e-9
    moments = torch.einsum("na,nax,nay->nxy", weights, centres, centres)
    diagonal = moments.diagonal(dim1=1, dim2=2)
    assert (moments - torch.diag_embed(diagonal)).abs().max() < 1e-9 * diagonal.max()
    assert (diagonal.diff(dim=1) >= 0).all()


def test_rods_are_thin():
    """Their longest axis is far longer than a globule's beside the shortest."""

    def ratio(rods):
        law = ProteinLaw(rods=rods, elongations=(1.0, 1.0), offset=0.0)
        weights = torch.ones(100, 20, dtype=torch.float64)
        centres, _ = law._centres(torch.full((100,), rods > 0), weights, seeded(6))
        spread = centres.square().sum(1)
        return float((spread[:, 2] / spread[:, 0]).median())

    assert ratio(1.0) > 4 * ratio(0.0)


def test_plain_proteins_are_positive():
    basis = SphericalBesselBasis(4.7, 2.5)
    coefficients = PLAIN.draw(5, basis, seeded())
    assert (torch.stack([SphericalBesselVolume(basis, w).to_grid(9).sum() for w in coefficients]) > 0).all()


def test_views_are_mixtures_of_the_five_fixed_means():
    assert (torch.cdist(MEANS, MEANS) + 9 * torch.eye(5)).min() > 2 * math.sin(math.radians(30))
    for views in ViewLaw(concentrations=(2.0, 4.0)).draw(10, seeded()):
        assert torch.allclose(views.means, MEANS, atol=2e-3)
        assert ((views.concentrations >= 2) & (views.concentrations <= 4)).all()


@pytest.mark.parametrize(
    "law", [lambda: ProteinLaw(atoms=1), lambda: ProteinLaw(extents=(0.9, 1.1)), lambda: ProteinLaw(widths=(0.5, 0.2)),
            lambda: ProteinLaw(rods=1.5),
            lambda: ViewLaw(weights=(0.0, 1.0))]
)  # fmt: skip
def test_bad_laws(law):
    with pytest.raises(InputError):
        law()
