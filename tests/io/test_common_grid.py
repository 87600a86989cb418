"""Images of several pixel sizes and boxes on one grid."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack
from orbitrec.io.star import write_star

CENTRES_A = torch.tensor([[2.0, -3.0], [-6.0, 5.0]], dtype=torch.float64)


def _gaussians(n: int, pixel_A: float, width_A: float = 4.0) -> Tensor:
    """Two Gaussians, sampled at any pixel size: band-limited to rounding."""
    x = pixel_A * (torch.arange(n, dtype=torch.float64) - n // 2)
    square = [(x - cx).square() + (x[:, None] - cy).square() for cx, cy in CENTRES_A]
    return sum(torch.exp(-d / (2 * width_A**2)) for d in square)  # pyright: ignore[reportReturnType]


def _mixed(folder: Path, kinds: list[tuple[int, float]]) -> Path:
    """One image of each kind (box, pixel size), every kind an optics group."""
    for index, (n, pixel_A) in enumerate(kinds):
        with StackWriter(folder / f"{index}.mrcs", 1, n, pixel_A) as stack:
            stack.write(_gaussians(n, pixel_A)[None])
    groups = list(range(1, len(kinds) + 1))
    optics = pd.DataFrame({"rlnOpticsGroup": groups, "rlnImagePixelSize": [pixel for _, pixel in kinds]})
    optics["rlnImageSize"] = [n for n, _ in kinds]
    particles = pd.DataFrame({"rlnImageName": [f"1@{i}.mrcs" for i in range(len(kinds))], "rlnOpticsGroup": groups})
    particles = particles.assign(rlnAngleRot=10.0, rlnAngleTilt=20.0, rlnAnglePsi=30.0)
    particles = particles.assign(rlnOriginXAngst=4.0, rlnOriginYAngst=-6.0)
    write_star(folder / "mixed.star", {"optics": optics, "particles": particles})
    return folder / "mixed.star"


def test_groups_are_brought_to_the_coarsest_pixels_and_the_smallest_view(tmp_path: Path) -> None:
    stack = ParticleStack.open(_mixed(tmp_path, [(64, 1.0), (50, 1.5), (43, 1.31), (70, 1.5)]), ctf=False)
    assert (stack.n, stack.pixel_size_A) == (int(43 * 1.31 / 1.5), 1.5)
    expected = _gaussians(stack.n, 1.5)
    for row in range(4):
        torch.testing.assert_close(stack.images([row])[0].double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(stack.images([3, 0, 2, 1]).double(), expected.expand(4, -1, -1), rtol=0, atol=2e-5)
    poses = stack.poses()
    assert poses is not None
    torch.testing.assert_close(poses[1], torch.tensor([[-4.0, 6.0]]).double().expand(4, 2) / 1.5)
    assert sorted(stack.noise_groups().tolist()) == [0, 1, 2, 3]


def test_posed_files_of_mixed_groups_are_in_angstrom(tmp_path: Path) -> None:
    stack = ParticleStack.open(_mixed(tmp_path, [(64, 1.0), (50, 1.5)]), ctf=False)
    poses = stack.poses()
    assert poses is not None
    stack.write_posed(tmp_path / "posed.star", *poses)
    again = ParticleStack.open(tmp_path / "posed.star", ctf=False).table.particles
    assert again["rlnOriginXAngst"].tolist() == [4.0, 4.0]
    assert again["rlnOriginYAngst"].tolist() == [-6.0, -6.0]


def test_pixel_sizes_that_differ_by_rounding_are_one(tmp_path: Path) -> None:
    stack = ParticleStack.open(_mixed(tmp_path, [(30, 1.31), (30, 1.309998)]), ctf=False)
    assert stack.n == 30
    np.testing.assert_array_equal(stack.grid.kind, [0, 0])


def test_pixel_sizes_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too small to hold a particle"):
        ParticleStack.open(_mixed(tmp_path, [(64, 1.0), (50, 150.0)]), ctf=False)
