"""What a person may set of a run is checked when it is set, and what is left open is chosen from the stack."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orbitrec.cryoem import config
from orbitrec.cryoem.config import AbInitioConfig, RefineConfig, Schedule, StartKind
from orbitrec.errors import InputError
from orbitrec.geometry.point_groups import PointGroup
from orbitrec.io.particles import ParticleStack
from orbitrec.optim.solvers import SnapshotSolver, em

N, PIXEL_A = 32, 3.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, phantom_particles: Callable[..., Path]) -> ParticleStack:
    folder = phantom_particles(tmp_path_factory.mktemp("config") / "stack", N, 20, 1.0)
    return ParticleStack.open(folder / "particles.star")


def made(kind, **fields):
    """A record as it is made outside of tests, where annotations are not checked before the record checks itself."""
    record = kind()
    for name, value in fields.items():
        object.__setattr__(record, name, value)
    record.__post_init__()
    return record


@pytest.mark.parametrize("kind", [AbInitioConfig, RefineConfig])
@pytest.mark.parametrize("name", ["diameter_A", "resolution_A", "shift_px"])
@pytest.mark.parametrize("value", [0.0, -3.0, math.nan, math.inf])
def test_lengths_that_are_none_are_refused(kind, name, value):
    with pytest.raises(InputError, match=f"^`{name}` must be a positive number, not {value:g}$"):
        kind(**{name: value})
    assert getattr(kind(**{name: 12.0}), name) == 12.0
    assert getattr(kind(), name) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("diameter_A", "12"), ("diameter_A", True), ("resolution_A", [3]), ("seed", 1.5), ("seed", -1), ("seed", 2**32),
        ("group", "C4"), ("dense_is_dark", "no"), ("flip", "no"), ("flip", 1), ("device", 0), ("device", "gpu"),
        ("schedule", None), ("solver", 5), ("solver", "em"), ("solver", em), ("solver", SnapshotSolver),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [AbInitioConfig, RefineConfig])
def test_fields_of_another_type_are_refused(kind, name, value):
    with pytest.raises(InputError, match=f"^`{name}` must be .*, not {re.escape(repr(value))}$"):
        made(kind, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("start", "moments"), ("matched", 1.5), ("matched", -1), ("random", "6"), ("random", -1)]
)
def test_starts_of_another_type_are_refused(name, value):
    with pytest.raises(InputError, match=f"^`{name}` must be .*, not {re.escape(repr(value))}$"):
        made(AbInitioConfig, **{name: value})


@pytest.mark.parametrize("value", ["6", math.nan, math.inf, 0])
def test_passes_that_are_no_number_are_refused(value):
    with pytest.raises(InputError, match=r"^`passes` must be a positive number, not "):
        made(RefineConfig, passes=value)


def test_an_integer_of_numpy_is_an_integer():
    assert made(AbInitioConfig, diameter_A=np.float32(12.0), seed=np.int64(3)).seed == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bandwidths", ()),
        ("bandwidths", (0.0,)), ("bandwidths", (12.0, 8.0)), ("bandwidths", 8.0), ("bandwidths", [8.0]), ("passes", 0),
        ("candidates", 0), ("batch", 0), ("rounds", 1.5), ("round_passes", 0), ("start_bandwidth", -1.0),
        ("start_batch", 0), ("start_steps", -1), ("held_out", 0),
    ],
)  # fmt: skip
def test_sizes_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"^`{name}` must be "):
        made(Schedule, **{name: value})


@pytest.mark.parametrize(
    ("start", "matched", "random", "expected"),
    [
        (StartKind.moments, 2, 6, 8), (StartKind.moments, 1, 0, 1), (StartKind.momnet, 3, 2, 3),
        (StartKind.random, 2, 4, 4), (StartKind.moments, 0, 0, 0), (StartKind.momnet, 0, 0, 0),
        (StartKind.random, 2, 0, 0),
    ],
)  # fmt: skip
def test_a_search_has_a_start(start, matched, random, expected):
    if expected:
        assert AbInitioConfig(start=start, matched=matched, random=random).starts == expected
        return
    with pytest.raises(InputError, match="nothing to start from: ask for at least one start, `matched` or `random`"):
        AbInitioConfig(start=start, matched=matched, random=random)


def test_a_refinement_makes_two_passes_at_least():
    assert RefineConfig(passes=2.0).passes == 2
    with pytest.raises(InputError, match=r"`passes` must be at least 2, .* not 1.5"):
        RefineConfig(passes=1.5)


def test_a_diameter_that_is_given_stays():
    assert AbInitioConfig().with_diameter(80.0).diameter_A == 80.0
    assert AbInitioConfig(60.0).with_diameter(80.0).diameter_A == 60.0
    assert RefineConfig(passes=3.0).with_diameter(80.0) == replace(RefineConfig(passes=3.0), diameter_A=80.0)


def test_the_ball_fits_the_box(stack):
    assert AbInitioConfig().radius_px(stack) == pytest.approx(0.3125 * N)
    assert AbInitioConfig(60.0).radius_px(stack) == pytest.approx(10)
    for diameter_A in (4 * PIXEL_A, 0.96 * N * PIXEL_A):
        assert AbInitioConfig(diameter_A).radius_px(stack) == pytest.approx(diameter_A / PIXEL_A / 2)
    for diameter_A in (3.9 * PIXEL_A, 0.97 * N * PIXEL_A):
        with pytest.raises(InputError, match="does not fit a box of 96 Å; choose one between"):
            AbInitioConfig(diameter_A).radius_px(stack)


def test_bandwidths_end_where_the_resolution_and_nyquist_do(stack):
    plan = Schedule(start_bandwidth=14.0, select_bandwidth=19.0, bandwidths=(19.0, 24.0, 28.0))
    nyquist = 0.9 * math.pi * 10
    full = AbInitioConfig(60.0, schedule=replace(plan, bandwidths=(19.0, 24.0, 40.0))).schedule_for(stack)
    assert full.bandwidths == pytest.approx((19, 24, nyquist))
    coarse = AbInitioConfig(60.0, 2 * math.pi * 10 * PIXEL_A / 12, schedule=plan).schedule_for(stack)
    assert coarse.bandwidths == pytest.approx((12,))
    assert (coarse.start_bandwidth, coarse.select_bandwidth) == pytest.approx((12, 12))
    fine = AbInitioConfig(60.0, 2 * math.pi * 10 * PIXEL_A / 22, schedule=plan).schedule_for(stack)
    assert fine.bandwidths == pytest.approx((19, 22))
    assert (fine.start_bandwidth, fine.select_bandwidth) == (14, 19)
    with pytest.raises(InputError, match=r"fewer than two resolved shells .* give a finer resolution"):
        AbInitioConfig(60.0, 2 * math.pi * 10 * PIXEL_A / 5.9, schedule=plan).schedule_for(stack)


def test_the_usual_schedule_is_looked_up_when_a_configuration_is_made(monkeypatch):
    assert AbInitioConfig().schedule == RefineConfig().schedule == Schedule()
    short = Schedule(start_steps=3)
    monkeypatch.setattr(config, "Schedule", lambda: short)
    assert AbInitioConfig().schedule is RefineConfig().schedule is short


def test_at_most_a_fifth_is_held_out():
    assert [Schedule(held_out=50).held_out_of(count) for count in (100, 249, 250, 1000)] == [20, 49, 50, 50]


@pytest.mark.parametrize(("name", "factor"), [("T", 12**0.25), ("O", 24**0.25), ("I1", 60**0.25), ("D7", 1), ("C1", 1)])
def test_bandwidths_rise_under_the_groups_that_leave_few_functions(name, factor):
    plan = Schedule(start_bandwidth=8.0, select_bandwidth=10.0, bandwidths=(10.0, 12.0))
    found = plan.under(PointGroup.named(name))
    assert (found.start_bandwidth, found.select_bandwidth) == pytest.approx((8 * factor, 10 * factor))
    assert found.bandwidths == pytest.approx((10.0, 12.0) if factor == 1 else (10 * factor,))
    assert found.bandwidths[0] >= found.select_bandwidth
