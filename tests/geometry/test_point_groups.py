"""Point groups: closure, RELION's setting, invariant harmonics counted by characters."""

import math

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.harmonics import invariant_orders
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

GROUPS = ["C1", "C2", "c3", "C5", "D2", "D3", "D4"]


@pytest.mark.parametrize("name", GROUPS)
def test_matrices_are_a_group_of_rotations(name):
    group = PointGroup.named(name)
    assert str(group) == name.upper()
    matrices = group.matrices()
    assert len(matrices) == group.order
    assert torch.equal(matrices[0], torch.eye(3, dtype=torch.float64))
    products = (matrices[:, None] @ matrices).flatten(0, 1)
    distance = (products[:, None] - matrices).flatten(2).norm(dim=2)
    assert float(distance.amin(1).max()) < 1e-12
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(group.order, dtype=torch.float64))


@pytest.mark.parametrize("name", GROUPS)
def test_invariant_harmonics_are_as_many_as_characters_say(name):
    """The mean over the group of χ_l(ω) = sin((l + ½) ω) / sin(ω/2)."""
    group = PointGroup.named(name)
    angles = [math.acos(max(-1.0, min(1.0, (float(m.trace()) - 1) / 2))) for m in group.matrices()]
    for l in range(9):
        characters = [2 * l + 1 if w < 1e-6 else math.sin((l + 0.5) * w) / math.sin(w / 2) for w in angles]
        assert len(invariant_orders(l, group)) == pytest.approx(sum(characters) / group.order)


@pytest.mark.parametrize("name", ["C3", "D2", "D3"])
def test_volumes_of_a_symmetric_basis_are_symmetric(name):
    group = PointGroup.named(name)
    basis = SphericalBesselBasis(8.0, 1.2, group=group)
    w = torch.randn(len(basis), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    volume = SphericalBesselVolume(basis, w)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.4
    values = volume.fourier(points)
    for turn in group.matrices():
        assert torch.allclose(volume.fourier(points @ turn.mT), values, atol=1e-6 * float(values.abs().max()))
    whole = SphericalBesselBasis(8.0, 1.2)
    assert len(whole) / len(basis) == pytest.approx(group.order, rel=0.3)
    assert float(values.imag.abs().max()) > 1e-3 or group.dihedral  # a volume of its own, not a ball


@pytest.mark.parametrize("name", ["C0", "D1", "O", "C", "tetrahedral", "C100", ""])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="give C1, C2"):
        PointGroup.named(name)
