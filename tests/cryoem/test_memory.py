"""Memory: what a run needs is known before it begins, what would fit does fit, and a lack of it is no traceback."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orbitrec import api
from orbitrec.cli import main
from orbitrec.cryoem import memory, pipeline
from orbitrec.cryoem.config import AbInitioConfig, RefineConfig
from orbitrec.cryoem.memory import MemoryEstimate, require_memory, small_enough
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.preprocess import preprocess
from orbitrec.cryoem.refine import refined_map
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.memory import GIB, _job_bytes, _machine_bytes, available_GiB

N, COUNT, RADIUS, K_MAX = 16, 120, 5.0, 2.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> ParticleStack:
    folder = phantom_particles(tmp_path_factory.mktemp("memory") / "stack", N, COUNT, 1.0)
    return ParticleStack.open(folder / "particles.star")


def test_modes_take_what_is_estimated(stack):
    modes = preprocess(stack, K_MAX, RADIUS + 3).modes
    estimate = MemoryEstimate(COUNT, N, RADIUS * K_MAX, RADIUS)
    assert COUNT * estimate.bytes_per_particle == modes.numel() * modes.element_size()
    assert estimate.GiB - estimate.fixed_GiB == pytest.approx(modes.numel() * modes.element_size() / GIB)


def test_what_would_fit_fits(stack, monkeypatch):
    whole = MemoryEstimate(COUNT, N, RADIUS * K_MAX, RADIUS)
    available = whole.fixed_GiB + (COUNT - 10.5) * whole.bytes_per_particle / GIB
    monkeypatch.setattr(memory, "available_GiB", lambda: available)
    with pytest.raises(InputError, match=r"120 particles of 16 px need about .* and .* GiB are free; give ") as error:
        require_memory(stack, K_MAX, RADIUS)
    found = re.search(r"at most (\d+) particles or a `resolution_A` of ([\d.]+)$", str(error.value))
    assert found is not None
    assert int(found[1]) == COUNT - 11
    k_max = 2 * math.pi * stack.pixel_size_A / float(found[2])
    assert 0.7 * K_MAX < k_max < K_MAX
    require_memory(stack, k_max, RADIUS)
    available = whole.GiB
    require_memory(stack, K_MAX, RADIUS)
    available = 0.0
    with pytest.raises(InputError, match="GiB are free; take a machine with more"):
        require_memory(stack, K_MAX, RADIUS)


def test_finer_bandwidths_are_those_whose_modes_are_small(stack, monkeypatch):
    own = MemoryEstimate(COUNT, N, 8.0, RADIUS, copies=1.5)
    monkeypatch.setattr(memory, "FINER_GiB", own.count * own.bytes_per_particle / GIB)
    assert small_enough(stack, (6.0, 8.0, 10.0), RADIUS, copies=1.5) == (6.0, 8.0)
    assert small_enough(stack, (6.0, 8.0, 10.0), RADIUS, copies=3.0) == ()


def test_runs_are_refused_before_they_begin(stack, monkeypatch):
    monkeypatch.setattr(memory, "available_GiB", lambda: 0.4)
    heard = []
    with pytest.raises(InputError, match=r"0\.4 GiB are free"):
        initial_model(stack, AbInitioConfig(), heard.append)
    with pytest.raises(InputError, match=r"0\.4 GiB are free"):
        refined_map(stack, torch.ones(N, N, N, dtype=torch.float64), RefineConfig(), heard.append)
    assert heard == []


@pytest.mark.parametrize(("apart", "copies"), [(False, 1.0), (True, 1.5)])
def test_a_half_set_that_is_searched_alone_is_held_beside_all(stack, monkeypatch, apart, copies):
    def refuse(*arguments: object, copies: float) -> None:
        raise InputError(f"{copies} copies")

    monkeypatch.setattr(pipeline, "require_memory", refuse)
    with pytest.raises(InputError, match=f"{copies} copies"):
        initial_model(stack, AbInitioConfig(independent_halves=apart))


def _too_large() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def _of_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("fails", [_too_large, _of_the_gpu, _of_python])
def test_memory_that_is_not_there_is_told_in_a_sentence(stack, tmp_path, monkeypatch, capsys, fails):
    monkeypatch.setattr(api, "initial_model", lambda *arguments: fails())
    with pytest.raises(SystemExit) as exit_info:
        main.run(["abinitio", str(stack.table.path), "-o", str(tmp_path / "run")])
    assert exit_info.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("orbitrec: there is not enough memory: fewer particles, a coarser --resolution")
    assert told.count("\n") == 1


def test_other_errors_of_torch_are_not_taken_for_it(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "initial_model", lambda *arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main.run(["abinitio", str(stack.table.path), "-o", str(tmp_path / "run")])


def test_what_the_system_says(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:    1500 kB\n")
    assert _machine_bytes(tmp_path / "meminfo") == 1500 * 1024
    assert _machine_bytes(tmp_path / "none") == math.inf
    job = tmp_path / "slurm" / "job"
    job.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/slurm/job\n")
    for folder, limit, used in ((job, "max", "700"), (tmp_path / "slurm", "1000", "900")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 300\ninactive_file 250\n")
    assert _job_bytes(tmp_path / "cgroup", tmp_path) == 350
    assert _job_bytes(tmp_path / "none", tmp_path) == math.inf
    assert available_GiB() > 0.1
