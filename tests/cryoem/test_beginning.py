"""Half-sets that are searched by themselves: from starts of their own, from a shared one, and where starts disagree."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orbitrec.cryoem import beginning
from orbitrec.cryoem.centring import Centring
from orbitrec.cryoem.config import FEWEST_OF_HALF, AbInitioConfig, Schedule
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.result import PosedMap
from orbitrec.evaluation.alignment import align
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import radial_frequencies, radii
from orbitrec.io.mrc import StackWriter, read_header, read_map
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Stage, Status

N, COUNT, SNR = 32, 500, 1.0
SCHEDULE = Schedule(
    start_bandwidth=8.0, start_steps=40, settle_steps=5, settle_batch=500, select_bandwidth=12.0, select_steps=10,
    bandwidths=(12.0, 16.0), passes=1,
)  # fmt: skip
CONFIG = AbInitioConfig(60.0, schedule=SCHEDULE, matched=0, random=2, independent_halves=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> Path:
    return phantom_particles(tmp_path_factory.mktemp("beginning") / "stack", N, COUNT, SNR)


@pytest.fixture(scope="module")
def stack(folder: Path) -> ParticleStack:
    return ParticleStack.open(folder / "particles.star")


def starts_of(result: PosedMap) -> set[str]:
    """Which starts there were, by the history."""
    return {row.alternative for row in result.history if row.stage is Stage.STARTS}


def assert_right(result: PosedMap, folder: Path) -> None:
    """The map correlates with the truth by 0.94 to 0.97, and the truth's own radial average by 0.85."""
    truth = read_map(folder / "truth.mrc")[0].double()
    shell = radii(len(truth), 3).round().long().flatten()
    average = torch.bincount(shell, truth.flatten()) / torch.bincount(shell)
    ball = average[shell].reshape(truth.shape)
    assert align(ball, truth).correlation < 0.9 < align(result.combined.volume.double(), truth).correlation


def test_half_sets_have_starts_of_their_own(stack, folder):
    result = initial_model(stack, CONFIG)
    assert starts_of(result) == {"half 1 1", "half 1 2", "half 2 1", "half 2 2"}
    assert result.agreement is not None
    assert result.agreement > 0.8
    assert not any("different maps" in sentence for sentence in result.checks)
    assert_right(result, folder)


def test_starts_that_disagree_are_replaced_by_the_better_one(stack, folder, monkeypatch):
    judged = []
    true_likelihood = beginning.held_out_likelihood

    def watched(*arguments: Any) -> float:
        judged.append(true_likelihood(*arguments))
        return judged[-1]

    monkeypatch.setattr(beginning, "OTHER_MAP", 1.1)  # no two maps are that much alike
    monkeypatch.setattr(beginning, "held_out_likelihood", watched)
    result = initial_model(stack, CONFIG)
    assert any("both went on from the one" in sentence for sentence in result.checks)
    assert len(judged) == 2  # each start by the other half's particles
    assert result.selection.scores != []
    assert_right(result, folder)


def test_half_sets_part_after_a_common_search_where_images_tell_little(stack, folder, monkeypatch):
    monkeypatch.setattr(Centring, "tells", lambda self, k_max: False)
    result = initial_model(stack, replace(CONFIG, schedule=replace(SCHEDULE, finer=(18.0,))))
    assert starts_of(result) == {"1", "2"}
    marched = {row.alternative for row in result.history if row.stage is Stage.MARCHING}
    assert marched == {"", "half 1", "half 2"}
    assert any("for half of them" in sentence for sentence in result.checks)
    assert result.independent
    assert_right(result, folder)


@pytest.mark.parametrize("record", ["frequency marching 2", "half 1 finer 1"])
def test_a_search_in_rounds_that_was_interrupted_ends_as_if_it_was_not(stack, tmp_path, monkeypatch, record):
    monkeypatch.setattr(Centring, "tells", lambda self, k_max: False)
    config, kept = replace(CONFIG, schedule=replace(SCHEDULE, passes=2, finer=(18.0,))), Checkpoints(tmp_path / "kept")

    def interrupt(status: Status) -> None:
        if kept.load(record) is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        initial_model(stack, config, interrupt, kept)
    resumed, whole = initial_model(stack, config, checkpoints=kept), initial_model(stack, config)
    assert torch.equal(resumed.combined.volume, whole.combined.volume)
    assert torch.equal(resumed.rotations, whole.rotations)
    assert [row.log_likelihood for row in resumed.history] == [row.log_likelihood for row in whole.history]


def test_starts_are_compared_after_passes_with_drawn_displacements(stack, folder, monkeypatch):
    monkeypatch.setattr(Centring, "tells", lambda self, k_max: False)
    result = initial_model(stack, replace(CONFIG, random=4, independent_halves=False))
    rows = [row for row in result.history if row.stage is Stage.SELECTION]
    tried = {row.alternative for row in rows}
    assert len(tried) == 2  # half of the starts
    last = {number: [row.log_likelihood for row in rows if row.alternative == number][-5:] for number in tried}
    means = {int(number) - 1: sum(values) / len(values) for number, values in last.items()}
    scores = {each.start: each.score for each in result.selection.candidates}
    assert scores == pytest.approx(means)  # of the last pass, which has five batches
    assert result.selection.chosen == max(scores, key=lambda start: scores[start])
    assert_right(result, folder)


def test_half_sets_are_searched_by_themselves_where_half_of_the_particles_are_enough():
    chosen, asked = AbInitioConfig(), replace(AbInitioConfig(), independent_halves=True)
    assert chosen.searches_halves(2 * FEWEST_OF_HALF, told=True)
    assert not chosen.searches_halves(2 * FEWEST_OF_HALF - 1, told=True)
    assert not chosen.searches_halves(10 * FEWEST_OF_HALF, told=False)
    assert asked.searches_halves(100, told=False)
    assert not replace(chosen, independent_halves=False).searches_halves(10 * FEWEST_OF_HALF, told=True)


def finest_bandwidth(folder: Path) -> float:
    """Where the search of a stack ends that may go on from bandwidth 12 to 14 and to 16."""
    schedule = replace(SCHEDULE, bandwidths=(12.0,), passes=2, finer=(14.0, 16.0))
    config = replace(CONFIG, schedule=schedule, independent_halves=False)
    stack = ParticleStack.open(folder / "particles.star")
    found = initial_model(stack, config)
    return 2 * math.pi * stack.pixel_size_A / found.search_resolution_A * config.radius_px(stack)


def test_the_search_goes_on_as_far_as_the_particles_tell(folder, tmp_path):
    assert finest_bandwidth(folder) > 13
    header = read_header(folder / "particles.mrcs")
    with header.path.open("rb") as file:
        images = torch.from_numpy(header.read_sections(file, 0, COUNT).copy()).float()
    # Functions of the ball are π wide in frequency · radius: those beyond 12 reach down to 9.
    limit = 9 / CONFIG.radius_px(ParticleStack.open(folder / "particles.star"))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    beyond = radial_frequencies(N) > limit  # where these images are of the particle no longer
    spectrum = torch.where(beyond, centred_fft(noise), centred_fft(images))
    with StackWriter(tmp_path / "particles.mrcs", COUNT, N, header.voxel_size_A) as stack:
        stack.write(centred_ifft(spectrum).real.float())
    shutil.copy(folder / "particles.star", tmp_path)
    assert finest_bandwidth(tmp_path) == pytest.approx(12)
