"""MRC files against mrcfile, the format's reference reader and validator."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.mrc import StackWriter, read_header, read_map, write_map


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_map_is_valid_mrc_and_comes_back(tmp_path: Path, n: int, dtype: torch.dtype) -> None:
    grid = torch.randn(n, n, n, generator=torch.Generator().manual_seed(n), dtype=dtype)
    path = tmp_path / "map.mrc"
    write_map(path, grid, 2.234)
    assert mrcfile.validate(str(path))
    with mrcfile.open(path) as mrc:
        assert mrc.is_volume()
        np.testing.assert_array_equal(mrc.data, grid.float().numpy())
        np.testing.assert_allclose(mrc.voxel_size.tolist(), 2.234, rtol=1e-6)
        assert mrc.header.origin.tolist() == (0, 0, 0)
    again, voxel_size_A = read_map(path)
    assert torch.equal(again, grid.float())
    assert voxel_size_A == 2.234


def test_stack_written_in_chunks_is_valid_mrc(tmp_path: Path) -> None:
    images = torch.randn(5, 7, 7, generator=torch.Generator().manual_seed(0)) + 3
    path = tmp_path / "stack.mrcs"
    with StackWriter(path, count=5, n=7, pixel_size_A=1.31) as stack:
        stack.write(images[:2])
        assert not path.exists()
        stack.write(images[2:].double())
    assert mrcfile.validate(str(path))
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack()
        np.testing.assert_array_equal(mrc.data, images.numpy())
        np.testing.assert_allclose(mrc.voxel_size.tolist(), 1.31, rtol=1e-6)
        np.testing.assert_allclose(mrc.header.rms, images.numpy().std(), rtol=1e-5)


def test_unfinished_stack_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="3 images, but 1 were written"),
        StackWriter(tmp_path / "s.mrcs", 3, 4, 1.0) as s,
    ):
        s.write(torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match="went wrong"), StackWriter(tmp_path / "s.mrcs", 3, 4, 1.0) as s:
        raise InputError("went wrong")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_reads_every_real_mode_in_both_byte_orders(tmp_path: Path, dtype: type, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (4, 4, 4)).astype(dtype)
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(values.astype(np.dtype(dtype).newbyteorder(order)))
        mrc.set_extended_header(np.zeros(80, dtype="V1"))
        mrc.voxel_size = 1.5
    grid, voxel_size_A = read_map(path)
    np.testing.assert_array_equal(grid.numpy(), values.astype(np.float32))
    assert voxel_size_A == 1.5


def test_axes_are_put_in_zyx_order(tmp_path: Path) -> None:
    values = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    path = tmp_path / "map.mrc"
    with mrcfile.new(path, data=values) as mrc:
        mrc.voxel_size = 1.0
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 1, 2  # columns z, rows x, sections y
    grid, _ = read_map(path)
    np.testing.assert_array_equal(grid.numpy(), np.einsum("yxz->zyx", values))


def test_real_maps(shared_data: Path) -> None:
    grid, voxel_size_A = read_map(shared_data / "maps" / "emd_0409_64.mrc")
    assert grid.shape == (64, 64, 64)
    assert voxel_size_A == 2.234
    unsized = shared_data / "maps" / "ribosome_70s_65.mrc"
    with pytest.raises(InputError, match="no voxel size"):
        read_map(unsized)
    assert read_map(unsized, voxel_size_A=1.0)[1] == 1.0
    # This one lacks the "MAP" mark and the machine stamp; mrcfile reads it only in its permissive mode.
    assert read_header(shared_data / "particles" / "empiar_10076_7.mrc").shape == (7, 320, 320)


def _write(path: Path, values: np.ndarray) -> None:
    with mrcfile.new(path, data=values) as mrc:
        mrc.voxel_size = 1.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile warns of the NaN it writes
def test_bad_maps_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    with pytest.raises(InputError, match="no such file"):
        read_map(path)
    with pytest.raises(InputError, match="is not a file"):
        read_map(tmp_path)
    path.write_text("not a map at all" * 100)
    with pytest.raises(InputError, match="not an MRC file"):
        read_map(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not an MRC file"):
        read_map(path)
    path.unlink()
    _write(path, np.zeros((4, 5, 4), np.float32))
    with pytest.raises(InputError, match="not a cubic map: it has 4 × 5 × 4"):
        read_map(path)
    path.unlink()
    _write(path, np.full((4, 4, 4), np.nan, np.float32))
    with pytest.raises(InputError, match="NaN"):
        read_map(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="truncated"):
        read_map(path)
    path.unlink()
    _write(path, np.zeros((4, 4, 4), np.complex64))
    with pytest.raises(InputError, match="mode 4"):
        read_map(path)


def test_writing_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_map(tmp_path / "no" / "map.mrc", torch.zeros(3, 3, 3), 1.0)
