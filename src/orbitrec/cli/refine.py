"""``orbitrec refine``: likelihood refinement of a map."""

from pathlib import Path
from typing import Annotated

import typer

from orbitrec.cli.messages import say
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
    print_summary,
    progress,
    settings,
    shared_run,
)


def refine(
    particles: Particles,
    initial: Annotated[Path, typer.Option("--init", help="Map to refine (MRC), of any box and voxel size.")],
    output: Output,
    init_pixel_size: Annotated[
        float | None, typer.Option(min=0.01, max=1000, help="Voxel size of the map in Å, instead of its header's.")
    ] = None,
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
    threads: Threads = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Refine a map on two independent halves of a particle stack by their likelihood, and reconstruct both.

    The map's scale and sign are found; only what it shows at the first resolution of frequency marching is believed.
    Where the STAR file has origins, particles are taken to be centred there; angles in it are not used. OUTPUT gets
    refined.mrc and the other files of orbitrec abinitio. A run that was interrupted goes on with --resume.

    Example:  orbitrec refine particles.star --init run/initial_model.mrc -o refined
    """
    given = settings("refine", locals())
    from dataclasses import replace

    from orbitrec.api import open_particles
    from orbitrec.api import refine as compute
    from orbitrec.cryoem.config import RefineConfig
    from orbitrec.geometry.point_groups import PointGroup
    from orbitrec.report.run import KnownMap

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
        stack = open_particles(
            particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
        )
        config = replace(config, solver=solver.make(min(1.0, batch / len(stack))))
        start = KnownMap.read(initial, stack, init_pixel_size)
        for note in start.notes:
            say(f"{note}; --init-pixel-size says otherwise.", "yellow")
        with progress(run is not None) as callback:
            result = compute(stack, start, config, truth=truth, callback=callback, checkpoints=checkpoints)
        if run is None:  # one of several processes, of which the first writes
            return
        summary = result.write(run)
    if as_json:
        typer.echo(summary.to_json())
        return
    print_summary(output, summary, result.kind)
