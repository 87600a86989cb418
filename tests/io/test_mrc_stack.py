"""Stacks without a table, of any number type and size."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.geometry.rotations import geodesic_distance, random_rotations
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack


def _stack(path: Path, values: np.ndarray, pixel_A: float = 0.0) -> Path:
    with mrcfile.new(path, data=values) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = pixel_A
    return path


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16])
def test_every_number_type_is_read_as_it_is(tmp_path: Path, dtype: type) -> None:
    values = (np.random.default_rng(0).normal(40, 15, (3, 6, 6))).astype(dtype)
    stack = ParticleStack.open(_stack(tmp_path / "p.mrcs", values), pixel_size_A=2.5, ctf=False)
    assert (len(stack), stack.n, stack.pixel_size_A) == (3, 6, 2.5)
    np.testing.assert_array_equal(stack.images([2, 0]).numpy(), values[[2, 0]].astype(np.float32))


def test_the_headers_pixel_size_or_the_given_one(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 6, 6)).astype(np.float32)
    path = _stack(tmp_path / "p.mrcs", values, 1.25)
    assert ParticleStack.open(path, ctf=False).pixel_size_A == 1.25
    assert ParticleStack.open(path, ctf=False, pixel_size_A=3.0).pixel_size_A == 3.0
    with pytest.raises(InputError, match=r"gives no pixel size; give it in Å as `pixel_size_A`"):
        ParticleStack.open(_stack(tmp_path / "none.mrcs", values), ctf=False)
    with pytest.raises(InputError, match="says nothing of a CTF; give its STAR file, or `ctf=False`"):
        ParticleStack.open(path)
    with pytest.raises(InputError, match="is a map and not a stack"):
        ParticleStack.open(_stack(tmp_path / "map.mrc", np.ones((6, 6, 6), np.float32)), ctf=False)


def test_posed_bare_stacks_are_star_files(tmp_path: Path, made_statistics) -> None:
    stack = ParticleStack.open(
        _stack(tmp_path / "p.mrcs", np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32), 1.5), ctf=False
    )
    rotations = random_rotations(4, torch.Generator().manual_seed(0))
    shifts_px = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    statistics = made_statistics(4)
    stack.write_posed(tmp_path / "posed.star", rotations, shifts_px, torch.tensor([1, 2, 1, 2]), statistics)
    again = ParticleStack.open(tmp_path / "posed.star", ctf=False)
    poses = again.poses()
    assert poses is not None
    assert float(geodesic_distance(poses[0], rotations).max()) < 1e-6
    torch.testing.assert_close(poses[1], shifts_px, rtol=0, atol=1e-6)
    assert again.table.particles["rlnRandomSubset"].tolist() == [1, 2, 1, 2]
    assert again.table.particles["rlnNrOfSignificantSamples"].tolist() == statistics.significant_samples.tolist()
    assert torch.equal(again.images(slice(None)), stack.images(slice(None)))


def test_images_beyond_two_gigabytes(tmp_path: Path) -> None:
    """A sparse file of 2³³ bytes: offsets do not wrap, and nothing but the images asked for is read."""
    n, count = 1024, 2048
    path = tmp_path / "large.mrcs"
    with StackWriter(path, 1, n, 1.0) as stack:
        stack.write(torch.randn(1, n, n, generator=torch.Generator().manual_seed(0)))
    images = torch.randn(2, n, n, generator=torch.Generator().manual_seed(1))
    with path.open("r+b") as file:
        file.seek(8)
        file.write(np.int32(count).tobytes())  # nz
        for section, image in zip((700, 2047), images, strict=True):
            file.seek(1024 + section * n * n * 4)
            file.write(image.numpy().tobytes())
    if path.stat().st_blocks * 512 > 2**30:
        pytest.skip("this file system has no sparse files")
    particles = ParticleStack.open(path, ctf=False)
    assert len(particles) == count
    assert torch.equal(particles.images([2047, 700]), images[[1, 0]])
    with pytest.raises(InputError, match=r"row 2047 .*is constant"):
        particles.images([2046])
