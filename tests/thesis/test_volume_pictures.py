"""Isosurfaces against balls and blobs of known place and size; views of the sphere against known densities."""

import math

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from orbitrec.densities.gridded import GriddedDensity
from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.report.isosurface import fine_grid, render_isosurface, surface_level, surface_share
from orbitrec.report.sphere import draw_sphere, sphere_grid
from orbitrec.thesis.plots.volumes import VIEWS, draw_volumes
from orbitrec.volumes.gaussians import GaussianMixture


def blob(n, centre=(0.0, 0.0, 0.0), width=4.0, dtype=torch.float64):
    place = torch.tensor([centre], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(place, width * one, one).to_grid(n).to(dtype)


@pytest.mark.parametrize(("n", "dtype"), [(48, torch.float64), (49, torch.float32)])
def test_a_gaussian_is_a_disc_of_its_level_set(n, dtype):
    """Where the density is exp(−r²/2w²) of its peak its level set has radius r, and the disc the area πr²."""
    radius, width = 10.0, 5.0
    volume = fine_grid(blob(n, width=width, dtype=dtype))
    level = float(volume.max()) * math.exp(-(radius**2) / (2 * width**2))
    picture = render_isosurface(volume, level, torch.eye(3), 96, (0.5, 0.5, 0.5))
    assert picture.shape == (96, 96, 4)
    assert float(picture[..., 3].mean()) == pytest.approx(math.pi * (radius / n) ** 2, rel=0.03)
    brightness = picture[..., 0]
    y, x = divmod(int(brightness.argmax()), 96)
    assert x < 48
    assert y < 48  # lit from the upper left


@pytest.mark.parametrize(("view", "right", "up", "towards"), [("from +z", 0, 1, 2), ("from +x", 1, 2, 0)])
@pytest.mark.parametrize("n", [40, 41])
def test_axes_of_a_view(n, view, right, up, towards):
    """A blob is seen where its coordinates say, in a right-handed frame."""
    centre = [6.0, -4.0, 9.0]
    volume = fine_grid(blob(n, tuple(centre), 2.0))
    picture = render_isosurface(volume, 0.5 * float(volume.max()), VIEWS[view], 80, (0.5, 0.5, 0.5))
    opacity = picture[..., 3]
    place = ((torch.arange(80) + 0.5) / 80 - 0.5) * n
    assert float((opacity.sum(0) @ place) / opacity.sum()) == pytest.approx(centre[right], abs=0.4)
    assert float((opacity.sum(1) @ place.flip(0)) / opacity.sum()) == pytest.approx(centre[up], abs=0.4)
    assert VIEWS[view][:, 2].tolist() == torch.eye(3)[towards].tolist()
    assert float(torch.linalg.det(VIEWS[view])) == pytest.approx(1)  # no mirror image


def test_level_encloses_the_share_and_otsu_finds_the_ball():
    n, radius = 48, 12.0
    x = torch.arange(n) - n // 2
    ball = (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 < radius**2).double()
    noisy = ball + 0.1 * torch.randn(ball.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = surface_share(noisy)
    assert share == pytest.approx(float(ball.mean()), rel=1e-3)
    assert float((noisy > surface_level(noisy, share)).double().mean()) == pytest.approx(share, abs=1 / n**3)
    assert surface_share(-3 + 7 * noisy) == pytest.approx(share, abs=2 / n**3)


def test_maps_stand_side_by_side(tmp_path):
    path = tmp_path / "maps.png"
    draw_volumes(path, {"truth": blob(32), "three times it": 3 * blob(33)}, "one blob")
    pixels = imread(path)[:, :, :3]
    left, right = np.array_split(pixels, 2, axis=1)
    coloured = [(np.ptp(half, axis=2) > 0.2).mean() for half in (left, right)]
    assert coloured[0] < 0.01 < 0.1 < coloured[1]  # grey and yellow
    assert [file.name for file in tmp_path.iterdir()] == ["maps.png"]


@pytest.mark.parametrize("maps", [{}, {"flat": torch.ones(16, 16, 16)}, {"nan": torch.full((16, 16, 16), torch.nan)}])
def test_what_has_no_surface_is_refused(tmp_path, maps):
    with pytest.raises(InputError, match="map"):
        draw_volumes(tmp_path / "maps.png", maps)
    assert list(tmp_path.iterdir()) == []


def test_smoothing_keeps_smooth_densities():
    """On a design, a mixture flatter than the nodes' spacing comes back within a tenth."""
    mixture = VonMisesFisherMixture(
        torch.eye(3, dtype=torch.float64)[:2], torch.tensor([2.0, 3.0], dtype=torch.float64), torch.ones(2).double()
    )
    nodes = spherical_design(21)
    grid = sphere_grid()
    found, true = GriddedDensity(nodes, mixture.density(nodes).float()).density(grid), mixture.density(grid)
    assert float(((found - true) / true).abs().max()) < 0.1
    assert float(grid[-1, 0, 2]) == pytest.approx(1)  # the last row is tilt 0


def test_densities_share_one_map_and_scale(tmp_path):
    nodes = spherical_design(13)
    path = tmp_path / "views.png"
    draw_sphere(path, {"peaked": (nodes, (2 * nodes[:, 0]).exp()), "uniform": (nodes, torch.ones(len(nodes)))})
    pixels = imread(path)[:, :, :3]
    peaked, uniform = np.array_split(pixels[:, : int(0.9 * pixels.shape[1])], 2, axis=1)
    yellow = [((half[..., 0] > 0.6) & (half[..., 2] < 0.4)).mean() for half in (peaked, uniform)]
    assert yellow[0] > 0.01 > yellow[1]


@pytest.mark.parametrize("density", [torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, 1.0]), None])
def test_what_is_no_density_is_refused(tmp_path, density):
    nodes = torch.eye(4)[:, :3]
    with pytest.raises(InputError, match="density"):
        draw_sphere(tmp_path / "s.png", {} if density is None else {"bad": (nodes, density)})
    assert list(tmp_path.iterdir()) == []
