"""``orbitrec moments``: one pass over a stack, and the sum of several."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orbitrec.cli.bars import passing_bar
from orbitrec.cli.options.devices import Device, usable
from orbitrec.cli.options.inputs import Datadir, NoCTF, Particles, Passthrough, PixelSize


class _StackByDefault(TyperGroup):
    """``moments PARTICLES.star`` is short for ``moments stack PARTICLES.star``."""

    # Typer's base class has a context whose type has no public name in all of its versions.
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple:  # noqa: ANN401
        return super().resolve_command(ctx, args if args[0] in self.commands else ["stack", *args])


app = typer.Typer(cls=_StackByDefault, no_args_is_help=True, context_settings={"ignore_unknown_options": True})
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")]


@app.callback()
def moments() -> None:
    """First and second moments of a particle stack, debiased and CTF-corrected, in one pass; and merging them.

    Example:  orbitrec moments PARTICLES.star -o M.safetensors
    """


@app.command()
def stack(
    particles: Particles,
    output: Output,
    resolution: Annotated[float | None, typer.Option(min=0.1, help="Finest resolution in Å. [six pixels]")] = None,
    diameter: Annotated[float | None, typer.Option(min=0.1, help="Of the particle and its shifts, Å. [box]")] = None,
    no_ctf: NoCTF = False,
    datadir: Datadir = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
    device: Device = "cpu",
) -> None:
    """Moments of one stack: also `orbitrec moments PARTICLES.star -o M.safetensors`."""
    from orbitrec.cryoem.accumulate import accumulate_moments
    from orbitrec.io.particles import ParticleStack
    from orbitrec.moments.files import write_moments

    where = usable(device)
    data = ParticleStack.open(
        particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
    )
    pixel = data.pixel_size_A
    with passing_bar() as bar:
        task = bar.add_task("reading", total=len(data))
        found = accumulate_moments(
            data, resolution or 6 * pixel, (diameter or data.n * pixel) / 2,
            progress=lambda n: bar.advance(task, n), device=where,
        )  # fmt: skip
    write_moments(output, found, pixel * data.n / found.grid.box)
    typer.echo(
        f"moments of {len(data)} particles, {found.grid.max_mode + 1} modes × {found.grid.node_count}²: {output}"
    )


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="A B …", help="Moments of parts of one data set.")],
    output: Output,
) -> None:
    """The moments of all parts together, as if they had been one stack.

    Example:  orbitrec moments merge A.safetensors B.safetensors -o ALL.safetensors
    """
    from functools import reduce

    from orbitrec.errors import InputError
    from orbitrec.moments.estimator import MomentAccumulator
    from orbitrec.moments.files import read_moments, write_moments

    read = [read_moments(path) for path in parts]
    sizes = {round(pixel, 6) for _, pixel in read}
    if len(sizes) > 1:
        raise InputError(f"the parts have pixel sizes of {sorted(sizes)} Å; merge moments of one pixel size only")
    total = reduce(MomentAccumulator.merge, (part for part, _ in read))
    write_moments(output, total, read[0][1])
    typer.echo(f"moments of {int(total.count)} particles: {output}")
