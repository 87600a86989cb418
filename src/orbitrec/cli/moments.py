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
    """First and second moments of a particle stack, and third cumulants, CTF-corrected, in one pass; and merging them.

    Example:  orbitrec moments PARTICLES.star -o M.safetensors
    """


@app.command()
def stack(
    particles: Particles,
    output: Output,
    resolution: Annotated[float | None, typer.Option(min=0.1, help="Finest resolution in Å. [six pixels]")] = None,
    diameter: Annotated[float | None, typer.Option(min=0.1, help="Of the particle and its shifts, Å. [box]")] = None,
    order: Annotated[int, typer.Option(min=2, max=3, help="3 adds third cumulants, which reads a part twice.")] = 2,
    coordinates: Annotated[
        Path | None, typer.Option(help="File whose third cumulants' coordinates are taken, so that both merge.")
    ] = None,
    no_ctf: NoCTF = False,
    datadir: Datadir = None,
    pixel_size: PixelSize = None,
    passthrough: Passthrough = None,
    device: Device = "cpu",
) -> None:
    """Moments of one stack: also `orbitrec moments PARTICLES.star -o M.safetensors`."""
    from orbitrec.cryoem.accumulate import accumulate_moments, accumulate_three_moments
    from orbitrec.errors import InputError
    from orbitrec.io.particles import ParticleStack
    from orbitrec.moments.files import read_cumulants, write_moments

    where, known = usable(device), None
    if coordinates is not None:
        if order < 3:
            raise InputError("--coordinates are those of third cumulants; add --order 3")
        known = read_cumulants(coordinates)
        if known is None:
            raise InputError(f"{coordinates} holds no third cumulants; make it with --order 3")
    data = ParticleStack.open(
        particles, datadir=datadir, pixel_size_A=pixel_size, passthrough=passthrough, ctf=not no_ctf
    )
    pixel, cumulants = data.pixel_size_A, None
    finest, radius = resolution or 6 * pixel, (diameter or data.n * pixel) / 2
    with passing_bar() as bar:
        task = bar.add_task("reading", total=len(data))
        if order < 3:
            found = accumulate_moments(data, finest, radius, progress=lambda n: bar.advance(task, n), device=where)
        else:
            compression = None if known is None else known.compression
            found, cumulants = accumulate_three_moments(
                data, finest, radius,
                compression=compression, progress=lambda n: bar.advance(task, n), device=where,
            )  # fmt: skip
    write_moments(output, found, pixel * data.n / found.grid.box, cumulants)
    third = "" if cumulants is None else f", {cumulants.target().numbers} third cumulants"
    typer.echo(
        f"moments of {len(data)} particles, {found.grid.max_mode + 1} modes × {found.grid.node_count}²{third}: {output}"
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
    from orbitrec.moments.cumulant_estimator import CumulantAccumulator
    from orbitrec.moments.estimator import MomentAccumulator
    from orbitrec.moments.files import read_cumulants, read_moments, write_moments

    read = [read_moments(path) for path in parts]
    sizes = {round(pixel, 6) for _, pixel in read}
    if len(sizes) > 1:
        raise InputError(f"the parts have pixel sizes of {sorted(sizes)} Å; merge moments of one pixel size only")
    total = reduce(MomentAccumulator.merge, (part for part, _ in read))
    thirds = [third for third in map(read_cumulants, parts) if third is not None]
    if thirds and len(thirds) < len(parts):
        raise InputError("some of the parts hold third cumulants and some do not; make all with the same --order")
    write_moments(output, total, read[0][1], reduce(CumulantAccumulator.merge, thirds) if thirds else None)
    typer.echo(f"moments of {int(total.count)} particles: {output}")
