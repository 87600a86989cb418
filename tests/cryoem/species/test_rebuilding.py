"""The map of a class whose particles have changed: from the present particles, whatever records there are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orbitrec.cryoem.config import AbInitioConfig, Schedule
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.preprocess import estimated_noise
from orbitrec.cryoem.reconstruct import half_map
from orbitrec.cryoem.result import PosedMap
from orbitrec.cryoem.search.pose_search import ParticleState
from orbitrec.cryoem.species.comparison import Comparison
from orbitrec.cryoem.species.rebuilding import Change, rebuilt
from orbitrec.geometry.rotations import geodesic_distance
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import RunState

SCHEDULE = Schedule(
    start_bandwidth=8.0, start_steps=30, settle_steps=5, settle_batch=150, select_bandwidth=10.0, select_steps=6,
    bandwidths=(10.0, 14.0), passes=1, finer=(),
)  # fmt: skip
CONFIG = AbInitioConfig(50.0, schedule=SCHEDULE, matched=0, random=2, independent_halves=False)
BEFORE, NOW = torch.arange(0, 200), torch.arange(20, 260)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> ParticleStack:
    folder = phantom_particles(tmp_path_factory.mktemp("rebuilding") / "set", 24, 300, 2.0)
    return ParticleStack.open(folder / "particles.star")


def changed(stack: ParticleStack, found: PosedMap, checkpoints: Checkpoints) -> tuple[PosedMap, Change]:
    run = RunState(torch.Generator().manual_seed(1), checkpoints=checkpoints)
    comparison = Comparison.of(stack, found, CONFIG)
    with run.working_on("class 1"):
        compared = comparison.made(ParticleState(torch.zeros(300, 2, dtype=torch.float64), 1.0), 32, run)
        change = Change(BEFORE, NOW, compared)
        return rebuilt(stack, CONFIG, found, change, run), change


def test_the_map_is_that_of_the_present_particles(stack, tmp_path):
    kept = Checkpoints(tmp_path / "records")
    found = initial_model(stack.subset(BEFORE), CONFIG, checkpoints=kept.of("class 1"))
    again, change = changed(stack, found, kept)
    assert change.moved == 60
    assert torch.equal(again.rotations[:180], found.rotations[20:])
    assert torch.equal(again.half_sets[:180], found.half_sets[20:])
    assert torch.isfinite(again.statistics.log_likelihood).all()
    assert (again.statistics.log_likelihood[180:] > 0).double().mean() > 0.9
    read = found.image_statistics.applied(stack.subset(NOW))
    used = (again.half_sets == 1) & (again.statistics.inlier_probability > 0.5)
    sign = -1 if again.inverted else 1
    expected = sign * half_map(
        read, estimated_noise(read), used.nonzero().flatten(), again.rotations, again.shifts_px
    )  # fmt: skip
    torch.testing.assert_close(again.combined.half_maps[0], expected)
    alone, _ = changed(stack, found, Checkpoints())
    assert torch.equal(alone.combined.volume, again.combined.volume)


def test_poses_in_the_comparison_are_those_of_the_run(stack):
    """Its own particles are found again where the run found them, where chance puts 3 in 1000 within 20 degrees.

    At this resolution the phantom is nearly the same from opposite sides, so that many are as likely to be there.
    """
    found = initial_model(stack.subset(BEFORE), CONFIG)
    _, change = changed(stack, found, Checkpoints())
    apart = geodesic_distance(change.compared.rotations[BEFORE], found.rotations).rad2deg()
    assert (apart < 20).double().mean() > 0.4
