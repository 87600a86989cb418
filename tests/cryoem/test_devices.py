"""Work on another device than the CPU: a GPU where there is one, and everywhere one that is only pretended."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.accumulate import accumulate_moments
from orbitrec.cryoem.centring import centre
from orbitrec.cryoem.config import AbInitioConfig, RefineConfig, Schedule, StartKind
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.pose_refinement import refine_poses
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.reconstruct import half_map
from orbitrec.cryoem.refine import refined_map
from orbitrec.cryoem.result import PosedMap
from orbitrec.cryoem.search.level import DENSITY_FLOOR, ResolutionLevel, ShellPowerPrior
from orbitrec.cryoem.search.likelihood import FEW_ITERATIONS
from orbitrec.cryoem.search.starts import momnet_start
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.geometry.rotations import rotation_vector_to_matrix
from orbitrec.inference import likelihood
from orbitrec.inference.group_density import EstimatedDirections
from orbitrec.inference.likelihood import Assignment
from orbitrec.inference.orbit_likelihood import ObservationSet, OrbitLikelihood
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.solvers import sem_vr
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Stage, Status
from orbitrec.volumes.phantoms import protein_phantom

N, PIXEL_A, COUNT, RADIUS = 28, 3.0, 120, 9.0
SCHEDULE = Schedule(
    start_bandwidth=6.0, start_steps=2, settle_steps=1, select_bandwidth=8.0, select_steps=1, bandwidths=(8.0, 10.0),
    passes=2, candidates=16,
)  # fmt: skip
CONFIG = AbInitioConfig(50.0, schedule=SCHEDULE, matched=0, random=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> Path:
    return phantom_particles(tmp_path_factory.mktemp("devices") / "stack", N, COUNT, 1.0)


@pytest.fixture(scope="module")
def stack(folder: Path) -> ParticleStack:
    """Of two noise groups, the second multiplied by its CTF already: every way through the reading is taken."""
    stack = ParticleStack.open(folder / "particles.star")
    return replace(stack, premultiplied=torch.arange(COUNT) >= COUNT // 2)


@pytest.fixture(scope="module")
def data(stack: ParticleStack) -> ParticleModes:
    return preprocess(stack, 10.0 / RADIUS, RADIUS + 3)


def close(found: Tensor, expected: Tensor, share: float = 1e-4) -> bool:
    """To rounding in single precision, over the largest of the numbers; and on the CPU."""
    assert found.device.type == "cpu"
    return float((found - expected).abs().max()) <= share * float(expected.abs().max())


def test_the_pretended_device_refuses_what_a_gpu_refuses(pretended):
    here = torch.arange(6.0)
    there = here.to(pretended)
    assert {each.device.type for each in (there, there + 1, there.new_zeros(2), there[:2])} == {pretended}
    assert there[torch.tensor([1, 2])].cpu().tolist() == [1, 2]
    row = there.view(2, 3)[1]
    row += torch.tensor(1.0)
    assert there.cpu().tolist() == [0, 1, 2, 4, 5, 6]
    here[:3] = there[3:]
    assert here.tolist() == [4, 5, 6, 3, 4, 5]
    index = torch.tensor([1])
    for mixed in (
        lambda: here + there, lambda: torch.stack([here[0], there[0]]), lambda: here[0].add_(there[0]),
        lambda: here[there.long()], lambda: here.index_put_((index,), there[:1]),
        lambda: there.index_add_(0, index, there[:1]),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()


def test_images_become_the_same_modes_centres_and_moments(elsewhere, stack, data):
    found = preprocess(stack, 10.0 / RADIUS, RADIUS + 3, device=elsewhere)
    assert close(found.modes, data.modes)
    assert torch.equal(found.filters, data.filters)
    here, there = (centre(each, 0.6, prior_px=2.0) for each in (data, found))
    assert close(there.centres, here.centres)
    assert close(there.profile, here.profile)
    here, there = (accumulate_moments(stack, 15.0, 30.0, device=device) for device in ("cpu", elsewhere))
    assert int(there.count) == COUNT
    assert all(close(a, b) for a, b in zip(there.sums().values(), here.sums().values(), strict=True))


@pytest.mark.parametrize("narrowed", [False, True])
def test_expectation_stays_there_and_maximisation_comes_back(narrowed, elsewhere, data):
    """On the CPU scores are cut into small chunks, elsewhere they are not: that too is to rounding only."""
    rows, shifts = torch.arange(50), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    centres, log_shift = torch.zeros(50, 2).double(), torch.full((3,), 1 / 3).log()
    found = []
    for device in ("cpu", elsewhere):
        seen: list[Assignment] = []
        level = ResolutionLevel.at(data.grid, RADIUS, 8.0, device=device)
        model = level.random_model(torch.Generator().manual_seed(2), data.filters[0], energy=20.0)
        own = torch.arange(len(level.directions)).roll(7)[:12].expand(50, -1) if narrowed else None
        observed = replace(data, device=device).observations(rows, level.grid, centres, shifts.double(), log_shift)
        views = EstimatedDirections(len(level.directions), level.circle.angles, DENSITY_FLOOR, level.projector.dtype)
        observations = ObservationSet(
            lambda index, observed=observed: observed, 50, observed.ctf2_over_noise.mean(0).cpu(), 50, own,
            lambda index, assigned, seen=seen: seen.append(assigned),
        )  # fmt: skip
        problem = OrbitLikelihood(
            level.projector, level.circle, views, observations, ShellPowerPrior(level), FEW_ITERATIONS
        )
        before = level.unknowns(model)
        sums = problem.statistics(before)
        tensors = [sums.first, sums.second, sums.occupancy, *vars(seen[0]).values()]
        assert {each.device for each in tensors} == {torch.device(device)}
        after = level.model(problem.maximisation(problem.expectation(before)[1], before))
        sums, assigned = sums.to("cpu"), seen[0].to("cpu")
        found.append([sums.first, sums.second, sums.occupancy, assigned.direction, assigned.shift,
                      after.coefficients, after.log_views, torch.tensor(sums.log_likelihood)])  # fmt: skip
    assert all(close(there, here, 1e-3) for here, there in zip(*found, strict=True))


def test_poses_and_half_map_are_the_same(elsewhere, stack, data):
    generator = torch.Generator().manual_seed(3)
    level = ResolutionLevel.at(data.grid, RADIUS, 10.0)
    volume = level.volume(level.random_model(generator, data.filters[0], energy=20.0))
    rotations = rotation_vector_to_matrix(torch.randn(COUNT, 3, generator=generator).double())
    shifts = torch.randn(COUNT, 2, generator=generator).double()
    here, there = (
        refine_poses(replace(data, device=device), level.grid, volume, rotations, shifts, steps=1)
        for device in ("cpu", elsewhere)
    )
    assert close(there.log_likelihood, here.log_likelihood, 1e-3)
    assert float((there.rotations - here.rotations).abs().amax((1, 2)).quantile(0.9)) < 1e-3
    rows = torch.arange(0, COUNT, 2)
    here, there = (half_map(stack, data.noise, rows, rotations, shifts, device=device) for device in ("cpu", elsewhere))
    assert close(there, here, 1e-3)


def same(found: PosedMap, expected: PosedMap) -> bool:
    pairs = [(each.combined.volume, each.rotations, each.shifts_px) for each in (found, expected)]
    return all(torch.equal(*pair) for pair in zip(*pairs, strict=True))


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are grouped elsewhere as on the CPU, so that where nothing rounds otherwise all is the same bit by bit."""
    monkeypatch.setattr(likelihood, "BUSY", likelihood.CACHED)


@pytest.fixture(scope="module")
def expected(stack: ParticleStack) -> PosedMap:
    return initial_model(stack, CONFIG)


def test_the_main_job_elsewhere_is_that_on_the_cpu(pretended, cached, stack, expected):
    assert same(initial_model(stack, replace(CONFIG, device=pretended)), expected)


def test_a_run_begun_elsewhere_goes_on_on_the_cpu(pretended, cached, stack, expected, tmp_path):
    kept = Checkpoints(tmp_path / "records")

    def interrupt(status: Status) -> None:
        saved = kept.load("frequency marching") if status.stage is Stage.MARCHING else None
        if saved is not None and saved["done"] == 2:  # in the first pass at the second bandwidth
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        initial_model(stack, replace(CONFIG, device=pretended), interrupt, kept)
    assert kept.load("frequency marching") is not None
    assert same(initial_model(stack, CONFIG, checkpoints=kept), expected)


def test_refinement_with_a_symmetry_elsewhere_is_that_on_the_cpu(pretended, cached, stack, folder):
    config = RefineConfig(50.0, 18.0, group=PointGroup.named("C2"), solver=sem_vr(0.5, 1), passes=2.0)
    grid = protein_phantom(40, 0.27 * N, torch.Generator().manual_seed(5)).to_grid(N)
    found = [refined_map(stack, grid, replace(config, device=device)) for device in ("cpu", pretended)]
    assert same(*found)


def test_momnet_starts_elsewhere_as_on_the_cpu(pretended, stack):
    here, there = (
        momnet_start(
            stack,
            torch.arange(len(stack)),
            ResolutionLevel.at(preprocess(stack, 8.0 / RADIUS, RADIUS + 3).grid, RADIUS, 8.0, device=device),
        )
        for device in ("cpu", pretended)
    )
    assert there.kind is StartKind.momnet
    assert torch.equal(there.model.coefficients, here.model.coefficients)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_map_twice_and_nearly_that_of_the_cpu(stack, expected):
    one, two = (initial_model(stack, replace(CONFIG, device="cuda:0")) for _ in range(2))
    assert same(one, two)
    volumes = torch.stack([each.combined.volume.flatten() for each in (one, expected)])
    assert float(torch.corrcoef(volumes)[0, 1]) > 0.8
