"""``orbitrec refine``: likelihood refinement of a map."""

from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.devices import Device, usable
from orbitrec.cli.inputs import Datadir, Diameter, Invert, NoCTF, Particles, Passthrough, PixelSize
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
    print_summary,
    progress,
    settings,
    shared_run,
)
from orbitrec.cli.solver_names import SolverName


def refine(
    particles: Particles,
    initial: Annotated[Path, typer.Option("--init", help="Map to refine (MRC), of any box and voxel size.")],
    output: Output,
    solver: Annotated[SolverName, typer.Option(help="Optimiser of the likelihood.")] = SolverName.em,
    passes: Annotated[float, typer.Option(min=2, help="Its passes over the particles at each resolution.")] = 6,
    batch: Annotated[int, typer.Option(min=1, help="Particles in a batch of the stochastic solvers.")] = 500,
    diameter: Diameter = None,
    resolution: Resolution = None,
    shift_px: ShiftPx = None,
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
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Refine a map on two independent halves of a particle stack by their likelihood, and reconstruct both.

    The map's scale and sign are found; only what it shows at the first resolution of the march is believed. Where the
    STAR file has origins, particles are taken to be centred there; angles in it are not used. OUTPUT gets refined.mrc
    and the other files of orbitrec abinitio. A run that was interrupted goes on with --resume.

    Example:  orbitrec refine particles.star --init run/initial_model.mrc -o refined
    """
    given = settings("refine", locals())
    from dataclasses import replace

    from orbitrec.cryoem.config import RefineConfig
    from orbitrec.cryoem.refine import refined_map
    from orbitrec.geometry.point_groups import PointGroup
    from orbitrec.io.files import to_json
    from orbitrec.io.particles import ParticleStack
    from orbitrec.report.run import KnownMap, write_initial_model

    config = RefineConfig(
        diameter_A=diameter,
        resolution_A=resolution,
        shift_px=shift_px,
        seed=seed,
        group=PointGroup.named(symmetry),
        dense_is_dark=invert,
        flip=flip,
        device=usable(device),
        passes=passes,
    )
    with shared_run(output, given, resume, config.device) as (run, checkpoints):
        stack = ParticleStack.open(
            particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
        )
        start = KnownMap.read(initial, stack)
        true_map = None if truth is None else KnownMap.read(truth, stack)
        config = replace(config, solver=solver.make(min(1.0, batch / len(stack))))
        with progress(run is not None) as callback:
            result = refined_map(stack, start.grid, config, callback, checkpoints)
        if run is None:  # one of several processes, of which the first writes
            return
        summary = write_initial_model(run, particles, stack, config, result, true_map, name="refined")
    if as_json:
        typer.echo(to_json(summary))
        return
    print_summary(output, summary, "refined")
