import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.volumes.phantoms import protein_phantom


@pytest.mark.parametrize("atoms", [20, 150])
@pytest.mark.parametrize("seed", [0, 1])
def test_chain_is_compact_self_avoiding_and_centred(atoms, seed):
    radius = 19.2
    phantom = protein_phantom(atoms, radius, torch.Generator().manual_seed(seed))
    centers, widths, weights = phantom.centers, phantom.widths, phantom.weights
    bonds = (centers[1:] - centers[:-1]).norm(dim=1)
    distances = torch.pdist(centers)
    assert centers.shape == (atoms, 3)
    assert torch.allclose(bonds, bonds[0].expand(atoms - 1))
    assert float(distances.min()) > 0.849 * float(bonds[0])
    assert float((weights[:, None] * centers).sum(0).norm()) < 1e-9
    assert float((centers.norm(dim=1) + 2 * widths).max()) == pytest.approx(radius)
    # Compact: a stretched chain of 20 or more bonds would not fit, and a ball of this radius has 0.77 of it.
    gyration = float(centers.square().sum(1).mean().sqrt())
    assert 0.4 * radius < gyration < 0.77 * radius


def test_inside_the_box():
    grid = protein_phantom(60, 0.3 * 48, torch.Generator().manual_seed(3)).to_grid(48)
    x = torch.arange(48, dtype=torch.float64) - 24
    distance = (x.square()[:, None, None] + x.square()[:, None] + x.square()).sqrt()
    assert float(grid[distance > 0.36 * 48].sum()) < 1e-2 * float(grid.sum())


def test_not_its_own_mirror_image_or_half_turn():
    grid = protein_phantom(60, 10.0, torch.Generator().manual_seed(3)).to_grid(33)
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        flipped = grid.flip(axes)
        assert float((grid * flipped).sum() / grid.square().sum()) < 0.9


def test_generator_decides():
    first, again, other = (protein_phantom(30, 10.0, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.centers, again.centers)
    assert not torch.equal(first.centers, other.centers)


@pytest.mark.parametrize(("atoms", "radius"), [(3, 10.0), (20, 0.0)])
def test_impossible_requests(atoms, radius):
    with pytest.raises(InputError, match="phantom"):
        protein_phantom(atoms, radius, torch.Generator())
