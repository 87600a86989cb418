from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orbitrec.classification import classify2d
from orbitrec.cryoem.classes.config import ClassesConfig, ClassSchedule
from orbitrec.cryoem.classes.pipeline import classified
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Status

N, COUNT, CLASSES = 24, 60, 3
QUICK = ClassSchedule(bandwidths=(7.0, 8.0, 9.0), passes=(1, 1, 1), pool=10)
"""The first two levels see half of the particles."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> ParticleStack:
    folder = phantom_particles(tmp_path_factory.mktemp("classes") / "stack", N, COUNT, 1.0)
    return ParticleStack.open(folder / "particles.star")


def quick(**settings: object) -> ClassesConfig:
    return ClassesConfig(classes=CLASSES, schedule=QUICK, **settings)


class InterruptedRunError(Exception):
    pass


def stopping_after(share: float) -> Callable[[Status], None]:
    def callback(status: Status) -> None:
        if status.share > share:
            raise InterruptedRunError

    return callback


@pytest.mark.parametrize("share", [0.4, 0.75])
def test_a_run_that_was_interrupted_ends_as_if_it_was_not(stack, tmp_path, share):
    whole = classified(stack, quick())
    records = Checkpoints(tmp_path / "records")
    with pytest.raises(InterruptedRunError):
        classified(stack, quick(), stopping_after(share), records)
    after = classified(stack, quick(), checkpoints=records)
    assert torch.equal(after.images, whole.images)
    assert torch.equal(after.classes, whole.classes)
    assert torch.equal(after.probability, whole.probability)
    assert len(after.history) == len(whole.history)


def test_every_particle_has_a_class_and_another_seed_other_starts(stack):
    result = classify2d(stack, quick())
    assert result.averages.shape == (CLASSES, N, N)
    assert result.classes.shape == result.probability.shape == result.kept.shape == (COUNT,)
    assert bool(((result.probability >= 0) & (result.probability <= 1)).all())
    assert int(result.found.measured.members.sum()) == int(result.found.measured.found.likely.sum())
    assert bool((result.good[result.classes] | ~result.kept).all())
    other = classify2d(stack, quick(seed=2))
    assert not torch.equal(other.averages, result.averages)
    assert f"of {COUNT} particles" in repr(result)


def test_shares_of_work_reach_one_and_never_fall(stack):
    seen: list[float] = []
    classified(stack, quick(), lambda status: seen.append(status.share))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": 31}, "too few for 31 classes"),
        ({"classes": 0}, "`classes` must be"),
        ({"diameter_A": 1000.0}, "does not fit"),
        ({"resolution_A": 200.0}, "fewer than two resolved shells"),
        ({"seed": -1}, "`seed` must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(stack, settings, said):
    with pytest.raises(InputError, match=said):
        classified(stack, ClassesConfig(**{"classes": CLASSES, "schedule": QUICK, **settings}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bandwidths": (12.0, 8.0), "passes": (1, 1)}, "none smaller"),
        ({"bandwidths": (8.0, 12.0), "passes": (1,)}, "2 numbers"),
        ({"bandwidths": (8.0,), "passes": (-1,)}, "`passes` must be"),
        ({"batch": 0}, "`batch` must be"),
    ],
)
def test_schedules_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        ClassSchedule(**settings)
