"""Some rows of a table as a table of its own, for RELION's, cryoSPARC's and stacks alone."""

import numpy as np
import pytest
import torch

from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.particle_table import ParticleTable
from orbitrec.io.particles import ParticleStack
from orbitrec.io.selected import SelectedTable
from orbitrec.io.tables import read_table

ROWS = torch.tensor([1, 2, 4])


@pytest.mark.parametrize("name", ["empiar_10076_7.star", "empiar_10076_7.cs"])
def test_a_subset_is_the_rows_of_the_whole(name, shared_data, tmp_path):
    whole = ParticleStack.open(shared_data / "particles" / name)
    part = whole.subset(ROWS)
    assert isinstance(part.table, ParticleTable)
    assert len(part) == 3
    assert torch.equal(part.images([0, 2]), whole.images([1, 4]))
    assert torch.equal(part.ctf.defocus_u_A, whole.ctf.defocus_u_A[ROWS])
    assert torch.equal(part.noise_groups(), torch.zeros(3, dtype=torch.long))
    rotations = random_rotations(3, torch.Generator().manual_seed(1))
    shifts_px, path = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]], dtype=torch.float64), tmp_path / name
    part.write_posed(path, rotations, shifts_px, torch.tensor([1, 2, 1]))
    written = ParticleStack.open(path, datadir=shared_data / "particles")
    assert torch.equal(written.images(slice(None)), whole.images(ROWS.tolist()))
    found, moved = written.poses()
    torch.testing.assert_close(found, rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved, shifts_px, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["empiar_10076_7.star", "empiar_10076_7.cs", "empiar_10076_7.mrc"])
def test_every_column_is_that_of_the_rows(name, shared_data):
    whole = read_table(shared_data / "particles" / name, 1.31)
    part = SelectedTable(whole, ROWS)
    for of in ("pixel_sizes_A", "groups", "signs", "premultiplied", "phase_flipped", "stated_boxes"):
        found, expected = getattr(part, of)(), getattr(whole, of)()
        assert (found is None) == (expected is None), of
        assert expected is None or np.array_equal(found, expected[ROWS.numpy()]), of
    assert (part.dialect, part.suffix, part.path) == (whole.dialect, whole.suffix, whole.path)
    assert np.array_equal(part.sources().section, whole.sources().section[ROWS.numpy()])
    assert {key: len(values) for key, values in part.identities().items()} == dict.fromkeys(whole.identities(), 3)
