import numpy as np
import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.observations import ObservationFile, write_observations


def saved(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_real_type_and_order_reads_as_numpy_does(tmp_path, dtype, order):
    values = (100 * np.random.default_rng(1).standard_normal((70_000, 3))).astype(dtype, order=order)
    file = ObservationFile.open(saved(tmp_path / "a.npy", values))
    assert (file.count, file.length) == (70_000, 3)
    assert [len(batch) for batch in file.batches()] == [16_384] * 4 + [4_464]
    np.testing.assert_array_equal(torch.cat(list(file.batches())).numpy(), values)
    np.testing.assert_array_equal(file.tensor().numpy(), values)
    assert file.tensor().dtype in (torch.float32, torch.float64)


def test_what_is_written_batch_by_batch_is_what_numpy_reads(tmp_path):
    data = torch.randn(50, 7, dtype=torch.float64)
    write_observations(tmp_path / "a.npy", data.split(11), 50, 7)
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, data.float().numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def batches():
        yield torch.zeros(2, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_observations(tmp_path / "a.npy", batches(), 4, 3)
    assert list(tmp_path.iterdir()) == []


def test_changing_the_tensor_leaves_the_file_alone(tmp_path):
    path = saved(tmp_path / "a.npy", np.ones((4, 3)))
    ObservationFile.open(path).tensor().zero_()
    assert np.load(path).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_row_of_a_value_that_is_no_number_is_named(tmp_path, bad):
    values = np.ones((70_000, 3), dtype=np.float32)
    values[68_000, 1] = bad
    file = ObservationFile.open(saved(tmp_path / "a.npy", values))
    with pytest.raises(InputError, match="observation 68000 "):
        list(file.batches())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(5), "1 dimensions"),
        (np.ones((5, 4, 3)), "3 dimensions"),
        (np.ones((5, 4), dtype=complex), "complex128"),
        (np.ones((5, 4), dtype=bool), "bool"),
        (np.full((5, 4), "a"), "real numbers"),
        (np.ones((0, 4)), "empty"),
        (np.ones((5, 0)), "empty"),
    ],
)
def test_arrays_that_are_no_observations_are_refused(tmp_path, array, message):
    with pytest.raises(InputError, match=message):
        ObservationFile.open(saved(tmp_path / "a.npy", array))


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ObservationFile.open(tmp_path / "a.npy")
    (tmp_path / "text.npy").write_text("1 2 3")
    whole = saved(tmp_path / "whole.npy", np.ones((100, 10))).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    (tmp_path / "header.npy").write_bytes(whole[:20])
    (tmp_path / "nothing.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([[object()]]), allow_pickle=True)
    for name in ("text", "cut", "header", "nothing", "objects"):
        with pytest.raises(InputError, match=f"{name}.npy is no whole .npy file"):
            ObservationFile.open(tmp_path / f"{name}.npy")
