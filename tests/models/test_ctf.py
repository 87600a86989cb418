import math

import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.grids import frequencies, radial_frequencies
from orbitrec.models.ctf import CTFParameters


def parameters(rows: list[list[float]]) -> CTFParameters:
    return CTFParameters(*torch.tensor(rows, dtype=torch.float64).unbind(1))


ROWS = [
    [15000.0, 13000.0, 35.0, 300.0, 2.7, 0.1, 0.0],
    [21000.0, 21000.0, 0.0, 200.0, 2.0, 0.07, 90.0],
    [9000.0, 12000.0, -70.0, 300.0, 0.01, 0.1, 20.0],
]


def test_agrees_with_another_program(shared_data):
    stored = np.load(shared_data / "reference" / "aspire0143_ctf.npz")
    for (voltage, u, v, angle_rad, cs, contrast, pixel_size), expected in zip(
        stored["params"], stored["ctf"], strict=True
    ):
        row = [u, v, math.degrees(angle_rad), voltage, cs, contrast, 0.0]
        ours = parameters([row]).on_grid(64, float(pixel_size), torch.float64)[0]
        # That program's CTF is +sin χ, negative at zero frequency; RELION's is the opposite.
        assert float((ours + torch.from_numpy(expected)).abs().max()) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [32, 33])
def test_matches_relions_formula_point_by_point(n, dtype):
    pixel_size = 1.7
    ours = parameters(ROWS).on_grid(n, pixel_size, dtype)
    assert ours.dtype == dtype
    k = frequencies(n).numpy() / (2 * np.pi * pixel_size)
    for row, image in zip(ROWS, ours.double().numpy(), strict=True):
        u, v, angle, kv, cs, w, shift = row
        volts = kv * 1e3
        lam = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
        y, x = np.meshgrid(k, k, indexing="ij")
        s2, theta = x**2 + y**2, np.arctan2(y, x) - np.radians(angle)
        defocus = -(u + v) / 2 - (u - v) / 2 * np.cos(2 * theta)
        k1, k2, k3 = np.pi * lam, np.pi / 2 * cs * 1e7 * lam**3, math.atan(w / math.sqrt(1 - w * w))
        expected = -np.sin(k1 * defocus * s2 + k2 * s2**2 - math.radians(shift) - k3)
        assert np.abs(image - expected).max() < (1e-4 if dtype == torch.float32 else 1e-12)


def test_value_at_zero_frequency():
    zero = parameters(ROWS).evaluate(torch.zeros(2, dtype=torch.float64), 1.0)
    expected = [math.sin(math.asin(row[5]) + math.radians(row[6])) for row in ROWS]
    assert torch.allclose(zero, torch.tensor(expected, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_azimuthal_averages_equal_dense_averages(dtype):
    ctf, pixel_size = parameters(ROWS), 1.3
    k = torch.linspace(0, math.pi, 17, dtype=torch.float64)
    theta = 2 * math.pi * torch.arange(720, dtype=torch.float64) / 720
    points = torch.stack([k[:, None] * theta.cos(), k[:, None] * theta.sin()], dim=-1)
    dense = ctf.evaluate(points, pixel_size)
    # torch's J0 itself is good to 4e-7.
    tolerance = 1e-4 if dtype == torch.float32 else 2e-6
    assert (ctf.radial(k.to(dtype), pixel_size) - dense.mean(-1)).abs().max() < tolerance
    assert (ctf.radial_square(k.to(dtype), pixel_size) - dense.square().mean(-1)).abs().max() < tolerance


def test_unique_rows_rebuild_every_particle():
    order = torch.tensor([2, 0, 0, 1, 2, 1, 1])
    ctf = parameters(ROWS).select(order)
    rows, inverse = ctf.unique()
    assert len(rows) == 3
    assert torch.equal(rows.select(inverse).on_grid(8, 2.0), ctf.on_grid(8, 2.0))


def test_astigmatism_is_longest_along_its_angle():
    # Along the defocus angle the defocus is U: the first zero of a strongly astigmatic CTF lies where U puts it.
    u, v, angle = 20000.0, 10000.0, 30.0
    astigmatic = parameters([[u, v, angle, 300.0, 0.0, 0.0, 0.0]])
    plain = parameters([[u, u, 0.0, 300.0, 0.0, 0.0, 0.0], [v, v, 0.0, 300.0, 0.0, 0.0, 0.0]])
    k = torch.linspace(0.1, 1.5, 20, dtype=torch.float64)
    for degrees, expected in ((angle, plain.radial(k, 2.0)[0]), (angle + 90, plain.radial(k, 2.0)[1])):
        direction = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]).double()
        assert torch.allclose(astigmatic.evaluate(k[:, None] * direction, 2.0)[0], expected, atol=1e-6)


def test_radial_equals_grid_without_astigmatism():
    ctf = parameters([ROWS[1]])
    k = radial_frequencies(15).reshape(-1)
    assert torch.allclose(ctf.radial(k, 1.5).reshape(15, 15), ctf.on_grid(15, 1.5, torch.float64)[0], atol=1e-12)


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [(3, 0.0, "voltage_kV"), (5, 1.5, "amplitude_contrast"), (0, math.nan, "defocus_u_A")],
)
def test_impossible_values_are_named_with_their_row(column, value, name):
    rows = [list(row) for row in ROWS]
    rows[1][column] = value
    with pytest.raises(InputError, match=rf"{name} of particle 2"):
        parameters(rows)
