"""Paper exercise: a solver that the library does not have, in one file, chosen for the ab initio search.

Averaged EM damps EM's step and keeps a running mean of iterates (Polyak and Juditsky 1992): two functions and a state.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.config import AbInitioConfig, RefineConfig, Schedule
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.refine import refined_map
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import new_run
from orbitrec.io.simulation import write_simulation
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.optim.driver import run
from orbitrec.optim.estimators import Snapshot, em_residual
from orbitrec.optim.problem import Counted, FiniteSum
from orbitrec.optim.solvers import Solver
from orbitrec.optim.termination import Cost, StepInfo, Termination
from orbitrec.runtime.progress import Stage
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume


class AveragedState(NamedTuple):
    """The iterate, the best point, and the mean of all iterates."""

    w: Tensor
    snapshot: Snapshot
    mean: Tensor
    cost: Cost


@dataclass(frozen=True)
class AveragedEM:
    """EM whose iterate is pulled towards the mean of the iterates before."""

    pull: float = 0.2

    def init(self, problem: FiniteSum, w: Tensor, seed: int = 0) -> AveragedState:
        w = w.detach().double()
        return AveragedState(w, Snapshot(w, math.inf, torch.zeros_like(w)), w, Cost())

    def step(self, problem: FiniteSum, state: AveragedState) -> tuple[AveragedState, StepInfo]:
        started, counted, old = time.process_time(), Counted(problem), state.snapshot
        value, residual = em_residual(counted, state.w, None)
        snapshot = Snapshot(state.w, value, residual) if value <= old.value else old
        cost = state.cost.and_epoch(counted.passes, counted.passes, started)
        mean = state.mean + (state.w - state.mean) / cost.epochs
        w = state.w - residual
        w = w + self.pull / cost.epochs * (mean - w)
        info = StepInfo(snapshot.value, float(residual.norm()), abs(value - old.value), value <= old.value, cost)
        return AveragedState(w, snapshot, mean, cost), info


def test_it_is_a_solver_and_reaches_the_minimum_that_em_does(small_problem_of_signals):
    assert isinstance(AveragedEM(), Solver)
    problem, w = small_problem_of_signals
    found = run(AveragedEM(), problem, w, Termination(moved=1e-11, epochs=3000.0))
    assert found.converged
    assert float(problem.gradient(found.w)[1].norm()) < 1e-4


@pytest.fixture(scope="module")
def small_problem_of_signals():
    from orbitrec.mra.likelihood import MRALikelihood
    from orbitrec.mra.model import WindowedMRA, draw_observations

    generator, model = torch.Generator().manual_seed(3), WindowedMRA(6, 4)
    signal = torch.randn(6, generator=generator, dtype=torch.float64)
    density = torch.full((6,), 1 / 6, dtype=torch.float64)
    observations = torch.cat(list(draw_observations(model, signal, density, 0.4, 300, generator)))
    problem = MRALikelihood(model, observations, 0.4, density)
    return problem, signal + 0.3 * torch.randn(6, generator=generator, dtype=torch.float64)


N, PIXEL_A, COUNT = 28, 4.0, 260
SCHEDULE = Schedule(
    start_bandwidth=8.0,
    select_bandwidth=8.0,
    bandwidths=(8.0, 12.0),
    passes=1,
    rounds=4,
    round_passes=3.0,
    candidates=24,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    generator = torch.Generator().manual_seed(5)
    phantom = protein_phantom(30, radius=8.0, generator=generator)
    poses = random_poses(COUNT, generator, shift_px=0.5)
    path = tmp_path_factory.mktemp("exercise") / "stack"
    with new_run(path) as made:
        volume = VoxelVolume(phantom.to_grid(N).float())
        write_simulation(made, ParticleSimulation(volume, N, PIXEL_A, *poses, None), 2.0, generator)
    return path


def resolution_A(volume: Tensor, folder) -> float:
    truth = read_map(folder / "truth.mrc")[0].double()
    return fourier_shell_correlation(align(volume.double(), truth).apply(volume.double()), truth).cutoff_A(0.5, PIXEL_A)


def test_the_ab_initio_search_and_the_refinement_run_on_it(folder):
    """Both maps agree with the truth to better than 16 Å; pixels end at 8 Å."""
    stack = ParticleStack.open(folder / "particles.star", ctf=False)
    own = AbInitioConfig(75.0, schedule=SCHEDULE, matched=1, random=2, solver=AveragedEM())
    found = initial_model(stack, own)
    marching = [row for row in found.history if row.stage is Stage.MARCHING]
    assert len(marching) == 2 * 3  # two bandwidths, three data passes of this solver at each
    assert resolution_A(found.combined.volume, folder) < 16
    refined = refined_map(
        stack, found.combined.volume.double(), RefineConfig(75.0, schedule=SCHEDULE, solver=AveragedEM(), passes=3.0)
    )
    assert resolution_A(refined.combined.volume, folder) < 16
