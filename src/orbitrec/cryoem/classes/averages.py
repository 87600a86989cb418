"""The averages at the end of a classification, and what is measured of each: size, resolution, signal, symmetry."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.cryoem.classes.level import ClassAverages, ClassLevel, ClassPowerPrior
from orbitrec.cryoem.classes.membership import (
    MembersFound,
    Membership,
    Posterior,
    candidate_classes,
    centroids,
    shift_lattice,
)
from orbitrec.cryoem.classes.search import class_likelihood
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.evaluation.fsc import FSC
from orbitrec.inference.likelihood import Statistics

FOLDS = range(2, 13)
SYMMETRIC = 0.8
"""Evidence from which on an average is called symmetric (:func:`rotational_symmetry`)."""
CLEAR, FEWEST_MODES = 5.0, 2
"""Standard errors above which a mode is clear of the noise, and the fewest such modes that tell a symmetry: what is
elongated has m = 2 before all else."""


@dataclass(frozen=True, eq=False)
class MeasuredClasses:
    """The averages, and what is measured of each of the d classes.

    Attributes:
        images: (d, n, n) averages (y, x), filtered by the prior that their own power makes, without CTF.
        found: of the particles.
        members: (d,) particles that probably hold what the class shows.
        frc: correlation of the averages of two halves of the particles, for each class. Both halves are aligned to one
            average, so that it is an upper bound.
        power: (d, k) signal in a particle of the class at each node, in units of the noise's variance: ``h²`` times the
            mean product of the halves' averages.
        nodes: (k,) the frequencies, in radians per pixel.
        likelihood: (d,) mean log-likelihood of a member, over that of an image of noise.
        offsets_px: (d,) distance of the centre of the average's density from the image's.
        fold: (d,) rotational symmetry, 1 where there is none.
        symmetry: (d,) its evidence, between 0 and 1 (:func:`rotational_symmetry`).
    """

    images: Float[Tensor, "d n n"]
    found: Posterior
    members: Int[Tensor, "d"]
    frc: tuple[FSC, ...]
    power: Float[Tensor, "d k"]
    nodes: Float[Tensor, "k"]
    likelihood: Float[Tensor, "d"]
    offsets_px: Float[Tensor, "d"]
    fold: Int[Tensor, "d"]
    symmetry: Float[Tensor, "d"]

    def resolutions_A(self, pixel_size_A: float) -> list[float]:
        """Where each class' correlation falls below 0.143, in Å; infinite where it never reaches it.

        It is no finer than the last node, since nothing is known beyond.
        """
        finest = 2 * math.pi * pixel_size_A / float(self.nodes[-1])
        return [max(curve.cutoff_A(0.143, pixel_size_A), finest) for curve in self.frc]

    def sorted(self) -> "MeasuredClasses":
        """The classes by falling number of members."""
        order = self.members.argsort(descending=True, stable=True)
        found = replace(self.found, classes=self.found.classes[:, order])
        own = (self.images, self.power, self.likelihood, self.offsets_px, self.fold, self.symmetry)
        images, power, likelihood, offsets, fold, symmetry = (each[order] for each in own)
        frc = tuple(self.frc[i] for i in order.tolist())
        return MeasuredClasses(
            images, found, self.members[order], frc, power, self.nodes, likelihood, offsets, fold, symmetry
        )


def measured_classes(
    data: ParticleModes,
    level: ClassLevel,
    averages: ClassAverages,
    known: Membership,
    halves: Int[Tensor, "N"],
    box: int,
) -> MeasuredClasses:
    """The last averages, from one E-step over all particles, and those of both halves of them.

    Args:
        data: the particles.
        level: the finest resolution.
        averages: of the search.
        known: of the particles.
        halves: (N,) 1 or 2.
        box: of the images, in pixels.

    Returns:
        Averages and measures, in the order of the search's classes.
    """
    candidates = candidate_classes(known)
    found = MembersFound(level, known, candidates, shift_lattice(level, known.residual_px)[0])
    problem = class_likelihood(data, level, known, candidates, found.record)
    bank = problem.bank(level.unknowns(averages))
    first, second = (problem.data.statistics((halves == half).nonzero().flatten(), bank) for half in (1, 2))
    both = first.merge(second)
    combined, *apart = (solved(level, averages, each) for each in (both, first, second))
    templates = [level.projector.templates(each.coefficients) for each in apart]
    cross, one, two = (
        (a * b.conj()).real.sum(1).double() for a, b in (templates, templates[:1] * 2, templates[1:] * 2)
    )
    correlation = cross / (one * two).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    after = found.posterior()
    likely, classes = after.likely, after.most_probable
    members = torch.bincount(classes[likely], minlength=level.projector.classes)
    total = torch.zeros(len(members)).index_add_(0, classes[likely], after.log_likelihood[likely])
    images = level.images(combined, box)
    fold, symmetry = rotational_symmetry(level, *(each.coefficients for each in apart))
    weight = both.occupancy.sum(1).double().clamp(min=1e-9)
    return MeasuredClasses(
        images, after, members, tuple(ring_correlation(level, row) for row in correlation),
        both.second.double() / weight[:, None] * cross, level.grid.nodes, total / members.clamp(min=1),
        centroids(images).norm(dim=1), fold, symmetry,
    )  # fmt: skip


def solved(level: ClassLevel, averages: ClassAverages, found: Statistics) -> ClassAverages:
    """The averages of the E-step's sums, with the prior of the averages that they were found with.

    Args:
        level: of the averages.
        averages: that the E-step was made with.
        found: its sums.

    Returns:
        The averages that an M-step makes of them; weights are kept.
    """
    projector = level.projector
    precision = ClassPowerPrior(level).precision(averages.coefficients)
    w = projector.solve(projector.adjoint(found.first), found.second, precision)
    return ClassAverages(w.to(projector.dtype), averages.log_weights)


def ring_correlation(level: ClassLevel, correlation: Float[Tensor, "k"]) -> FSC:
    """A correlation at the grid's nodes as a curve from the origin on, which does not count."""
    nodes = torch.cat([torch.zeros(1, dtype=torch.float64), level.grid.nodes])
    return FSC(nodes, torch.cat([torch.ones(1, dtype=torch.float64), correlation]))


def rotational_symmetry(
    level: ClassLevel, first: Float[Tensor, "p"], second: Float[Tensor, "p"]
) -> tuple[Int[Tensor, "d"], Float[Tensor, "d"]]:
    """The rotational symmetry of each average about its origin, C2 … C12, and its evidence.

    An n-fold average has no power in modes that are no multiple of n. Power alone does not tell: that of anything
    elongated is in even modes, above all in m = 2, whether or not what it consists of is symmetric. What tells is how
    much is known of each mode that is clear of the noise, ``log(1 + signal/noise)`` times its number of functions: a
    mode that is large counts little more than a small one. With the share s of that in multiples of n, the evidence is
    ``(s − 1/n) / (1 − 1/n)``: 0 where all modes are known alike, 1 for perfect symmetry. The signal is the product of
    the halves' averages, in which noise has no part; the noise is that of their mean.

    Args:
        level: the resolution.
        first: (p,) coefficients of the averages of one half.
        second: (p,) of the other.

    Returns:
        The highest fold with an evidence of :data:`SYMMETRIC` in :data:`FEWEST_MODES` modes, 1 where there is none, and
        the evidence of that fold, or else the largest of any.
    """
    a, b = (level.projector.complex(each.double()) for each in (first, second))
    modes = level.basis.max_mode + 1
    noise = level.shell_mean((a - b).abs().square() / 4)
    ratio = torch.zeros(len(a), modes, dtype=torch.float64)
    ratio.index_add_(1, level.basis.mode, (a * b.conj()).real / noise.clamp(min=torch.finfo(noise.dtype).tiny))
    number = torch.tensor(level.basis.counts, dtype=torch.float64)
    # Of averages of noise it has mean zero and variance 2 for each function, with the tail of an exponential.
    clear = ratio > CLEAR * (1 + (2 * number).sqrt())
    known = torch.where(clear, number * (1 + ratio / number).clamp(min=1).log(), 0.0)[:, 1:]
    orders = torch.arange(1, modes)
    multiples = torch.stack([orders % n == 0 for n in FOLDS]).double()
    chance = 1 / torch.tensor([*FOLDS], dtype=torch.float64)
    share = known @ multiples.mT / known.sum(1, keepdim=True).clamp(min=1e-9)
    evidence = ((share - chance) / (1 - chance)).clamp(min=0)
    several = (known > 0).double() @ multiples.mT >= FEWEST_MODES
    symmetric = (evidence >= SYMMETRIC) & several
    highest = len(FOLDS) - 1 - symmetric.flip(1).int().argmax(1)
    best = torch.where(symmetric.any(1), highest, evidence.argmax(1))
    fold = torch.where(symmetric.any(1), best + FOLDS.start, 1)
    return fold, evidence.gather(1, best[:, None]).squeeze(1)
