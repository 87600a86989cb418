"""Phases that a CTF's usual parameters leave out, against RELION's programs and closed forms."""

import math
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from scipy.special import eval_jacobi

from orbitrec.geometry.fourier import centred_fft
from orbitrec.geometry.grids import frequency_vectors
from orbitrec.models.aberrations import Aberrations, beam_tilt_zernike, even_index, odd_index, zernike
from orbitrec.models.ctf import electron_wavelength_A

N, PIXEL_A = 32, 2.0
KV, CS_MM = 300.0, 2.7
# The first two undo what the fourth and fifth displace.
ODD, EVEN = [20.0, 40.0, 30.0, 10.0, 20.0, -15.0], [0.1, 2.0, 3.0, 4.0, 50.0, 60.0, -70.0, 80.0, 90.0]
WAVELENGTH_A = electron_wavelength_A(torch.tensor([KV], dtype=torch.float64))
needs_relion = pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION's programs are not installed")


def _of(
    odd: list[float] | torch.Tensor = ODD, even: list[float] = EVEN, magnification: tuple[float, ...] = (0, 0, 0, 0)
) -> Aberrations:
    matrix = torch.tensor(magnification, dtype=torch.float64).reshape(1, 2, 2)
    rows = [torch.as_tensor(each, dtype=torch.float64).reshape(1, -1) for each in (odd, even)]
    return Aberrations(*rows, matrix, torch.zeros(1, dtype=torch.long))


def _text(coefficients: list[float]) -> str:
    """A list as RELION writes it: without blanks, which it would take for the end of a value."""
    return f"[{','.join(map(str, coefficients))}]"


def _ran(*command: str, folder: Path) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _star(folder: Path, name: str, image: str = "plain", **optics: object) -> None:
    """One particle whose optics group has these columns too."""
    shared = {
        "rlnOpticsGroupName": "a", "rlnOpticsGroup": 1, "rlnVoltage": KV, "rlnSphericalAberration": CS_MM,
        "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_A, "rlnImageSize": N, "rlnImageDimensionality": 2,
    }  # fmt: skip
    zeros = dict.fromkeys(["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"], 0.0)
    defocus = {"rlnDefocusU": 8000.0, "rlnDefocusV": 7500.0, "rlnDefocusAngle": 30.0}
    row = zeros | defocus | {"rlnOpticsGroup": 1, "rlnImageName": f"1@{image}.mrcs"}
    tables = {"optics": pd.DataFrame([shared | optics]), "particles": pd.DataFrame([row])}
    starfile.write(tables, folder / f"{name}.star", overwrite=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the map of some blobs."""
    path = tmp_path_factory.mktemp("relion")
    at = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    grid = torch.cartesian_prod(*[torch.arange(N, dtype=torch.float64) - N // 2] * 3)
    blobs = torch.exp(-torch.cdist(grid, at).square() / 1.5).sum(1).reshape(N, N, N)
    with mrcfile.new(path / "map.mrc") as file:
        file.set_data(blobs.float().numpy())
        file.voxel_size = PIXEL_A
    return path


def _projection(folder: Path, name: str, *options: str, **optics: object) -> torch.Tensor:
    """The transform of relion_project's image."""
    _star(folder, name, **optics)
    command = ["relion_project", "--i", "map.mrc", "--ang", f"{name}.star", "--o", name, "--angpix", str(PIXEL_A)]
    _ran(*command, *options, folder=folder)
    with mrcfile.open(folder / f"{name}.mrcs") as file:
        return centred_fft(torch.from_numpy(np.asarray(file.data, np.float64).reshape(N, N)))


def _chi(s: torch.Tensor) -> torch.Tensor:
    x, y = s.unbind(-1)
    square, angle = x * x + y * y, torch.atan2(y, x) - math.radians(30)
    defocus = 7750 + 250 * torch.cos(2 * angle)
    return -math.pi * WAVELENGTH_A * defocus * square + (
        math.pi / 2 * CS_MM * 1e7 * WAVELENGTH_A**3 * square**2 - math.asin(0.1)
    )


@needs_relion
def test_even_phases_are_relions(folder):
    """``relion_project --ctf`` adds them to χ."""
    plain, changed = _projection(folder, "plain"), _projection(folder, "even", "--ctf", rlnEvenZernike=_text(EVEN))
    s = frequency_vectors(N) / (2 * math.pi * PIXEL_A)
    expected = -plain * torch.sin(_chi(s) + _of().even_phase(s)[0])
    assert float((changed - expected).abs().norm() / expected.abs().norm()) < 1e-5


@needs_relion
@pytest.mark.parametrize(
    ("kind", "given", "tilt_mrad"),
    [
        ("zernike", ODD, None),
        ("tilt", None, [3.0, -1.5]),
        # RELION's refinement of aberrations writes tilt in its own columns, and zeros for it in the list.
        ("both", [0.0, 0.0, 30.0, 0.0, 0.0, -15.0], [3.0, -1.5]),
    ],
)
def test_odd_phases_are_relions(folder, kind, given, tilt_mrad):
    """``relion_reconstruct`` takes them off an image before it puts it into the map."""
    coefficients = torch.tensor([given or [0.0] * 6], dtype=torch.float64)
    optics: dict[str, object] = {"rlnOddZernike": _text(given)} if given else {}
    if tilt_mrad is not None:
        tilt = torch.tensor([tilt_mrad], dtype=torch.float64)
        coefficients = coefficients + beam_tilt_zernike(tilt, torch.tensor([CS_MM]).double(), WAVELENGTH_A)
        optics |= {"rlnBeamTiltX": tilt_mrad[0], "rlnBeamTiltY": tilt_mrad[1]}
    _projection(folder, "plain")
    transforms = []
    for name, columns in (("without", {}), (kind, optics)):
        _star(folder, name, **columns)
        _ran("relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf", folder=folder)
        with mrcfile.open(folder / f"{name}.mrc") as file:
            transforms.append(centred_fft(torch.from_numpy(np.asarray(file.data, np.float64).sum(0))))
    s = frequency_vectors(N) / (2 * math.pi * PIXEL_A)
    phase, seen = _of(coefficients).odd_phase(s)[0], s.norm(dim=-1) < 0.18
    assert float(phase[seen].abs().max()) > 0.2
    error = (transforms[1] - transforms[0] * torch.polar(torch.ones_like(phase), -phase))[seen]
    # The map's window in real space blurs phases a little.
    assert float(error.abs().norm() / transforms[0][seen].abs().norm()) < 0.03


@needs_relion
def test_a_magnification_moves_by_what_relion_moves(folder):
    """What is at r in an image is moved by (M − 1)ᵀ r, to first order, when RELION puts it into a map."""
    change, at = np.array([[0.05, 0.02], [-0.02, -0.03]]), np.array([9.0, -4.0])
    grid = np.arange(N) - N // 2
    blob = np.exp(-((grid[None, :] - at[0]) ** 2 + (grid[:, None] - at[1]) ** 2) / 8)
    with mrcfile.new(folder / "blob.mrcs", overwrite=True) as file:
        file.set_data(blob[None].astype(np.float32))
        file.voxel_size = PIXEL_A
    columns = {f"rlnMagMat{i}{j}": (np.eye(2) + change)[i, j] for i in range(2) for j in range(2)}
    found = []
    for name, given in (("straight", {}), ("magnified", columns)):
        _star(folder, name, "blob", **given)
        _ran("relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", folder=folder)
        with mrcfile.open(folder / f"{name}.mrc") as file:
            image = np.asarray(file.data, np.float64).sum(0).clip(min=0) ** 2
        found.append(np.array([(image.sum(axis) * grid).sum() for axis in (0, 1)]) / image.sum())
    moved = np.linalg.norm(found[1] - found[0])
    expected = np.linalg.norm(np.linalg.inv(np.eye(2) + change).T @ at - at)
    assert moved == pytest.approx(expected, rel=0.1)
    assert moved < 1.05 * np.linalg.norm(change, 2) * np.linalg.norm(at)


def test_a_magnification_is_a_phase_at_the_rim():
    """Of what is not a scale that all share: at 8 Å a particle of 40 Å is off by 0.04 · 40 Å / 8 Å of a turn."""
    alone = _of([0.0] * 6, [0.0] * 9, (0.05, 0.0, 0.0, -0.03)).largest_phase_deg(8.0, 40.0)
    assert float(alone) == pytest.approx(360 * 0.04 * 40 / 8, rel=1e-12)
    assert float(_of([0.0] * 6, [0.0] * 9, (0.02, 0.0, 0.0, 0.02)).largest_phase_deg(8.0, 40.0)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polynomials_are_zernikes(dtype):
    """``R_n^m(r) = (−1)^k r^m P_k^(m,0)(1 − 2r²)`` with k = (n − m) / 2 and Jacobi's P."""
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=dtype) / 3
    r, angle = points.double().norm(dim=-1).numpy(), torch.atan2(points[:, 1], points[:, 0]).double().numpy()
    seen = [odd_index(i) for i in range(12)] + [even_index(i) for i in range(16)]
    assert len(set(seen)) == 28
    for n, m in seen:
        k = (n - abs(m)) // 2
        radial = (-1) ** k * r ** abs(m) * eval_jacobi(k, abs(m), 0, 1 - 2 * r**2)
        expected = radial * (np.sin(-m * angle) if m < 0 else np.cos(m * angle))
        found = zernike(n, m, points)
        assert found.dtype == dtype
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_largest_phases_are_those_of_the_closed_forms():
    none = [0.0] * 9
    tilt = beam_tilt_zernike(
        torch.tensor([[0.6, -0.8]], dtype=torch.float64), torch.tensor([CS_MM]).double(), WAVELENGTH_A
    )
    expected = math.degrees(2 * math.pi * CS_MM * 1e7 * float(WAVELENGTH_A) ** 2 * 1e-3 / 4**3)  # of 1 mrad at 4 Å
    assert float(_of(tilt, none).largest_phase_deg(4.0, 50.0)) == pytest.approx(expected, rel=1e-3)
    # A linear phase is a displacement, and no error.
    assert float(_of([5.0, 7.0, 0, 0, 0, 0], none).largest_phase_deg(4.0, 50.0)) == 0
    trefoil = _of([0, 0, 30.0, 0, 0, 40.0], none).largest_phase_deg(4.0, 50.0)
    assert float(trefoil) == pytest.approx(math.degrees(50 / 4**3), rel=1e-3)
    tetrafoil = _of([0.0] * 6, [0, 0, 0, 0, 0, 0, 0, 0, 64.0]).largest_phase_deg(4.0, 50.0)
    assert float(tetrafoil) == pytest.approx(math.degrees(64 / 4**4), rel=1e-3)
