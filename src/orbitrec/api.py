"""The tasks of the command line as function calls: what ``import orbitrec`` offers for particles.

Every task takes a configuration record, the same that the command line fills, and returns a record that can be
inspected, drawn in a notebook, and saved as the command would save it.
"""

from pathlib import Path
from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.cryoem.config import (
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SIZE,
    AbInitioConfig,
    RefineConfig,
    instance,
)
from orbitrec.cryoem.pipeline import initial_model
from orbitrec.cryoem.refine import refined_map
from orbitrec.cryoem.species.pipeline import separated
from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.errors import InputError
from orbitrec.evaluation.alignment import Alignment, align, resampled
from orbitrec.evaluation.fsc import FSC, fourier_shell_correlation
from orbitrec.evaluation.masks import soft_sphere
from orbitrec.io.particles import ParticleStack
from orbitrec.io.runs import new_run
from orbitrec.io.simulation import write_simulation
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.reconstruction import MapLike, Reconstruction, known_map, noted
from orbitrec.report.classes import particles_of
from orbitrec.report.summary import RunKind
from orbitrec.runtime.checkpoints import Checkpoints
from orbitrec.runtime.progress import Callback, ignore
from orbitrec.separation import Structures
from orbitrec.volumes.voxel import VoxelVolume


def open_particles(
    path: Path | str,
    *,
    ctf: bool | None = True,
    pixel_size_A: float | None = None,
    datadir: Path | str | None = None,
    passthrough: Path | str | None = None,
) -> ParticleStack:
    """The particle images that a table lists; they stay on disk until they are used.

    Args:
        path: a RELION STAR file (3.0 to 5), a cryoSPARC table, or an MRC stack without a table; or the folder of a run
            of :func:`orbitrec.classify2d`, for the particles that it keeps.
        ctf: whether to read the CTF; None reads it where the table has one.
        pixel_size_A: pixel size of all images in Å, instead of what the file says.
        datadir: another folder that holds the stacks.
        passthrough: the passthrough file of a cryoSPARC job, where it is not beside the table.

    Returns:
        The particles.

    Raises:
        InputError: see :meth:`orbitrec.io.particles.ParticleStack.open`.
    """
    return ParticleStack.open(
        particles_of(Path(path)),
        datadir=None if datadir is None else Path(datadir),
        pixel_size_A=pixel_size_A,
        passthrough=None if passthrough is None else Path(passthrough),
        ctf=ctf,
    )


@overload
def abinitio(
    particles: ParticleStack | Path | str,
    config: AbInitioConfig | None = None,
    *,
    classes: Literal[1] = 1,
    truth: MapLike | None = None,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Reconstruction: ...


@overload
def abinitio(
    particles: ParticleStack | Path | str,
    config: AbInitioConfig | None = None,
    *,
    classes: int,
    truth: MapLike | None = None,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Reconstruction | Structures: ...


def abinitio(
    particles: ParticleStack | Path | str,
    config: AbInitioConfig | None = None,
    *,
    classes: int = 1,
    truth: MapLike | None = None,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Reconstruction | Structures:
    """A 3-D initial model and the pose of every particle, from a particle stack alone; or several.

    Args:
        particles: a stack, or the table that lists it with its CTF.
        config: of the search; every field has a default.
        classes: how many structures the stack holds: different particles, or junk. Conformations of one are not told
            apart.
        truth: a true map to compare the result with, where there is one class.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        The map, the poses and how far to believe them; of each structure if there are several. The handedness cannot be
        found from projections.

    Raises:
        InputError: for too few particles, bad images, or a configuration that does not fit the stack.
    """
    SIZE.check("classes", classes)
    stack, config = _opened(particles), AbInitioConfig() if config is None else config
    instance(AbInitioConfig, "an AbInitioConfig").check("config", config)
    if classes > 1:
        if truth is not None:
            raise InputError(
                "`truth` is one map, which several classes cannot be compared with; compare them afterwards"
            )
        return Structures(stack, config, classes, separated(stack, config, classes, callback, checkpoints))
    known = None if truth is None else known_map(truth, stack)
    found = initial_model(stack, config, callback, checkpoints)
    return Reconstruction(stack, config, noted(found, known), RunKind.INITIAL_MODEL, known)


def refine(
    particles: ParticleStack | Path | str,
    initial: MapLike,
    config: RefineConfig | None = None,
    *,
    truth: MapLike | None = None,
    callback: Callback = ignore,
    checkpoints: Checkpoints | None = None,
) -> Reconstruction:
    """A map refined by likelihood on two independent half-sets of a stack.

    Args:
        particles: a stack, or the table that lists it. Where the table has origins, particles are taken to be centred
            there.
        initial: the map to refine. Its scale and sign are found; only what it shows at the first resolution is
            believed.
        config: of the refinement; every field has a default.
        truth: a true map to compare the result with.
        callback: called with the status of the run whenever work has been done.
        checkpoints: records of finished steps, to go on from where there are some: the result is the same.

    Returns:
        The map, the poses and how far to believe them.

    Raises:
        InputError: for too few particles, bad images, a map that does not resemble them at any scale, or a
            configuration that does not fit the stack.
    """
    stack, config = _opened(particles), RefineConfig() if config is None else config
    instance(RefineConfig, "a RefineConfig").check("config", config)
    start = known_map(initial, stack)
    known = None if truth is None else known_map(truth, stack)
    found = refined_map(stack, start.grid, config, callback, checkpoints)
    return Reconstruction(stack, config, noted(found, start, known), RunKind.REFINED, known)


class Comparison(NamedTuple):
    """How far a map agrees with a reference.

    Attributes:
        alignment: the rotation, shift and handedness that bring the map onto the reference.
        aligned: the map there.
        fsc: its correlation with the reference, shell by shell.
        voxel_size_A: edge of a voxel of both.
    """

    alignment: Alignment
    aligned: Float[Tensor, "n n n"]
    fsc: FSC
    voxel_size_A: float

    @property
    def fsc05_A(self) -> float:
        """Resolution in Å at which the correlation falls below 0.5; infinite if it is below at all frequencies."""
        return self.fsc.cutoff_A(0.5, self.voxel_size_A)

    @property
    def fsc0143_A(self) -> float:
        """Resolution in Å at which the correlation falls below 0.143."""
        return self.fsc.cutoff_A(0.143, self.voxel_size_A)

    @property
    def correlation(self) -> float:
        """Pearson correlation of the aligned map with the reference, over the voxels of the whole box."""
        return self.alignment.correlation


def evaluate(
    moving: Float[Tensor, "m m m"],
    reference: Float[Tensor, "n n n"],
    voxel_size_A: float,
    *,
    moving_voxel_size_A: float | None = None,
    handedness: bool = True,
    mask_radius_A: float | None = None,
) -> Comparison:
    """Align a map to a reference over rotation, shift and handedness, then compare them shell by shell.

    Args:
        moving: the map to judge, (z, y, x).
        reference: the map it should be.
        voxel_size_A: edge of a voxel of the reference.
        moving_voxel_size_A: that of the map, where it differs; the map is brought to the reference's grid.
        handedness: whether the mirrored map is tried as well.
        mask_radius_A: compare within a soft sphere of this radius; None compares the whole boxes, which is harsher.

    Returns:
        The alignment, the aligned map, and the correlation of every shell (Harauz and van Heel 1986).

    Raises:
        InputError: if one of the maps is constant or not a cube, if the reference has fewer than 8 voxels along an
            edge, or if a length is not positive.
    """
    for name, grid in (("moving", moving), ("reference", reference)):
        if grid.ndim != 3 or len(set(grid.shape)) != 1:
            raise InputError(f"`{name}` must be a cube, not of {' × '.join(map(str, grid.shape))} voxels")
    POSITIVE.check("voxel_size_A", voxel_size_A)
    POSITIVE.or_none().check("moving_voxel_size_A", moving_voxel_size_A)
    POSITIVE.or_none().check("mask_radius_A", mask_radius_A)
    n, own = len(reference), voxel_size_A if moving_voxel_size_A is None else moving_voxel_size_A
    if (len(moving), own) != (n, voxel_size_A):
        moving = resampled(moving, own, n, voxel_size_A)
    alignment = align(moving, reference, handedness=handedness)
    aligned = alignment.apply(moving)
    mask = 1.0 if mask_radius_A is None else soft_sphere(n, mask_radius_A / voxel_size_A)
    return Comparison(alignment, aligned, fourier_shell_correlation(aligned * mask, reference * mask), voxel_size_A)


def simulate_particles(
    folder: Path | str,
    density: Float[Tensor, "n n n"],
    pixel_size_A: float,
    count: int,
    *,
    snr: float = 0.1,
    shift_px: float = 2.0,
    views: VonMisesFisherMixture | None = None,
    ctf: CTFParameters | None = None,
    seed: int = 1,
) -> ParticleStack:
    """A blind particle stack of a known density in a new folder, with its truth beside it.

    Args:
        folder: gets ``particles.star``, ``particles.mrcs``, ``truth.star`` and ``truth.mrc``.
        density: what is projected, (z, y, x) in the images' box.
        pixel_size_A: edge of a pixel.
        count: particles.
        snr: signal-to-noise ratio as :mod:`orbitrec.models.simulate` defines it; infinite for no noise.
        shift_px: standard deviation of the shifts per axis.
        views: density of viewing directions; uniform if None.
        ctf: one row for each particle; no CTF if None.
        seed: of poses and noise.

    Returns:
        The particles, without their poses.

    Raises:
        InputError: if the folder holds something already, the density is empty or a number is out of range.
    """
    for name, value, constraint in (
        ("pixel_size_A", pixel_size_A, POSITIVE), ("count", count, SIZE), ("shift_px", shift_px, NOT_NEGATIVE),
        ("seed", seed, SEED),
    ):  # fmt: skip
        constraint.check(name, value)
    generator = torch.Generator().manual_seed(seed)
    poses = random_poses(count, generator, views=views, shift_px=shift_px)
    simulation = ParticleSimulation(VoxelVolume(density.float()), len(density), pixel_size_A, *poses, ctf)
    with new_run(folder) as run:
        write_simulation(run, simulation, snr, generator)
    return open_particles(Path(folder) / "particles.star", ctf=ctf is not None)


def _opened(particles: ParticleStack | Path | str) -> ParticleStack:
    return particles if isinstance(particles, ParticleStack) else open_particles(particles)
