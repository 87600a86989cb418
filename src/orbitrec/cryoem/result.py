"""The last steps of every run on particles: half-sets, refined poses, the map, and the result."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.checks import Evidence, quality_checks
from orbitrec.cryoem.confidence import Witnesses, correlation_beyond
from orbitrec.cryoem.config import SearchConfig, fewest_images
from orbitrec.cryoem.image_statistics import ImageStatistics
from orbitrec.cryoem.pose_refinement import FittedPoses, Poses, refine_poses
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.reconstruct import CombinedMap, alternate_halves, combined, half_map
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.cryoem.search.multi_start import Selection
from orbitrec.cryoem.search.multiresolution import PosedVolume
from orbitrec.cryoem.symmetry import SymmetryCheck
from orbitrec.errors import InputError
from orbitrec.evaluation.orientation import ConicalFSC, FourierSampling, conical_fsc, fourier_sampling
from orbitrec.geometry.asymmetric_unit import in_asymmetric_unit
from orbitrec.geometry.rotations import mirrored_views
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.progress import HistoryRow, RunState, Stage

LIKELY = 0.5
"""Probability of being a view of the particle above which an image has a part in the map."""


@dataclass(frozen=True)
class PosedMap:
    """A map, the pose of every particle, and how they were found.

    Attributes:
        combined: map and half-maps, dense positive.
        inverted: whether dense parts of the particle are dark in the images.
        rotations: (N, 3, 3) RELION's rotation of every particle, its direction in the group's asymmetric unit.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
        half_sets: (N,) 1 or 2.
        agreement: correlation of the maps of half-sets that were worked on apart, so that their FSC measures the
            resolution; None if one model posed both.
        statistics: what else is known of every particle; those that are a view of the map with a probability below one
            half have no part in it.
        radius_px: of the particle's ball, in pixels.
        search_resolution_A: finest resolution used to find poses, in Å.
        shift_spread_px: standard deviation of the shifts per axis, in pixels.
        selection: the starts, their likelihoods, and which one was chosen.
        symmetry: the group that was imposed, and how symmetric the map was before; None without a symmetry.
        sampling: how evenly the slices of the views sample Fourier space.
        conical_fsc: the half-maps' correlation in each direction, within the mask.
        witnesses: what speaks for the map or against it; None where there was but one start, as in a refinement, or a
            symmetry under which all starts are alike.
        history: every step of the search.
        seconds: of each part of the run.
        image_statistics: of the images, before the run.
        checks: what may be wrong with the result, one sentence each.
        told: those of the checks that are about the search before the map, which hold for any map of its poses.
    """

    combined: CombinedMap
    inverted: bool
    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    half_sets: Int[Tensor, "N"]
    agreement: float | None
    statistics: ParticleStatistics
    radius_px: float
    search_resolution_A: float
    shift_spread_px: float
    selection: Selection
    symmetry: SymmetryCheck | None
    sampling: FourierSampling
    conical_fsc: ConicalFSC
    witnesses: Witnesses | None
    history: list[HistoryRow]
    seconds: dict[str, float]
    image_statistics: ImageStatistics
    checks: list[str]
    told: list[str] = field(default_factory=list)

    @property
    def independent(self) -> bool:
        """Whether the half-sets were worked on apart."""
        return self.agreement is not None

    def noted(self, *sentences: str) -> "PosedMap":
        """The same, with sentences about the search among its checks."""
        return replace(self, checks=[*self.checks, *sentences], told=[*self.told, *sentences])


def half_sets(stack: ParticleStack) -> Int[Tensor, "N"]:
    """Half-set of every particle, 1 or 2: the input's own, or alternately where it has none.

    Rows of one image share its noise and would correlate the half-maps up to the last frequency, so they all go to the
    half-set of the first of them.

    Raises:
        InputError: if the input names other sets, or leaves too few particles to one of them.
    """
    given, path, image = stack.table.halves(), stack.table.path, stack.image_numbers()
    different, fewest = int(image.max()) + 1, fewest_images(stack)
    if different < fewest:
        raise InputError(
            f"{path} lists {len(stack)} particles but only {different} different images, too few for a map; "
            f"give at least {fewest}"
        )
    if given is None:
        return alternate_halves(different)[image]
    bad = ((given != 1) & (given != 2)).nonzero()[0]
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} is in half-set {given[bad[0]]:g}, neither 1 nor 2; correct it, or remove the "
            "column of half-sets to have the particles split anew"
        )
    first_row = np.unique(image.numpy(), return_index=True)[1]
    halves = torch.from_numpy(given[first_row]).long()[image]
    for half in (1, 2):
        own = len(image[halves == half].unique())
        if own < fewest // 2:
            raise InputError(
                f"{path} leaves {own} of its {different} different images to half-set "
                f"{half}, too few for a map; remove the column of half-sets to have the particles split anew"
            )
    return halves


def told_copies(stack: ParticleStack, halves: Int[Tensor, "N"]) -> list[str]:
    """A sentence on rows that are copies of others, and on what their half-set was; none where there are none."""
    copies, given = len(stack) - int(stack.image_numbers().max()) - 1, stack.table.halves()
    if copies == 0:
        return []
    moved = 0 if given is None else int((torch.from_numpy(given) != halves).sum())
    return [
        f"{copies} of {len(stack)} rows repeat the image of another row; rows of one image are in one half-set"
        + (f", and {moved} of them had to change theirs." if moved else ".")
    ]


@dataclass(frozen=True)
class Session:
    """What a run on particles works with, from its beginning to its end.

    Attributes:
        stack: the particles, normalised and scaled as their image statistics demand.
        data: the same in filtered circular modes.
        image_statistics: of the images.
        config: of the run.
        run: its state.
    """

    stack: ParticleStack
    data: ParticleModes
    image_statistics: ImageStatistics
    config: SearchConfig
    run: RunState

    def refined_poses(self, found: PosedVolume, name: str, data: ParticleModes | None = None) -> Poses:
        """Refine the poses that a search found between the points of its grids (:func:`refine_poses`).

        Args:
            found: volume and poses of the search.
            name: of the record in the run's checkpoints.
            data: the particles that ``found`` has poses of; all of the session's if None.

        Returns:
            The refined poses.
        """
        own = self.data if data is None else data

        def refined() -> dict[str, object]:
            volume, progress = found.level.volume(found.model), self.run.counter(Stage.POSE_REFINEMENT)
            return vars(
                refine_poses(own, found.level.grid, volume, found.rotations, found.shifts_px, progress=progress)
            )

        assert found.particles.posterior is not None
        return FittedPoses(**self.run.step(name, refined)).joined(found.particles.posterior)

    def rebuilt_map(self, poses: Poses, halves: Int[Tensor, "N"]) -> CombinedMap:
        """The map of posed particles that are probably views of it, from all frequencies of the images.

        Args:
            poses: of all particles.
            halves: (N,) their half-sets, 1 or 2.

        Returns:
            Map and half-maps, in the contrast of the images.
        """
        config, stack, used = self.config, self.stack, poses.statistics.inlier_probability > LIKELY

        def rebuilt(half: int) -> dict[str, object]:
            rows, progress = ((halves == half) & used).nonzero().flatten(), self.run.counter(Stage.RECONSTRUCTION)
            found = half_map(
                stack, self.data.noise, rows, poses.rotations, poses.shifts_px,
                group=config.group, progress=progress, device=config.device,
            )  # fmt: skip
            return {"map": found}

        first, second = (self.run.step(f"half map {half}", lambda half=half: rebuilt(half))["map"] for half in (1, 2))
        found = combined((first, second), stack.n, config.radius_px(stack), self.run.generator)
        self.run.timer("map")
        return found

    def result(
        self,
        poses: Poses,
        level: ResolutionLevel,
        halves: Int[Tensor, "N"],
        selection: Selection,
        symmetry: SymmetryCheck | None,
        *,
        agreement: float | None = None,
    ) -> PosedMap:
        """Compute the map and put the result together, dense positive and in the handedness of the configuration.

        Args:
            poses: of all particles.
            level: the finest at which they were searched for.
            halves: (N,) their half-sets, 1 or 2.
            selection: the starts that the run had.
            symmetry: what the model before said of the symmetry that was imposed; None without.
            agreement: correlation of the maps of half-sets that were searched or refined apart; None if one model
                posed both.

        Returns:
            Map, poses, and how they were found.
        """
        found = self.rebuilt_map(poses, halves)
        skewness = float((found.volume - found.volume.mean()).pow(3).mean())
        inverted = skewness < 0 if self.config.dense_is_dark is None else self.config.dense_is_dark
        found = found.negated() if inverted else found
        rotations, shifts_px = poses.rotations, poses.shifts_px
        if self.config.flip:
            found, rotations = found.mirrored(), mirrored_views(rotations)
        rotations = in_asymmetric_unit(rotations, self.config.group)
        radius, pixel = self.config.radius_px(self.stack), self.stack.pixel_size_A
        sampling = fourier_sampling(rotations, self.config.group.matrices())
        first, second = found.half_maps
        conical = conical_fsc(first * found.mask, second * found.mask)
        evidence = Evidence(
            found,
            rotations,
            self.config.group,
            radius,
            pixel,
            self.data,
            selection,
            symmetry,
            sampling,
            conical,
            poses.statistics.inlier_probability,
            agreement,
        )
        return PosedMap(
            combined=found,
            inverted=inverted,
            rotations=rotations,
            shifts_px=shifts_px,
            half_sets=halves,
            agreement=agreement,
            statistics=poses.statistics,
            radius_px=radius,
            search_resolution_A=self.data.resolution_A(level.bandwidth / radius),
            shift_spread_px=float((shifts_px - shifts_px.mean(0)).square().mean().sqrt()),
            selection=selection,
            symmetry=symmetry,
            sampling=sampling,
            conical_fsc=conical,
            witnesses=_witnesses(evidence, poses.statistics, level.bandwidth / radius),
            history=self.run.history,
            seconds=self.run.timers,
            image_statistics=self.image_statistics,
            checks=[*told_copies(self.stack, halves), *quality_checks(evidence)],
        )


def _witnesses(evidence: Evidence, statistics: ParticleStatistics, k_max: float) -> Witnesses | None:
    """What a search to the frequency ``k_max`` knows of its map (:attr:`PosedMap.witnesses`)."""
    others = [each for each in evidence.selection.candidates if each.start != evidence.selection.chosen]
    if not others or evidence.selection.level.basis.group.polyhedral:
        return None
    curve, views = evidence.combined.masked.corrected, statistics.inlier_probability > LIKELY
    search_A = 2 * math.pi * evidence.pixel_size_A / k_max
    return Witnesses(
        log_likelihood=float(statistics.log_likelihood[views].double().mean()) if bool(views.any()) else 0.0,
        beyond=correlation_beyond(curve, k_max),
        resolved=math.log(search_A / min(curve.cutoff_A(0.143, evidence.pixel_size_A), 1e9)),
        starts=max(each.agreement for each in others),
        scf_star=evidence.sampling.scf_star,
    )
