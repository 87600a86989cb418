"""What ``import orbitrec`` offers: the names, how they are imported, and a run from Python to its files."""

import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import orbitrec
from orbitrec.cryoem.config import Schedule
from orbitrec.report.summary import RunKind, Summary

N, PIXEL_A = 28, 4.0
SCHEDULE = Schedule(
    start_bandwidth=8.0, start_steps=12, settle_steps=2, settle_batch=200, select_bandwidth=8.0, select_steps=4,
    bandwidths=(8.0, 11.0), passes=1,
)  # fmt: skip


def test_every_name_is_there_and_has_a_docstring():
    names = [name for name in dir(orbitrec) if not name.startswith("_")]
    assert 24 <= len(names) <= 34
    for name in names:
        assert (getattr(orbitrec, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="orbitrec offers no 'reconstruct'"):
        orbitrec.reconstruct  # noqa: B018


def test_importing_the_package_does_not_wait_for_torch():
    code = "import sys, orbitrec; dir(orbitrec); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    phantom = orbitrec.protein_phantom(30, 8.0, torch.Generator().manual_seed(3)).to_grid(N).float()
    folder = tmp_path_factory.mktemp("api") / "data"
    return orbitrec.simulate_particles(folder, phantom, PIXEL_A, 200, snr=2.0, shift_px=0.5, seed=2), folder


@pytest.fixture(scope="module")
def result(particles):
    stack, folder = particles
    seen = []
    config = orbitrec.AbInitioConfig(75.0, schedule=SCHEDULE, matched=0, random=2)
    found = orbitrec.abinitio(stack, config, truth=folder / "truth.mrc", callback=seen.append)
    assert seen[-1].share == pytest.approx(1)
    return found


def test_a_run_has_what_a_person_asks_of_it(result, particles):
    stack, _ = particles
    assert result.map.shape == result.mask.shape == (N, N, N)
    assert [half.shape for half in result.half_maps] == [(N, N, N)] * 2
    assert result.poses.rotations.shape == (len(stack), 3, 3)
    assert result.poses.shifts_px.shape == (len(stack), 2)
    assert result.voxel_size_A == PIXEL_A
    assert len(result.fsc.value) == N // 2 + 1
    assert any("200 particles are few" in check for check in result.checks)
    assert result.summary.truth is not None
    assert repr(result).startswith(f"<Reconstruction of {len(result.particles)} particles: ")
    assert len(repr(result)) < 200
    html = result._repr_html_()
    assert "data:image/png;base64," in html
    assert "200 particles are few" in html


def test_a_run_is_saved_as_the_command_would(result, tmp_path):
    summary = result.save(tmp_path / "run")
    assert summary.particles == 200
    assert Summary.read(tmp_path / "run" / "summary.json").checks == result.checks
    written, voxel_A = orbitrec.read_map(tmp_path / "run" / f"{RunKind.INITIAL_MODEL}.mrc")
    assert voxel_A == pytest.approx(PIXEL_A)
    assert torch.equal(written, result.map.float())
    posed = orbitrec.open_particles(tmp_path / "run" / "particles.star", ctf=False).poses()
    assert posed is not None
    assert torch.allclose(posed[0], result.poses.rotations, atol=1e-5)
    with pytest.raises(orbitrec.InputError, match="already holds"):
        result.save(tmp_path / "run")


def test_evaluation_agrees_with_the_runs_own(result, particles):
    _, folder = particles
    truth, voxel_A = orbitrec.read_map(folder / "truth.mrc")
    found = orbitrec.evaluate(result.map.double(), truth.double(), voxel_A)
    assert found.fsc05_A == pytest.approx(result.summary.truth.fsc05_A)
    assert found.correlation == pytest.approx(result.summary.truth.correlation)


def test_refinement_goes_on_from_a_map_in_memory(result, particles):
    stack, _ = particles
    config = orbitrec.RefineConfig(75.0, schedule=SCHEDULE, passes=2.0)
    refined = orbitrec.refine(stack, result.map, config)
    assert refined.found.independent
    agreement = orbitrec.align(refined.map.double(), result.map.double(), handedness=False).correlation
    assert agreement > 0.8


def test_bad_input_is_one_sentence_that_names_the_parameter():
    with pytest.raises(orbitrec.InputError, match="`diameter_A` must be a positive number, not -3"):
        orbitrec.AbInitioConfig(diameter_A=-3.0)
    with pytest.raises(orbitrec.InputError, match="nothing to start from"):
        orbitrec.AbInitioConfig(matched=0, random=0)
    with pytest.raises(orbitrec.InputError, match="`passes` must be at least 2"):
        orbitrec.RefineConfig(passes=1.0)


@pytest.mark.parametrize(
    ("shape", "lengths", "sentence"),
    [
        ((12, 12, 12), {"voxel_size_A": 0.0}, "`voxel_size_A` must be a positive number, not 0"),
        ((12, 12, 12), {"voxel_size_A": math.nan}, "`voxel_size_A` must be a positive number, not nan"),
        ((12, 12, 12), {"moving_voxel_size_A": 0.0}, "`moving_voxel_size_A` must be a positive number, not 0"),
        ((12, 12, 12), {"mask_radius_A": -5.0}, "`mask_radius_A` must be a positive number, not -5"),
        ((10, 12, 12), {}, "`moving` must be a cube, not of 10 × 12 × 12 voxels"),
        ((12, 12), {}, "`moving` must be a cube, not of 12 × 12 voxels"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(shape, lengths, sentence):
    moving, reference = torch.arange(float(math.prod(shape))).reshape(shape), torch.arange(1728.0).reshape(12, 12, 12)
    unchecked = inspect.unwrap(orbitrec.evaluate)  # as it is outside of tests, where shapes are not checked before
    with pytest.raises(orbitrec.InputError, match=sentence):
        unchecked(moving, reference, **{"voxel_size_A": 3.0, **lengths})


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"count": 0}, "`count` must be a whole number, one or more, not 0"),
        ({"pixel_size_A": math.inf}, "`pixel_size_A` must be a positive number, not inf"),
        ({"shift_px": math.nan}, "`shift_px` must be zero or a positive number, not nan"),
        ({"seed": -1}, "`seed` must be a whole number from 0"),
    ],
)
def test_simulations_that_cannot_be_leave_nothing(tmp_path, changed, sentence):
    density = torch.rand(12, 12, 12, generator=torch.Generator().manual_seed(1))
    with pytest.raises(orbitrec.InputError, match=sentence):
        orbitrec.simulate_particles(tmp_path / "data", density, **{"pixel_size_A": 3.0, "count": 3, **changed})
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda n: torch.ones(n // 2, n // 2, n // 2), "resample it to a cube of that box"),
        (lambda n: torch.full((n, n, n), math.nan), "holds NaN or infinite voxels"),
        (lambda n: torch.ones(n, n, n), "the map is constant"),
    ],
)
def test_a_map_in_memory_must_fit_the_images(particles, made, sentence):
    stack, _ = particles
    with pytest.raises(orbitrec.InputError, match=sentence):
        orbitrec.refine(stack, made(stack.n))


def test_a_signal_is_recovered_from_its_shifted_copies():
    generator = torch.Generator().manual_seed(1)
    signal = torch.from_numpy(np.exp(-0.5 * ((np.arange(15) - 6.0) / 1.5) ** 2)).double()
    density = torch.rand(15, generator=generator, dtype=torch.float64)
    density = density / density.sum()
    model = orbitrec.PeriodicMRA(15)
    problem = orbitrec.MRAProblem.exact(model, signal, density)
    from orbitrec.moments.losses import orbit_error
    from orbitrec.mra.methods import Method

    found = orbitrec.recover_signal(problem, Method.SPECTRAL, generator)
    assert float(orbit_error(found.signal, signal)) < 1e-6
