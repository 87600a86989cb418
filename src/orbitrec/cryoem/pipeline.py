"""The main job: stack → modes → centres → starts → march → poses → map."""

import math
from collections.abc import Callable

import torch

from orbitrec.cryoem.centring import Centring, centre_marching
from orbitrec.cryoem.config import CENTRING_BANDWIDTHS, FEWEST_PARTICLES, Options
from orbitrec.cryoem.image_statistics import image_statistics
from orbitrec.cryoem.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.multiresolution import Report, Schedule, march, multi_start
from orbitrec.cryoem.pose_search import ParticleState
from orbitrec.cryoem.preprocess import ParticleModes, prepare
from orbitrec.cryoem.result import Ending, InitialModel, half_sets, rebuilt_map, refined_poses
from orbitrec.cryoem.starts import matched_starts
from orbitrec.cryoem.symmetry import symmetrised
from orbitrec.errors import InputError
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import POSE, READ, REBUILD, SELECT, START, SWEEP, RunState


def _total_work(count: int, schedule: Schedule) -> float:
    pool = count - schedule.held_out_of(count)
    start, settle, select = (
        steps * min(batch, pool)
        for steps, batch in (
            (schedule.start_steps, schedule.start_batch),
            (schedule.settle_steps, schedule.settle_batch),
            (schedule.select_steps, schedule.select_batch),
        )
    )
    begun = schedule.matched + schedule.starts
    starts = START * begun * (start + settle) + SELECT * math.ceil(begun / 2) * select
    sweeps = SWEEP * len(schedule.march) * schedule.sweeps * count
    return starts + sweeps + (READ + POSE + REBUILD) * count


def initial_model(
    stack: ParticleStack,
    options: Options,
    callback: Callable[[str, float], None] = lambda stage, share: None,
    checkpoints: Checkpoints | None = None,
) -> InitialModel:
    """A 3-D map and the pose of every particle from a stack and nothing else.

    Args:
        stack: the particles, with their CTF if they have one.
        options: see :class:`Options`; the same seed gives the same result on one machine.
        callback: told the stage and the share of the work done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Raises:
        InputError: for too few particles, bad images, or options that do not fit the stack.
    """
    if len(stack) < FEWEST_PARTICLES:
        raise InputError(f"{len(stack)} particles are too few for an initial model; give at least {FEWEST_PARTICLES}")
    halves, looked = half_sets(stack), image_statistics(stack)
    stack, options = looked.applied(stack), options.completed(looked)
    radius, schedule = options.radius_px(stack), options.bandwidths(stack)
    generator = torch.Generator().manual_seed(options.seed)
    journal = RunState(generator, _total_work(len(stack), schedule), callback, checkpoints or Checkpoints())
    shift_px = options.shift_px if options.shift_px is not None else 0.05 * stack.n

    finest = max(schedule.march)
    k_max = finest / radius
    reading = journal.reader("reading particles", READ)
    data = prepare(stack, k_max, radius + 3, progress=reading, device=options.device)
    journal.lap("read")
    centring = centred(data, radius, finest, shift_px, journal)
    journal.lap("centre")

    report = _climb_writer(journal, data.pixel_size_A)
    selected = multi_start(
        data, radius, centring.centres, schedule, journal, report,
        matched=lambda level: matched_starts(options.start, stack, level, schedule.matched, generator),
    )  # fmt: skip
    journal.lap("starts")
    particles = ParticleState(centring.centres, max(centring.residual_px, 0.4 / k_max))
    level, model, symmetry = symmetrised(selected.level, selected.model, options.group, data, centring.centres)
    found = march(data, radius, level, model, particles, schedule, journal, report)
    journal.lap("march")
    poses = refined_poses(data, found, journal, "poses")
    journal.lap("poses")
    rebuilt = rebuilt_map(stack, data.noise, poses, halves, options, journal)
    return Ending(stack, data, looked, options, journal).result(
        poses, halves, rebuilt, selected, symmetry, independent=False
    )


def centred(data: ParticleModes, radius: float, finest: float, shift_px: float, journal: RunState) -> Centring:
    """The particles' centres, found at rising bandwidths up to ``finest``."""
    at = sorted({min(bandwidth, finest) / radius for bandwidth in CENTRING_BANDWIDTHS})
    return Centring(**journal.step("centring", lambda: vars(centre_marching(data, at, prior_px=shift_px))))


def _climb_writer(journal: RunState, pixel_size_A: float) -> Report:
    def report(stage: str, level: ResolutionLevel, model: VolumeAndViews, likelihood: float, images: int) -> None:
        resolution = 2 * math.pi * pixel_size_A / level.basis.k_max
        journal.climbed(stage, journal.steps_of(stage) + 1, resolution, likelihood)
        cost = {"start": START, "select": SELECT, "march": SWEEP}[stage.split()[0]]
        journal.advance(stage, cost * images)

    return report
