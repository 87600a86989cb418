"""Point groups: laws, RELION's axes, and invariant harmonics counted by Molien's series in closed form."""

import math
import re
import shutil
import subprocess

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.harmonics import InvariantHarmonics, harmonic_index
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import geodesic_distance, random_rotations, rotation_vector_to_matrix
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis, SphericalBesselVolume

ORDERS = {
    "C1": 1, "C2": 2, "c3": 3, "C5": 5, "C12": 12, "D2": 4, "D3": 6, "D4": 8, "D7": 14,
    "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60,
}  # fmt: skip
GROUPS = list(ORDERS)


def _same(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance of an element of ``a`` from the set ``b``."""
    return float((a[:, None] - b).abs().amax((2, 3)).amin(1).max())


@pytest.mark.parametrize("name", GROUPS)
def test_matrices_are_a_group_of_rotations(name):
    group = PointGroup.named(name)
    assert str(group) == name.upper()
    matrices = group.matrices()
    assert len(matrices) == group.order == ORDERS[name]
    assert torch.equal(matrices[0], torch.eye(3, dtype=torch.float64))
    assert _same((matrices[:, None] @ matrices).flatten(0, 1), matrices) < 1e-12
    assert _same(matrices.mT, matrices) < 1e-12
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(group.order, dtype=torch.float64))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", [name for name in GROUPS if name != "C1"])
def test_the_nearest_normalising_rotation_leaves_the_group_as_it_is(name, mirrored):
    """Q G Q⁻¹ = G for whatever is near, and what has it is returned; after the mirror x → −x too."""
    group = PointGroup.named(name)
    mirror = torch.diag(torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0], dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    off = rotation_vector_to_matrix(0.02 * torch.randn(3, generator=generator, dtype=torch.float64))
    seen = []
    for rotation in random_rotations(40, generator):
        found = group.nearest_normalising(rotation, mirrored=mirrored)
        whole = found @ mirror
        assert _same(whole @ group.matrices() @ whole.mT, group.matrices()) < 1e-9
        again = group.nearest_normalising(off @ found, mirrored=mirrored)
        assert float(geodesic_distance(again, found)) < 0.06
        assert torch.allclose(group.nearest_normalising(found, mirrored=mirrored), found, atol=1e-9)
        seen.append(found)
    # None of the group's cosets in its normaliser is missed: D2 in O has 6, T in O and Dn in D2n 2.
    cosets = [seen[0]]
    for each in seen:
        if min(_same(each[None], group.matrices() @ other) for other in cosets) > 1e-6:
            cosets.append(each)
    expected = {"D2": 6, "T": 2}.get(name.upper(), 2 if name.startswith("D") else 1)
    assert name.upper().startswith("C") or len(cosets) == expected


@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not installed")
@pytest.mark.parametrize("name", ["C12", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_axes_are_relions(name):
    command = ["relion_refine", "--print_symmetry_ops", "--sym", name]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    numbers = [found[1].split() for found in re.finditer(r"R\(\d+\)=\s*((?:\S+\s+){9})", printed)]
    theirs = torch.tensor([[float(x) for x in row] for row in numbers], dtype=torch.float64).reshape(-1, 3, 3)
    group = PointGroup.named(name)
    assert len(theirs) == group.order
    assert _same(theirs, group.matrices()) < 1e-5  # as many digits as it prints


@pytest.mark.parametrize("name", GROUPS)
def test_elements_are_a_symmetry_of_the_lattice_after_one_of_each_coset(name):
    group = PointGroup.named(name)
    lattice, cosets = group.stepwise()
    assert torch.equal(lattice.abs().sum(2), torch.ones(len(lattice), 3, dtype=torch.float64))
    products = (lattice[:, None] @ cosets).flatten(0, 1)
    assert len(products) == group.order
    assert _same(group.matrices(), products) < 1e-12


def _molien(name: str, degree: int) -> list[int]:
    """Coefficients of the series of invariant harmonics: ``(1 + t^a) / ((1 − t^b)(1 − t^c))``."""
    fold = int(name[1:] or 0) if name[0] in "CD" else 0
    a, b, c = {
        "C": (fold, 1, fold), "D": (fold + 1, 2, fold), "T": (6, 3, 4), "O": (9, 4, 6), "I": (15, 6, 10)
    }[name[0]]  # fmt: skip
    series = [int(l in (0, a)) for l in range(degree + 1)]
    for step in (b, c):
        for l in range(step, degree + 1):
            series[l] += series[l - step]
    return series


@pytest.mark.parametrize("name", [name.upper() for name in GROUPS])
def test_invariant_harmonics_are_as_many_as_moliens_series_says(name):
    assert InvariantHarmonics(40, PointGroup.named(name)).counts == _molien(name, 40)


@pytest.mark.parametrize("name", GROUPS)
def test_moliens_series_is_the_mean_of_the_characters(name):
    """The mean over the group of χ_l(ω) = sin((l + ½) ω) / sin(ω/2)."""
    group = PointGroup.named(name)
    angles = [math.acos(max(-1.0, min(1.0, (float(m.trace()) - 1) / 2))) for m in group.matrices()]
    for l, count in enumerate(_molien(name.upper(), 40)):
        characters = [2 * l + 1 if w < 1e-6 else math.sin((l + 0.5) * w) / math.sin(w / 2) for w in angles]
        assert count == pytest.approx(sum(characters) / group.order, abs=1e-6)


@pytest.mark.parametrize("name", ["C3", "D2", "D5", "T", "O", "I", "I3"])
def test_invariant_harmonics_are_invariant_and_orthonormal(name):
    group = PointGroup.named(name)
    functions = InvariantHarmonics(13, group)
    points = random_rotations(30, torch.Generator().manual_seed(2))[:, :, 2]
    here, copies = functions.values(points), functions.values(points @ group.matrices().mT)
    assert float((copies - here).abs().max()) < 1e-11
    vectors = functions.combined(torch.eye(14**2, dtype=torch.float64))
    assert torch.allclose(vectors.mT @ vectors, torch.eye(len(functions), dtype=torch.float64), atol=1e-12)
    l = functions.degrees
    assert torch.equal(functions.phases, torch.tensor([(-1j) ** d for d in l.tolist()], dtype=torch.complex128))
    even, odd = functions.by_parity
    opposite = functions.values(-points)
    assert torch.allclose(opposite[:, even], here[:, even])
    assert torch.allclose(opposite[:, odd], -here[:, odd])


@pytest.mark.parametrize("name", ["C1", "C2", "C5", "D2", "D3", "D4"])
def test_of_cyclic_and_dihedral_groups_they_are_harmonics_of_some_orders(name):
    """Those whose order the fold divides; with a two-fold axis along x, cosines of even l + m and sines of odd."""
    group, fold = PointGroup.named(name), int(name[1:])
    kept = [
        harmonic_index(l, m) for l in range(10) for m in range(-l, l + 1)
        if m % fold == 0 and (name[0] == "C" or (l + m) % 2 == (0 if m >= 0 else 1))
    ]  # fmt: skip
    vectors = InvariantHarmonics(9, group).combined(torch.eye(100, dtype=torch.float64))
    assert torch.equal(vectors.nonzero()[:, 0].sort().values, torch.tensor(kept))
    assert torch.allclose(vectors.amax(0), torch.ones(len(kept), dtype=torch.float64))


@pytest.mark.parametrize("name", ["C3", "D2", "D3", "T", "O", "I"])
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
    if not group.polyhedral:  # at this bandwidth the others have few functions but the spherical ones
        assert len(whole) / len(basis) == pytest.approx(group.order, rel=0.3)
    assert float(values.imag.abs().max()) > 1e-3 or name in ("D2", "D3", "O", "I")  # odd degrees: not a ball


@pytest.mark.parametrize("name", ["C0", "D1", "C", "tetrahedral", "C100", "I5", ""])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="give C1, C2"):
        PointGroup.named(name)


@pytest.mark.parametrize(("name", "rotations"), [("TH", "T"), ("Td", "T"), ("OH", "O"), ("I2H", "I2"), ("C3v", "C3")])
def test_groups_with_mirrors_are_refused_and_that_of_their_rotations_is_named(name, rotations):
    with pytest.raises(InputError, match=f"has mirror images in it.*its rotations, {rotations}$"):
        PointGroup.named(name)
