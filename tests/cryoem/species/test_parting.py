"""Which particle is of which structure: parting, classes that are too small, classes that are one map."""

import pytest
import torch

from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.species.pipeline import large_enough, separated
from orbitrec.cryoem.species.sameness import correlation
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import Alignment
from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.particles import ParticleStack
from orbitrec.volumes.phantoms import protein_phantom


def test_particles_of_small_classes_go_to_the_next_likely():
    posterior = torch.tensor([[0.5, 0.3, 0.2]] * 3 + [[0.1, 0.8, 0.1]] * 5 + [[0.2, 0.3, 0.5]] * 2)
    rows = large_enough(posterior, torch.arange(10), 3)
    assert [own.tolist() for own in rows] == [[3, 4, 5, 6, 7, 8, 9], [0, 1, 2]]
    rows = large_enough(posterior, torch.arange(10), 4)
    assert [own.tolist() for own in rows] == [list(range(10))]


def test_copies_of_an_image_count_once():
    posterior = torch.tensor([[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 6)
    copies = torch.tensor([0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
    assert len(large_enough(posterior, copies, 2)) == 1


@pytest.mark.parametrize("n", [32, 33])
def test_a_map_is_the_same_as_itself_moved_and_no_other(n):
    first, other = (protein_phantom(40, 0.3 * n, torch.Generator().manual_seed(s)).to_grid(n) for s in (5, 6))
    rotation = random_rotations(1, torch.Generator().manual_seed(2))[0]
    moved = Alignment(rotation, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), True, 1.0).apply(first)
    assert correlation(moved, first, 4.0) > 0.97
    assert correlation(other, first, 4.0) < 0.85


@pytest.mark.parametrize(("classes", "said"), [(0, "one or more"), (9, "too few for 9 structures")])
def test_bad_numbers_of_classes_are_one_sentence(classes, said, mixed_particles, tmp_path):
    stack = ParticleStack.open(mixed_particles(tmp_path / "set", 24, 150), ctf=False)
    with pytest.raises(InputError, match=said) as error:
        separated(stack, AbInitioConfig(), classes)
    assert str(error.value).count(". ") == 0
