"""All particles compared with a finished map: how likely each is to be of it, and its pose there.

The map is that of a class, in its own ball. Poses are searched over all directions at a low bandwidth, and near their
posterior at a finer one. What is compared between classes is each image's likelihood over that of noise alone, which
needs neither the same ball nor the same bandwidth.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.config import AbInitioConfig
from orbitrec.cryoem.outliers import with_outliers
from orbitrec.cryoem.pose_refinement import Poses, refine_poses
from orbitrec.cryoem.preprocess import ParticleModes, preprocess
from orbitrec.cryoem.result import PosedMap
from orbitrec.cryoem.search.level import ResolutionLevel, VolumeAndViews
from orbitrec.cryoem.search.multiresolution import Search, SearchState, prolongated
from orbitrec.cryoem.search.pose_search import ParticleState, Posterior
from orbitrec.cryoem.search.starts import fitted_coefficients
from orbitrec.io.particles import ParticleStack
from orbitrec.runtime.progress import RunState, Stage
from orbitrec.volumes.voxel import VoxelVolume


@dataclass(frozen=True, eq=False)
class Compared:
    """What the comparison of all particles with one map finds.

    Attributes:
        rotations: (N, 3, 3) most probable rotation of each, as the search found it.
        shifts_px: (N, 2) displacement (x, y) of its content, in pixels.
        log_likelihood: (N,) of each image over that of noise alone, marginal over poses.
        inlier_probability: (N,) that it is a view of the map.
        max_probability: (N,) of the most probable pose.
        significant_samples: (N,) how many poses make up 99.9 % of the posterior.
    """

    rotations: Float[Tensor, "N 3 3"]
    shifts_px: Float[Tensor, "N 2"]
    log_likelihood: Float[Tensor, "N"]
    inlier_probability: Float[Tensor, "N"]
    max_probability: Float[Tensor, "N"]
    significant_samples: Int[Tensor, "N"]

    @property
    def posterior(self) -> Posterior:
        """Without the poses."""
        return Posterior(
            self.log_likelihood, self.inlier_probability, self.max_probability, self.significant_samples
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Comparison:
    """A finished map, and particles on the polar grid of its ball.

    Attributes:
        stack: the particles, as the map's own were read.
        data: the particles.
        coarse: the level at which all directions are compared.
        fine: the level at which the likelihood is taken.
        volume: the map, (z, y, x), in the contrast of the images.
    """

    stack: ParticleStack
    data: ParticleModes
    coarse: ResolutionLevel
    fine: ResolutionLevel
    volume: Float[Tensor, "n n n"]

    @classmethod
    def of(cls, stack: ParticleStack, found: PosedMap, config: AbInitioConfig) -> "Comparison":
        """Read particles as the map's own were read.

        Args:
            stack: the particles, as they are on disk.
            found: the map.
            config: of its run: the bandwidths are the second of its search and the last of frequency marching.

        Returns:
            The comparison, ready to be made.
        """
        read, radius, device = found.image_statistics, found.radius_px, config.device
        groups = int(stack.noise_groups().max()) + 1
        if len(read.scales) != groups:  # there are optics groups here or there alone
            read = replace(read, scales=torch.ones(groups))
        stack, schedule = read.applied(stack), config.with_diameter(read.diameter_A).schedule_for(stack)
        second, last = schedule.select_bandwidth, schedule.bandwidths[-1]
        data = with_outliers(preprocess(stack, last / radius, radius + 3, device=device), radius)
        coarse, fine = (ResolutionLevel.at(data.grid, radius, b, device=device) for b in (min(second, last), last))
        volume = found.combined.volume.double()
        return cls(stack, data, coarse, fine, -volume if found.inverted else volume)

    def model(self, level: ResolutionLevel) -> VolumeAndViews:
        """The map at a level, with uniform views: nothing is known of the views of other classes' particles."""
        return VolumeAndViews(fitted_coefficients(level, VoxelVolume(self.volume)), level.uniform_views())

    def made(self, particles: ParticleState, candidates: int, run: RunState) -> Compared:
        """Compare all particles with the map.

        Args:
            particles: where their contents are, by the runs of their present classes.
            candidates: directions that each is compared with at the finer level.
            run: keeps the record.

        Returns:
            Likelihoods and poses.
        """

        def compared() -> dict[str, object]:
            search = Search(self.data, candidates, run, Stage.POSE_SEARCH)
            begun = SearchState(self.model(self.coarse), particles.on_lattice(self.coarse))
            near = prolongated(self.coarse, self.fine, search.pose_search(self.coarse, begun))
            near = replace(near, model=self.model(self.fine))
            found = replace(search, counted=True).pose_search(self.fine, near)
            assert found.particles.posterior is not None
            return {"rotations": found.rotations, "shifts_px": found.shifts_px, **vars(found.particles.posterior)}

        return Compared(**run.step("comparison", compared))

    def refined(self, compared: Compared, rows: Int[Tensor, "n"], places: Int[Tensor, "n"]) -> Poses:
        """Poses of some particles, refined off the grid of the search.

        Args:
            compared: all particles.
            rows: (n,) which of them.
            places: (n,) where these are among the particles here.

        Returns:
            Their poses and statistics.
        """
        volume = self.fine.volume(self.model(self.fine))
        fitted = refine_poses(
            self.data.subset(places), self.fine.grid, volume, compared.rotations[rows], compared.shifts_px[rows]
        )
        return fitted.joined(compared.posterior.subset(rows))


def class_posterior(compared: list[Compared], shares: Float[Tensor, "c"]) -> Float[Tensor, "N c"]:
    """Probability of each class, given that an image is of one of them.

    Args:
        compared: all particles with every class's map.
        shares: of the classes, which are their prior probabilities.

    Returns:
        (N, c), of sum 1.
    """
    likelihood = torch.stack([each.log_likelihood.double() for each in compared], dim=1)
    return (likelihood + shares.double().clamp(min=math.exp(-30)).log()).softmax(1)
