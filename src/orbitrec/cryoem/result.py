"""How every run on particles ends: half-sets, poses off the grid, the map, and the result."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.checks import Evidence, doubts
from orbitrec.cryoem.config import FEWEST_PARTICLES, Options
from orbitrec.cryoem.image_statistics import ImageStatistics
from orbitrec.cryoem.multiresolution import PosedVolume, Selection
from orbitrec.cryoem.pose_refinement import Poses, refine_poses
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.reconstruct import Reconstruction, alternate_halves, combined, half_map
from orbitrec.cryoem.symmetry import SymmetryCheck
from orbitrec.errors import InputError
from orbitrec.geometry.rotations import mirrored_views
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import Noise
from orbitrec.runtime.progress import POSE, REBUILD, RunState, Stage


@dataclass(frozen=True)
class InitialModel:
    """The result of the main job.

    Attributes:
        reconstruction: map and half-maps in the sign of the particle (dense is positive).
        inverted: the images show dense as dark.
        rotations: RELION's rotation of every particle.
        shifts_px: displacement of its content.
        half_sets: 1 or 2.
        independent: the half-sets were refined apart, so that their correlation stands for the resolution.
        radius_px: of the particle's ball.
        search_resolution_A: finest resolution used to find poses.
        shift_spread_px: standard deviation of the shifts per axis.
        selected: the starts and what became of them.
        symmetry: the one that was applied and how well the map before showed it; None without.
        history: every step of the climb.
        seconds: of each stage.
        image_statistics: what the images looked like before.
        doubts: what may be wrong with the result, one sentence each.
    """

    reconstruction: Reconstruction
    inverted: bool
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    half_sets: Int[Tensor, "N"]
    independent: bool
    radius_px: float
    search_resolution_A: float
    shift_spread_px: float
    selected: Selection
    symmetry: SymmetryCheck | None
    history: list[Stage]
    seconds: dict[str, float]
    image_statistics: ImageStatistics
    doubts: list[str]


def half_sets(stack: ParticleStack) -> Int[Tensor, "N"]:
    """Half-set of every particle, 1 or 2: as the input has split them, by turns where it has not.

    Raises:
        InputError: if the input names other sets, or leaves too few particles to one of them.
    """
    given, path = stack.table.halves(), stack.table.path
    if given is None:
        return alternate_halves(len(stack))
    bad = ((given != 1) & (given != 2)).nonzero()[0]
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} is in half-set {given[bad[0]]:g}, neither 1 nor 2; correct it, or remove the "
            "column of half-sets to have the particles split anew"
        )
    for half in (1, 2):
        if int((given == half).sum()) < FEWEST_PARTICLES // 2:
            raise InputError(
                f"{path} leaves {int((given == half).sum())} of its {len(stack)} particles to half-set "
                f"{half}, too few for a map; remove the column of half-sets to have the particles split anew"
            )
    return torch.from_numpy(given).long()


def refined_poses(data: ParticleModes, found: PosedVolume, journal: RunState, name: str) -> Poses:
    """Poses climbed off the grid from those ``found``."""

    def refined() -> dict[str, object]:
        volume, progress = found.level.volume(found.model), journal.reader("refining poses", POSE)
        return vars(refine_poses(data, found.level.grid, volume, found.rotations, found.shifts_px, progress=progress))

    return Poses(**journal.step(name, refined))


def rebuilt_map(
    stack: ParticleStack, noise: Noise, poses: Poses, halves: Int[Tensor, "N"], options: Options, journal: RunState
) -> Reconstruction:
    """The map from all frequencies."""
    group = options.group.matrices() if options.group.order > 1 else None

    def rebuilt(half: int) -> dict[str, object]:
        rows, progress = (halves == half).nonzero().flatten(), journal.reader("reconstructing", REBUILD)
        found = half_map(
            stack, noise, rows, poses.rotations, poses.shifts_px, group=group, progress=progress, device=options.device
        )
        return {"map": found}

    first, second = (journal.step(f"half map {half}", lambda half=half: rebuilt(half))["map"] for half in (1, 2))
    found = combined((first, second), stack.n, options.radius_px(stack), journal.generator)
    journal.lap("map")
    return found


@dataclass(frozen=True)
class Ending:
    """What a result is made of besides what was found."""

    stack: ParticleStack
    data: ParticleModes
    image_statistics: ImageStatistics
    options: Options
    journal: RunState

    def result(
        self,
        poses: Poses,
        halves: Int[Tensor, "N"],
        rebuilt: Reconstruction,
        selected: Selection,
        symmetry: SymmetryCheck | None,
        *,
        independent: bool,
    ) -> InitialModel:
        """The result, in the sign of the particle and the hand asked for."""
        skewness = float((rebuilt.volume - rebuilt.volume.mean()).pow(3).mean())
        inverted = skewness < 0 if self.options.dense_is_dark is None else self.options.dense_is_dark
        rebuilt = rebuilt.negated() if inverted else rebuilt
        rotations, shifts_px = poses.rotations, poses.shifts_px
        if self.options.flip:
            rebuilt, rotations = rebuilt.mirrored(), mirrored_views(rotations)
        radius, pixel = self.options.radius_px(self.stack), self.stack.pixel_size_A
        evidence = Evidence(rebuilt, rotations, radius, pixel, self.data, selected, symmetry)
        return InitialModel(
            reconstruction=rebuilt,
            inverted=inverted,
            rotations=rotations,
            shifts_px=shifts_px,
            half_sets=halves,
            independent=independent,
            radius_px=radius,
            search_resolution_A=2 * math.pi * pixel / float(self.data.grid.k_max),
            shift_spread_px=float((shifts_px - shifts_px.mean(0)).square().mean().sqrt()),
            selected=selected,
            symmetry=symmetry,
            history=self.journal.history,
            seconds=self.journal.laps,
            image_statistics=self.image_statistics,
            doubts=doubts(evidence),
        )
