"""Several volumes at one resolution: the unknowns of a mixture, and its likelihood.

K volumes seen from D directions are one object of K·D directions
(:class:`orbitrec.models.stacked.StackedProjector`), so E-step, M-step and solvers are those of the search for one map.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.cryoem.search.level import ResolutionLevel
from orbitrec.cryoem.search.likelihood import FEW_ITERATIONS
from orbitrec.inference.group_density import EstimatedClasses
from orbitrec.inference.likelihood import Observations
from orbitrec.inference.orbit_likelihood import GaussianPrior, ObservationSet, OrbitLikelihood, Recorder
from orbitrec.models.stacked import StackedProjector


@dataclass(frozen=True, eq=False)
class VolumesAndViews:
    """The unknowns of a mixture.

    Attributes:
        coefficients: (K p) of all volumes, one after the other.
        log_views: (K d) log probability of each volume and viewing direction; the probabilities sum to 1.
    """

    coefficients: Float[Tensor, "p"]
    log_views: Float[Tensor, "d"]

    def shares(self, classes: int) -> Float[Tensor, "c"]:
        """Share of the particles that each volume has."""
        return self.log_views.exp().reshape(classes, -1).sum(1)


@dataclass(frozen=True, eq=False)
class ShellPowerOfClasses:
    """The prior of every volume is that of a search for one: variances from its own shells' present power."""

    level: ResolutionLevel
    classes: int

    def precision(self, w: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        """One over :meth:`ResolutionLevel.prior_variance`, volume by volume."""
        return torch.cat([1 / self.level.prior_variance(each).double() for each in w.chunk(self.classes)])

    def energy(self, w: Float[Tensor, "p"]) -> float:
        """Zero: that of a volume with its own power is the same for all of them."""
        return 0.0

    def fixed(self, w: Float[Tensor, "p"]) -> GaussianPrior:
        """The prior with the variances that w gives, for an objective that must not change."""
        return GaussianPrior(self.precision(w))


@dataclass(frozen=True, eq=False)
class MixtureLevel:
    """A resolution, and how many volumes are compared there."""

    one: ResolutionLevel
    classes: int

    @property
    def projector(self) -> StackedProjector:
        """Of all volumes."""
        return StackedProjector(self.one.projector, self.classes)

    def random_model(self, generator: torch.Generator, ctf2_over_noise: Float[Tensor, "k"]) -> VolumesAndViews:
        """Random volumes of low energy, with uniform views and equal shares (:meth:`ResolutionLevel.random_model`).

        Args:
            generator: source of the random coefficients.
            ctf2_over_noise: (k,) mean h² of the particles.

        Returns:
            The model.
        """
        drawn = [self.one.random_model(generator, ctf2_over_noise) for _ in range(self.classes)]
        log_views = torch.cat([each.log_views for each in drawn]) - math.log(self.classes)
        return VolumesAndViews(torch.cat([each.coefficients for each in drawn]), log_views)

    def unknowns(self, model: VolumesAndViews) -> Float[Tensor, "p_plus_d"]:
        """The model as a solver's vector (float64)."""
        return torch.cat([model.coefficients, model.log_views]).double()

    def model(self, unknowns: Float[Tensor, "p_plus_d"]) -> VolumesAndViews:
        """The model of a solver's vector."""
        parts = unknowns.to(self.one.projector.dtype)
        coefficients, logits = parts.tensor_split([self.projector.dimension])
        return VolumesAndViews(coefficients, logits.log_softmax(0))

    def prolongated(self, model: VolumesAndViews, to: "MixtureLevel") -> VolumesAndViews:
        """The model on a finer level: the same volumes, their view densities interpolated."""
        coefficients = [self.one.basis.embed(each, to.one.basis) for each in model.coefficients.chunk(self.classes)]
        kernel = to.one.directional_kernel(self.one)
        views = torch.stack([kernel @ each.exp() for each in model.log_views.chunk(self.classes)])
        views = views.clamp(min=float(views.max()) * 1e-6)
        views = views / views.sum(1, keepdim=True) * model.shares(self.classes)[:, None]
        return VolumesAndViews(torch.cat(coefficients), views.flatten().log())

    def of_classes(self, pairs: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Posterior of each volume, given that an image is of one of them, from that of volumes and directions."""
        return pairs.unflatten(1, (self.classes, -1)).sum(2)

    def likelihood(
        self,
        data: ParticleModes,
        centres: Float[Tensor, "N 2"],
        rows: Int[Tensor, "n"],
        shifts: Float[Tensor, "s 2"],
        log_shift: Float[Tensor, "s"],
        *,
        equal: float,
        candidates: Int[Tensor, "n q"] | None = None,
        record: Recorder | None = None,
    ) -> OrbitLikelihood:
        """The likelihood of volumes, views and shares: marginal over volumes, directions, angles and displacements.

        Args:
            data: the particles.
            centres: (N, 2) displacement of each particle's content, in pixels.
            rows: (n,) indices of the particles that are used.
            shifts: (s, 2) further displacements.
            log_shift: (s,) their log probabilities.
            equal: weight of equal shares (:class:`EstimatedClasses`).
            candidates: (n, q) the pairs of volume and direction that each is compared with; None for all.
            record: called with places in ``rows`` and the posterior of the particles of every E-step.

        Returns:
            The likelihood, with the prior and the M-step of an ab initio search.
        """
        level = self.one

        def observe(index: Int[Tensor, "b"]) -> Observations:
            own = rows[index]
            return data.observations(own, level.grid, centres[own], shifts, log_shift)

        power = data.ctf2_over_noise(rows).mean(0)[: level.grid.node_count]
        bytes_each = 8 * len(shifts) * (level.grid.max_mode + 1) * level.grid.node_count
        observed = ObservationSet(observe, len(rows), power, max(1, (1 << 26) // bytes_each), candidates, record)
        density = EstimatedClasses(
            self.classes, len(level.directions), level.circle.angles, level.view_floor, equal, level.projector.dtype
        )
        prior = ShellPowerOfClasses(level, self.classes)
        return OrbitLikelihood(self.projector, level.circle, density, observed, prior, FEW_ITERATIONS)
