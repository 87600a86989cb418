"""``orbitrec abinitio``: the main job."""

from enum import StrEnum
from typing import Annotated

import typer

from orbitrec.cli.options.devices import Device, usable
from orbitrec.cli.options.inputs import Datadir, Diameter, Invert, NoCTF, Particles, Passthrough, PixelSize
from orbitrec.cli.options.solver_names import SolverName
from orbitrec.cli.options.threads import Threads
from orbitrec.cli.particle_runs import (
    AsJson,
    Flip,
    Output,
    Resolution,
    Resume,
    Seed,
    ShiftPx,
    Symmetry,
    Truth,
    print_structures,
    print_summary,
    progress,
    settings,
    shared_run,
)


class StartName(StrEnum):
    """Where the starts beside random ones are from; the names of ``cryoem.config.StartKind``."""

    moments = "moments"
    momnet = "momnet"
    random = "random"


def abinitio(
    particles: Particles,
    output: Output,
    classes: Annotated[
        int,
        typer.Option(
            "--classes", "-k", min=1, help="Structures in the stack: different particles, or junk. A map of each."
        ),
    ] = 1,
    diameter: Diameter = None,
    resolution: Resolution = None,
    shift_px: ShiftPx = None,
    start: Annotated[
        StartName, typer.Option(help="Starts beside random ones: from moments matched, MoM-net's one, or none.")
    ] = StartName.moments,
    matched: Annotated[int, typer.Option(min=0, help="Starts from moments.")] = 2,
    starts: Annotated[int, typer.Option(min=0, help="Random starts.")] = 6,
    independent_halves: Annotated[
        bool | None,
        typer.Option(
            "--independent-halves/--shared-halves",
            help="Search each half-set by itself, so that their agreement tells whether to believe the map, or both at "
            "once. [by themselves, if half of the particles are enough]",
        ),
    ] = None,
    solver: Annotated[
        SolverName | None,
        typer.Option(help="Optimiser of the likelihood. [EM on batches with discounted statistics]"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Particles in a batch of a stochastic solver.")] = 500,
    seed: Seed = 1,
    no_ctf: NoCTF = False,
    invert: Invert = None,
    datadir: Datadir = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
    symmetry: Symmetry = "C1",
    flip: Flip = False,
    truth: Truth = None,
    device: Device = "cpu",
    threads: Threads = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """A 3-D initial model and the pose of every particle, from a particle stack alone.

    OUTPUT gets report.html to look at, initial_model.mrc, particles.star (posed), half-maps, mask, and the numbers. The
    handedness cannot be found from projections: the map may be the mirror image. A run that was interrupted, even
    killed, goes on with the same command and --resume to the same result.

    With --classes, OUTPUT/class_1, class_2 … are such folders, one for each structure; OUTPUT has
    all particles with their class. Conformations of one complex are not told apart.

    Example:  orbitrec abinitio particles.star -o run
    """
    given = settings("abinitio", locals())
    from dataclasses import replace

    from orbitrec.api import abinitio as compute
    from orbitrec.api import open_particles
    from orbitrec.cryoem.config import AbInitioConfig, StartKind
    from orbitrec.geometry.point_groups import PointGroup
    from orbitrec.report.summary import RunKind, Summary

    config = AbInitioConfig(
        diameter_A=diameter,
        resolution_A=resolution,
        shift_px=shift_px,
        seed=seed,
        group=PointGroup.named(symmetry),
        dense_is_dark=invert,
        flip=flip,
        device=usable(device),
        start=StartKind(start.value),
        matched=matched,
        random=starts,
        independent_halves=independent_halves,
    )
    with shared_run(output, given, resume, config.device) as (run, checkpoints):
        stack = open_particles(
            particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
        )
        if solver is not None:
            config = replace(config, solver=solver.make(min(1.0, batch / len(stack))))
        with progress(run is not None) as callback:
            result = compute(
                stack, config, classes=classes, truth=truth, callback=callback, checkpoints=checkpoints
            )  # fmt: skip
        if run is None:  # one of several processes, of which the first writes
            return
        summary = result.write(run)
    if as_json:
        typer.echo(summary.to_json())
    elif isinstance(summary, Summary):
        print_summary(output, summary, RunKind.INITIAL_MODEL)
    else:
        print_structures(output, summary)
