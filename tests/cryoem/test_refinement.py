"""Refinement from Python: any solver, half-sets apart, and progress."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.config import RefineConfig
from orbitrec.cryoem.refine import refined_map
from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies
from orbitrec.io.mrc import read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.solvers import em
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Stage, Status

N, PIXEL_A, COUNT, SNR = 28, 3.0, 200, 2.0
CONFIG = RefineConfig(50.0, 14.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> Path:
    return phantom_particles(tmp_path_factory.mktemp("refinement") / "stack", N, COUNT, SNR)


@pytest.fixture(scope="module")
def stack(folder: Path) -> ParticleStack:
    return ParticleStack.open(folder / "particles.star")


@pytest.fixture(scope="module")
def truth(folder: Path) -> Tensor:
    return read_map(folder / "truth.mrc")[0].double()


@pytest.fixture(scope="module")
def blurred(truth: Tensor) -> Tensor:
    """The truth behind a filter that is 1/e at 27 Å."""
    filtered = centred_fft(truth, 3) * torch.exp(-((radial_frequencies(N, 3) / 0.7) ** 4))
    return centred_ifft(filtered, 3).real


def correlation(volume: Tensor, truth: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([volume.double().flatten(), truth.flatten()]))[0, 1])


@pytest.mark.parametrize("solver", [em(), OnlineEM(20)], ids=["em", "online EM"])
def test_a_solver_sharpens_the_map(stack, truth, blurred, solver):
    """Online EM has five batches of twenty in a pass over a half-set: thirty steps where EM makes five."""
    told: list[Status] = []
    found = refined_map(stack, blurred, replace(CONFIG, solver=solver), told.append)
    assert found.independent
    assert correlation(found.combined.volume, truth) > max(0.9, correlation(blurred, truth) + 0.05)
    rows = {half: [row for row in found.history if row.alternative == f"half {half}"] for half in (1, 2)}
    levels = len({row.resolution_A for row in found.history})
    epochs = 6 if solver == em() else 30
    assert [len(rows[half]) for half in (1, 2)] == [levels * epochs] * 2
    assert {row.stage for row in found.history} == {Stage.REFINEMENT}
    shares = [status.share for status in told]
    assert all(0 < a <= b for a, b in pairwise(shares))
    assert shares[-1] == pytest.approx(1)
    parts = Counter((status.stage, status.part) for status in told)
    assert {part for stage, part in parts if stage is Stage.REFINEMENT} == {"half 1", "half 2"}


def test_online_em_goes_on_from_within_a_pass_to_the_same_map(stack, blurred, tmp_path):
    config = replace(CONFIG, resolution_A=20.0, solver=OnlineEM(30), passes=2.0)
    expected = refined_map(stack, blurred, config)
    kept, batches = Checkpoints(tmp_path / "records"), 0

    def interrupt(status: Status) -> None:
        nonlocal batches
        batches += status.stage is Stage.REFINEMENT
        if batches == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refined_map(stack, blurred, config, interrupt, kept)
    found = refined_map(stack, blurred, config, checkpoints=kept)
    assert torch.equal(found.combined.volume, expected.combined.volume)
    assert torch.equal(found.rotations, expected.rotations)
    assert [row.log_likelihood for row in found.history] == [row.log_likelihood for row in expected.history]


def test_an_empty_map_is_refused(stack):
    with pytest.raises(InputError, match="at no scale does the map explain the images better than none"):
        refined_map(stack, torch.zeros(N, N, N, dtype=torch.float64), CONFIG)
