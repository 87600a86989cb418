"""``orbitrec simulate``: data whose truth is known."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orbitrec.cli.bars import passing_bar
from orbitrec.errors import InputError

if TYPE_CHECKING:
    import torch

    from orbitrec.models.ctf import CTFParameters

app = typer.Typer(no_args_is_help=True)


class Views(StrEnum):
    """How viewing directions are distributed."""

    vmf = "vmf"
    uniform = "uniform"


class Noise(StrEnum):
    """The noise's spectrum."""

    white = "white"
    coloured = "coloured"


@app.callback()
def simulate() -> None:
    """Make data whose truth is known."""


@app.command()
def cryoem(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    map_file: Annotated[Path | None, typer.Option("--map", help="Map to project (MRC).")] = None,
    phantom: Annotated[int | None, typer.Option(help="Project a phantom of this many atoms instead of a map.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of particles.")] = 5000,
    snr: Annotated[
        float, typer.Option(help="Signal variance in a disc of 0.45 box, after CTF, over noise; inf.")
    ] = 0.1,
    ctf_file: Annotated[Path | None, typer.Option("--ctf", help="STAR file whose first rows give the CTF.")] = None,
    no_ctf: Annotated[bool, typer.Option("--no-ctf", help="No CTF. Without --ctf or this: random 1–2.5 µm.")] = False,
    voltage: Annotated[float | None, typer.Option(help="kV, whatever the STAR file says. [300]")] = None,
    cs: Annotated[float | None, typer.Option(help="Spherical aberration in mm, likewise. [2.0]")] = None,
    amplitude_contrast: Annotated[float | None, typer.Option(help="Likewise. [0.1]")] = None,
    shift_px: Annotated[
        float, typer.Option(min=0, max=1000, help="Standard deviation of x and y shifts, pixels.")
    ] = 2.0,
    views: Annotated[Views, typer.Option(help="Viewing directions: five random caps, or uniform.")] = Views.vmf,
    noise: Annotated[Noise, typer.Option(help="Spectrum of the noise.")] = Noise.white,
    box: Annotated[
        int | None, typer.Option(min=8, max=1024, help="Box in pixels; pads or cuts a map. [64, or the map's]")
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(min=0.01, max=1000, help="Å. [3, or the map header's]")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same data.")] = 1,
) -> None:
    """Simulate a particle stack: DIR/particles.star + .mrcs (blind), DIR/truth.star, DIR/truth.mrc.

    Example:  orbitrec simulate cryoem --map MAP.mrc -n 5000 --snr 0.1 --ctf CTF.star -o DIR
    """
    from dataclasses import replace

    import torch

    from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
    from orbitrec.io.runs import new_run
    from orbitrec.io.simulation import write_simulation
    from orbitrec.models.noise import NoiseSpectrum
    from orbitrec.models.simulate import ParticleSimulation, random_poses
    from orbitrec.volumes.voxel import VoxelVolume

    generator = torch.Generator().manual_seed(seed)
    grid, pixel_size_A = _density(map_file, phantom, box, pixel_size, generator)
    given = {"voltage_kV": voltage, "cs_mm": cs, "amplitude_contrast": amplitude_contrast}
    optics = {name: value for name, value in given.items() if value is not None}
    if no_ctf and optics:
        raise InputError("--voltage, --cs and --amplitude-contrast are of a CTF; leave them or --no-ctf out")
    parameters = _ctf(ctf_file, no_ctf, count, generator)
    if parameters is not None:
        parameters = replace(parameters, **{k: torch.full_like(parameters.cs_mm, v) for k, v in optics.items()})
    mixture = VonMisesFisherMixture.random(generator) if views is Views.vmf else None
    rotations, shifts_px = random_poses(count, generator, views=mixture, shift_px=shift_px)
    n = grid.shape[0]
    simulation = ParticleSimulation(VoxelVolume(grid), n, pixel_size_A, rotations, shifts_px, parameters)
    spectrum = NoiseSpectrum.coloured(n) if noise is Noise.coloured else None
    with new_run(output) as run, passing_bar() as bar:
        task = bar.add_task("simulating", total=count)
        write_simulation(
            run, simulation, snr, generator, noise=spectrum, progress=lambda images: bar.advance(task, images)
        )
    typer.echo(f"{count} particles of {n} px at {pixel_size_A:g} Å, SNR {snr:g}: {output / 'particles.star'}")


@app.command()
def mra(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of observations.")] = 1_000_000,
    length: Annotated[int, typer.Option(min=2, max=10_000, help="Samples of the signal.")] = 41,
    sigma: Annotated[
        float, typer.Option(min=0, max=1e6, help="Noise's standard deviation; the signal's mean square is 1.")
    ] = 1.0,
    window: Annotated[int | None, typer.Option(min=1, help="Show only so many samples. [all]")] = None,
    gaussians: Annotated[int, typer.Option(min=1, help="Gaussians in the signal and in the density of shifts.")] = 2,
    uniform: Annotated[bool, typer.Option("--uniform", help="Uniform shifts.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same data.")] = 1,
) -> None:
    """Simulate multireference alignment: DIR/observations.npy (float32, a row each), truth.npz and truth.json.

    Signal and density of shifts are random mixtures of Gaussians on the circle.

    Example:  orbitrec simulate mra -n 1000000 --length 41 --sigma 1.0 -o DIR
    """
    import torch

    from orbitrec.io.files import write_json
    from orbitrec.io.observations import write_observations, write_truth
    from orbitrec.io.runs import new_run
    from orbitrec.mra.families import default_law
    from orbitrec.mra.model import PeriodicMRA, WindowedMRA, draw_observations

    generator = torch.Generator().manual_seed(seed)
    model = PeriodicMRA(length) if window is None else WindowedMRA(length, window)
    signals, densities = default_law(gaussians).pairs(1, length, generator, torch.float32)
    signal, density = signals[0], torch.full((length,), 1 / length) if uniform else densities[0]
    with new_run(output) as run, passing_bar() as bar:
        batches = draw_observations(model, signal, density, sigma, count, generator)
        tracked = bar.track(batches, total=-(-count // 65536), description="simulating")
        write_observations(run.file("observations.npy"), tracked, count, model.length)
        write_truth(run.file("truth.npz"), signal, density)
        settings = {"count": count, "length": length, "sigma": sigma, "window": window, "gaussians": gaussians}
        write_json(run.file("truth.json"), {**settings, "uniform": uniform, "seed": seed})
    typer.echo(f"{count} observations of {model.length} samples, σ {sigma:g}: {output / 'observations.npy'}")


def _density(
    map_file: Path | None, phantom: int | None, box: int | None, pixel_size: float | None, generator: "torch.Generator"
) -> tuple["torch.Tensor", float]:
    """The density on the images' grid, and its pixel size in Å."""
    from orbitrec.io.mrc import read_map
    from orbitrec.volumes.phantoms import protein_phantom
    from orbitrec.volumes.voxel import VoxelVolume

    if (map_file is None) == (phantom is None):
        raise InputError("nothing to project, or two things; give either --map FILE or --phantom ATOMS")
    if map_file is not None:
        grid, pixel_size_A = read_map(map_file, pixel_size)
        return VoxelVolume(grid).to_grid(box or grid.shape[0]), pixel_size_A
    assert phantom is not None
    n = box or 64
    return protein_phantom(phantom, 0.3 * n, generator).to_grid(n).float(), pixel_size or 3.0


def _ctf(ctf_file: Path | None, no_ctf: bool, count: int, generator: "torch.Generator") -> "CTFParameters | None":
    from orbitrec.io.simulation import read_ctf_list
    from orbitrec.models.simulate import random_defocus

    if ctf_file is not None and no_ctf:
        raise InputError("--ctf and --no-ctf exclude each other; leave one out")
    if no_ctf:
        return None
    return random_defocus(count, generator) if ctf_file is None else read_ctf_list(ctf_file, count)
