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
    """The methods. Each is a :data:`Recovery`: ``Method.EM(problem, generator)``.

    Attributes:
        MOMENTS: what pretrained encoders find from the moments; where the data refute it, moment matching from there.
        ENCODER: what pretrained encoders find, and no more.
        SPECTRAL: eigenvectors of the second moment, in closed form; for aperiodic shifts.
        LEAST_SQUARES: the match of signal and density to the first two moments from several starts.
        BISPECTRUM: from shift-invariant averages, whatever the density of shifts.
        EM: the maximum of the likelihood, by expectation maximisation.
    """

    MOMENTS = member(recover_moments)
    ENCODER = member(recover_encoder)
    SPECTRAL = member(lambda problem, generator: recover_spectral(problem))
    LEAST_SQUARES = member(recover_least_squares)
    BISPECTRUM = member(recover_bispectrum)
    EM = member(recover_em)

    def __call__(self, problem: MRAProblem, generator: torch.Generator) -> MRAEstimate:
        """The recovery of a problem by this method."""
        return self.value(problem, generator)

    @property
    def label(self) -> str:
        """The name in lower case with hyphens, as tables show it."""
        return self.name.lower().replace("_", "-")


def recover_signal(problem: MRAProblem, method: Method, generator: torch.Generator) -> MRAEstimate:
    """A signal and the density of its shifts, from observations or from their moments alone.

    Both are determined up to one shift that moves the signal forth and the density back. Only ``BISPECTRUM`` and ``EM``
    can recover a signal whose shifts are uniform, and only ``LEAST_SQUARES`` and ``EM`` one that is seen through a
    window.

    Args:
        problem: observations and moments; :meth:`orbitrec.mra.problem.MRAProblem.of` makes it.
        method: how to recover.
        generator: source of random starts. The same generator gives the same result.

    Returns:
        Signal and density, both of n samples, the cost, and quality checks where the recovery is unreliable.

    Raises:
        InputError: if the method cannot use the problem: it needs observations and only moments are known, or whole
            periods and the observations are windows, or a positive noise level.
    """
    return method(problem, generator)
