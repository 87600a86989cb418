"""Simulated particle stacks on disk, and CTF parameters from a STAR file that need not list images."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from orbitrec.errors import InputError
from orbitrec.io.mrc import StackWriter, write_map
from orbitrec.io.relion import RelionTable
from orbitrec.io.relion_tables import CTF_COLUMNS, particle_tables
from orbitrec.io.runs import RunFolder
from orbitrec.io.star import write_star
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.simulate import ParticleSimulation
from orbitrec.volumes.voxel import VoxelVolume

_USUAL_OPTICS = {"voltage_kV": 300.0, "cs_mm": 2.0, "amplitude_contrast": 0.1}


def read_ctf_list(path: Path | str, count: int) -> CTFParameters:
    """Read CTF parameters from the first ``count`` rows of a STAR file, which is begun again where it has fewer.

    Defocus columns are needed; voltage, Cs and amplitude contrast are 300 kV, 2.0 mm and 0.1 where the file, its
    optics table included, gives none, and the phase shift is 0.

    Raises:
        InputError: if there is no such file, it is malformed, or it has no defocus columns or no rows.
    """
    table = RelionTable.with_column("rlnDefocusU", path)
    if table is None:
        raise InputError(f"{path} has no rlnDefocusU column; give a STAR file with defocus columns, or `ctf=False`")
    if len(table) == 0:
        raise InputError(f"{path} lists no defocus: its table is empty")
    columns = {}
    for name, column in {**CTF_COLUMNS, "phase_shift_deg": "rlnPhaseShift"}.items():
        values = table.numbers(column)
        if values is None and name.startswith("defocus"):
            raise InputError(f"{path} has no {column} column; add it, or use `ctf=False`")
        columns[name] = np.full(len(table), _USUAL_OPTICS.get(name, 0.0)) if values is None else values
    parameters = CTFParameters(**{name: torch.from_numpy(values) for name, values in columns.items()})
    return parameters.select(torch.arange(count) % len(table))


def write_simulation(
    run: RunFolder,
    simulation: ParticleSimulation,
    snr: float,
    generator: torch.Generator,
    *,
    noise: NoiseSpectrum | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> None:
    """Write ``particles.star`` and ``particles.mrcs`` (blind), ``truth.star`` and ``truth.mrc`` into ``run``.

    Images and map are scaled so that the noise has variance 1 per pixel, as RELION normalises its particles; without
    noise they keep the map's scale. Protein is white wherever the map is positive.

    Args:
        run: the output folder.
        simulation: what to write.
        snr: signal-to-noise ratio as :mod:`orbitrec.models.simulate` defines it; infinite for no noise.
        generator: draws the noise.
        noise: shape of the noise's spectrum, white where None.
        progress: called with the number of images just written.

    Raises:
        InputError: if ``snr`` is not positive or the map projects to nothing.
    """
    if not snr > 0:
        raise InputError(f"the signal-to-noise ratio must be positive, not {snr:g}; give a number such as 0.1, or inf")
    grid = simulation.volume.to_grid(simulation.n)
    spectrum = None
    if math.isfinite(snr):
        signal = simulation.signal_variance()
        if not signal > 0:
            raise InputError("the map has no density to project; choose another map")
        grid = grid / math.sqrt(signal / snr)
        spectrum = (noise or NoiseSpectrum.white(simulation.n, 1.0)).scaled(1.0)
    simulation = replace(simulation, volume=VoxelVolume(grid))
    count, n, pixel_size_A = len(simulation), simulation.n, simulation.pixel_size_A
    with StackWriter(run.file("particles.mrcs"), count, n, pixel_size_A) as stack:
        for images in simulation.images(spectrum, generator):
            stack.write(images)
            progress(len(images))
    write_map(run.file("truth.mrc"), grid, pixel_size_A)
    layout = ("particles.mrcs", count, n, pixel_size_A)
    blind = particle_tables(*layout, ctf=simulation.ctf)
    posed = particle_tables(*layout, ctf=simulation.ctf, rotations=simulation.rotations, shifts_px=simulation.shifts_px)
    write_star(run.file("truth.star"), posed)
    write_star(run.file("particles.star"), blind)
