"""The recoveries of MRA by name, each as a function of the problem and a generator for its random starts."""

from collections.abc import Callable, Mapping

import torch

from orbitrec.recovery.mra.bispectrum import recover_bispectrum
from orbitrec.recovery.mra.em import recover_em
from orbitrec.recovery.mra.encoded import recover_encoder, recover_moments
from orbitrec.recovery.mra.least_squares import recover_least_squares
from orbitrec.recovery.mra.problem import MRAEstimate, MRAProblem
from orbitrec.recovery.mra.spectral import recover_spectral

Recovery = Callable[[MRAProblem, torch.Generator], MRAEstimate]

METHODS: Mapping[str, Recovery] = {
    "moments": recover_moments,
    "encoder": recover_encoder,
    "spectral": lambda problem, generator: recover_spectral(problem),
    "least-squares": recover_least_squares,
    "bispectrum": recover_bispectrum,
    "em": recover_em,
}
