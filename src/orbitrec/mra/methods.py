"""The ways to recover a signal from shifted noisy copies, and the function that runs one of them."""

from collections.abc import Callable
from enum import Enum, member

import torch

from orbitrec.mra.bispectrum import recover_bispectrum
from orbitrec.mra.em import recover_em
from orbitrec.mra.encoders import recover_encoder, recover_moments
from orbitrec.mra.least_squares import recover_least_squares
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.mra.spectral import recover_spectral

Recovery = Callable[[MRAProblem, torch.Generator], MRAEstimate]
"""A method: a function of the problem and of the source of its random starts."""


class Method(Enum):
    """The methods. Each is a :data:`Recovery`: ``Method.em(problem, generator)``.

    Attributes:
        moments: what pretrained encoders find from the moments; where the data refute it, moment matching from there.
        encoder: what pretrained encoders find, and no more.
        spectral: eigenvectors of the second moment, in closed form; for aperiodic shifts.
        least_squares: the match of signal and density to the first two moments from several starts.
        bispectrum: from shift-invariant averages, whatever the density of shifts.
        em: the maximum of the likelihood, by expectation maximisation.
    """

    moments = member(recover_moments)
    encoder = member(recover_encoder)
    spectral = member(lambda problem, generator: recover_spectral(problem))
    least_squares = member(recover_least_squares)
    bispectrum = member(recover_bispectrum)
    em = member(recover_em)

    def __call__(self, problem: MRAProblem, generator: torch.Generator) -> MRAEstimate:
        """The recovery of a problem by this method."""
        return self.value(problem, generator)

    @property
    def label(self) -> str:
        """The method's name with hyphens, as tables show it."""
        return self.name.replace("_", "-")


def recover_signal(problem: MRAProblem, method: Method, generator: torch.Generator) -> MRAEstimate:
    """A signal and the density of its shifts, from observations or from their moments alone.

    Both are determined up to one shift that moves the signal forth and the density back. Only ``bispectrum`` and ``em``
    can recover a signal whose shifts are uniform, and only ``least_squares`` and ``em`` one that is seen through a
    window.

    Args:
        problem: observations and moments; :meth:`orbitrec.mra.problem.MRAProblem.of` makes it.
        method: how to recover.
        generator: source of random starts. The same generator gives the same result.

    Returns:
        Signal and density, both of n samples, the cost, and warnings where the recovery is unreliable.

    Raises:
        InputError: if the method cannot use the problem: it needs observations and only moments are known, or whole
            periods and the observations are windows, or a positive noise level.
    """
    return method(problem, generator)
