"""The main job from Python on a small phantom: quality, seeds, contrast, configuration and progress."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from orbitrec.cryoem.confidence import DOUBTFUL, calibration
from orbitrec.cryoem.config import AbInitioConfig, Schedule
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.result import PosedMap, half_sets
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import align
from orbitrec.evaluation.fsc import fourier_shell_correlation
from orbitrec.geometry.rotations import geodesic_distance
from orbitrec.io.mrc import StackWriter, read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.io.relion_tables import particle_tables
from orbitrec.io.star import write_star
from orbitrec.models.ctf import CTFParameters
from orbitrec.optim.solvers import em, sem_vr_bfgs, svrg
from orbitrec.runtime.progress import Stage, Status

N, PIXEL_A, COUNT, SNR = 32, 3.0, 500, 1.0
SCHEDULE = Schedule(
    start_bandwidth=8.0, start_steps=40, settle_steps=5, settle_batch=500, select_bandwidth=12.0, select_steps=10,
    bandwidths=(12.0, 16.0, 20.0), passes=1,
)  # fmt: skip
SHORT = replace(SCHEDULE, start_steps=10, settle_steps=1, select_steps=2, bandwidths=(12.0,))
CONFIG = AbInitioConfig(60.0, schedule=SCHEDULE, matched=1, random=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> Path:
    return phantom_particles(tmp_path_factory.mktemp("pipeline") / "stack", N, COUNT, SNR)


@pytest.fixture(scope="module")
def stack(folder: Path) -> ParticleStack:
    return ParticleStack.open(folder / "particles.star")


@pytest.fixture(scope="module")
def told() -> list[Status]:
    return []


@pytest.fixture(scope="module")
def model(stack: ParticleStack, told: list[Status]) -> PosedMap:
    return initial_model(stack, CONFIG, told.append)


def test_recovers_the_phantom_and_its_poses(model, folder):
    """Sampling ends at 6 Å. Five seeds give 6.7 to 7.7 Å, the worst of them with half of the poses rotated around.

    A quarter of the poses must be within 10 degrees, where chance puts 3 in 10,000: that holds for all five, and for
    no wrong convention of rotations, shifts or hand.
    """
    volume, truth = model.combined.volume.double(), read_map(folder / "truth.mrc")[0].double()
    alignment = align(volume, truth)
    fsc = fourier_shell_correlation(alignment.apply(volume), truth)
    assert fsc.cutoff_A(0.5, PIXEL_A) < 9
    assert not model.inverted
    assert model.rotations.shape == (COUNT, 3, 3)
    # The truth is v(Mx) rotated by L, so its slice at R is v's at M Lᵀ R; Z = diag(1, 1, −1) makes that a rotation and
    # leaves the plane of the slice alone.
    rotated = model.rotations
    if alignment.mirrored:
        rotated = torch.tensor([-1.0, 1, 1]).double().diag() @ rotated @ torch.tensor([1.0, 1, -1]).double().diag()
    rotations, shifts = ParticleStack.open(folder / "truth.star").poses()
    error = torch.rad2deg(geodesic_distance(alignment.rotation @ rotated, rotations))
    assert float(error.quantile(0.25)) < 10
    # A map that sits off its origin by the alignment's shift has images moved by that shift's projection.
    offset = torch.einsum("bji,j->bi", rotations, alignment.shift_px)[:, :2]
    assert float((model.shifts_px - offset - shifts).square().mean().sqrt()) < 0.3


def test_result_says_what_was_done(model, stack):
    assert model.radius_px == pytest.approx(10)
    assert model.search_resolution_A == pytest.approx(2 * math.pi * 10 * PIXEL_A / 20)
    assert model.selection.kinds == ["moments", "random", "random"]
    assert len(model.selection.scores) == 3
    followed = model.selection.candidates  # the better half of three starts
    assert len(followed) == 2
    assert model.selection.chosen == max(followed, key=lambda candidate: candidate.score).start
    assert list(model.seconds) == ["read", "centre", "starts", "frequency marching", "poses", "map"]
    steps: dict[tuple[Stage, str, float], list[int]] = {}
    for row in model.history:
        steps.setdefault((row.stage, row.alternative, row.resolution_A), []).append(row.step)
    first, second, *_, finest = sorted({row.resolution_A for row in model.history}, reverse=True)
    assert steps[Stage.STARTS, "1", first] == list(range(1, 46))
    assert steps[Stage.SELECTION, str(model.selection.chosen + 1), second] == list(range(1, 11))
    assert steps[Stage.MARCHING, "", finest] == list(range(1, 6))  # a pass is five batches at least
    assert all(a.seconds <= b.seconds for a, b in pairwise(model.history))
    assert finest == pytest.approx(model.search_resolution_A, rel=0.1)


def test_a_map_of_noise_is_probably_wrong_and_that_of_the_phantom_is_not(model, stack, tmp_path):
    noise = torch.randn(COUNT, N, N, generator=torch.Generator().manual_seed(2))
    with StackWriter(tmp_path / "noise.mrcs", COUNT, N, PIXEL_A) as writer:
        writer.write(noise)
    write_star(tmp_path / "noise.star", particle_tables("noise.mrcs", COUNT, N, PIXEL_A, ctf=stack.ctf))
    found = initial_model(ParticleStack.open(tmp_path / "noise.star"), CONFIG).witnesses
    assert found is not None
    assert model.witnesses is not None
    assert calibration().probability(found) < DOUBTFUL < calibration().probability(model.witnesses)
    assert found.log_likelihood < 0.2 * model.witnesses.log_likelihood
    assert model.witnesses.starts == min(each.agreement for each in model.selection.candidates)  # two were followed


def test_progress_rises_to_one(model, told):
    """The share counts batches as large as they are, not as planned: ``settle_batch`` is more than there are."""
    shares = [status.share for status in told]
    assert all(0 < a < b for a, b in pairwise(shares))
    assert shares[-1] == pytest.approx(1)
    stages = list(dict.fromkeys(status.stage for status in told))
    assert stages == [
        Stage.READING, Stage.STARTS, Stage.SELECTION, Stage.MARCHING, Stage.POSE_REFINEMENT, Stage.RECONSTRUCTION,
    ]  # fmt: skip
    assert {str(status) for status in told if status.stage is Stage.STARTS} == {
        f"stochastic EM, start {number}" for number in (1, 2, 3)
    }


def test_seed_decides(stack):
    a, b, other = (initial_model(stack, replace(CONFIG, seed=seed, schedule=SHORT)) for seed in (1, 1, 2))
    assert torch.equal(a.rotations, b.rotations)
    assert torch.equal(a.shifts_px, b.shifts_px)
    assert a.selection.scores == b.selection.scores
    assert [s.log_likelihood for s in a.history] == [s.log_likelihood for s in b.history]
    assert torch.equal(a.combined.volume, b.combined.volume)
    assert not torch.equal(a.combined.volume, other.combined.volume)
    assert not torch.equal(a.rotations, other.rotations)


@pytest.mark.parametrize("exponent", [-27, 27])
def test_the_scale_of_the_images_does_not_matter(stack, tmp_path, exponent):
    """Images × 7e-9 and × 1e8. Powers of two round nothing, which the search would amplify: the results are equal."""
    with StackWriter(tmp_path / "scaled.mrcs", COUNT, N, PIXEL_A) as writer:
        writer.write(stack.images(slice(None)) * 2.0**exponent)
    write_star(tmp_path / "scaled.star", particle_tables("scaled.mrcs", COUNT, N, PIXEL_A, ctf=stack.ctf))
    scaled = ParticleStack.open(tmp_path / "scaled.star")
    one, other = (initial_model(each, replace(CONFIG, random=1, schedule=SHORT)) for each in (stack, scaled))
    assert torch.equal(one.combined.volume, other.combined.volume)
    assert torch.equal(one.rotations, other.rotations)
    assert torch.equal(one.shifts_px, other.shifts_px)


@pytest.mark.parametrize(("seed", "threads"), [(2, 1), (1, 2)])
def test_other_seeds_and_other_numbers_of_threads_give_maps_that_agree(model, stack, seed, threads):
    """Not the same bits: threads group sums otherwise, and EM amplifies what that rounds. Here 6.6 and 6.7 Å."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        other = initial_model(stack, replace(CONFIG, seed=seed))
    finally:
        torch.set_num_threads(before)
    one, two = (each.combined.volume.double() for each in (model, other))
    if seed != 1:
        assert not torch.equal(one, two)
    fsc = fourier_shell_correlation(align(two, one).apply(two), one)
    assert fsc.cutoff_A(0.5, PIXEL_A) < 9


@pytest.mark.parametrize(
    ("solver", "starts", "epochs"),
    [
        (em(), {"matched": 0, "random": 2}, 3),
        (svrg(0.25, 2), {"matched": 1, "random": 0}, 2),
        (sem_vr_bfgs(0.25, 2), {"matched": 1, "random": 0}, 2),
    ],
    ids=["em", "svrg", "sem-vr+qn"],
)  # fmt: skip
def test_any_solver_recovers_the_phantom(stack, folder, solver, starts, epochs):
    """From random starts 7.6 Å by EM; from moments 6.7 to 6.8 Å, where SVRG, without a metric, needs more passes.

    SVRG ended at 6.8 to 9.3 Å over seeds and roundings.
    """
    config = replace(CONFIG, solver=solver, schedule=replace(SCHEDULE, rounds=4), **starts)
    found = initial_model(stack, config)
    volume, truth = found.combined.volume.double(), read_map(folder / "truth.mrc")[0].double()
    assert fourier_shell_correlation(align(volume, truth).apply(volume), truth).cutoff_A(0.5, PIXEL_A) < 10
    # Four rounds of a start, and a pass of the solver at each resolution, each of as many epochs as three passes allow.
    steps = Counter((row.stage, row.alternative) for row in found.history)
    assert steps[Stage.STARTS, "1"] == 4 * epochs
    assert steps[Stage.MARCHING, ""] == 3 * epochs
    assert list(dict.fromkeys(row.stage for row in found.history)) == [Stage.STARTS, Stage.SELECTION, Stage.MARCHING]


def test_images_with_dense_dark_give_the_map_with_dense_bright(stack, folder, tmp_path):
    with StackWriter(tmp_path / "dark.mrcs", COUNT, N, PIXEL_A) as writer:
        writer.write(-stack.images(slice(None)))
    write_star(tmp_path / "dark.star", particle_tables("dark.mrcs", COUNT, N, PIXEL_A, ctf=stack.ctf))
    dark = initial_model(ParticleStack.open(tmp_path / "dark.star"), CONFIG)
    assert dark.inverted
    volume, truth = dark.combined.volume.double(), read_map(folder / "truth.mrc")[0].double()
    fsc = fourier_shell_correlation(align(volume, truth).apply(volume), truth)
    assert fsc.cutoff_A(0.5, PIXEL_A) < 9  # maps of opposite contrast do not align


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (AbInitioConfig(diameter_A=200.0), "a diameter of 200 Å does not fit a box of 96 Å"),
        (AbInitioConfig(diameter_A=5.0), "a diameter of 5 Å does not fit"),
        (AbInitioConfig(resolution_A=80.0), "fewer than two resolved shells"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_any_image_is_read(stack, config, sentence):
    heard: list[Status] = []
    with pytest.raises(InputError, match=sentence):
        initial_model(stack, config, heard.append)
    assert heard == []


def test_too_few_particles(folder, tmp_path, stack):
    """Without a CTF images may be class averages, of which fewer are enough."""
    with StackWriter(tmp_path / "few.mrcs", 99, N, PIXEL_A) as writer:
        writer.write(stack.images(range(99)))
    write_star(tmp_path / "few.star", particle_tables("few.mrcs", 99, N, PIXEL_A))
    few = ParticleStack.open(tmp_path / "few.star", ctf=False)
    one = torch.ones(99, dtype=torch.float64)
    ctf = CTFParameters(9000 * one, 9000 * one, 0 * one, 300 * one, 2 * one, 0.1 * one, 0 * one)
    with pytest.raises(InputError, match=r"99 particles are too few.* at least 100, or 20 class averages"):
        initial_model(replace(few, ctf=ctf), AbInitioConfig())
    assert half_sets(few).tolist() == [1, 2] * 49 + [1]
    write_star(tmp_path / "fewer.star", particle_tables("few.mrcs", 19, N, PIXEL_A))
    with pytest.raises(InputError, match=r"19 particles are too few.* at least 20$"):
        initial_model(ParticleStack.open(tmp_path / "fewer.star", ctf=False), AbInitioConfig())


def test_the_coarsest_bandwidth_allowed_works(stack):
    """Six: below it a configuration is refused."""
    lowest = replace(SHORT, start_bandwidth=6.0, select_bandwidth=6.0, bandwidths=(6.0,))
    model = initial_model(stack, replace(CONFIG, schedule=lowest))
    assert model.search_resolution_A == pytest.approx(2 * math.pi * 10 * PIXEL_A / 6)
    assert bool(model.combined.volume.isfinite().all())
