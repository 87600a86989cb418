"""The recoveries of MRA by name, each as a function of the problem and a generator for its random starts."""

from collections.abc import Callable, Mapping

import torch

from orbitrec.mra.bispectrum import recover_bispectrum
from orbitrec.mra.em import recover_em
from orbitrec.mra.encoders import recover_encoder, recover_moments
from orbitrec.mra.least_squares import recover_least_squares
from orbitrec.mra.problem import MRAEstimate, MRAProblem
from orbitrec.mra.spectral import recover_spectral

Recovery = Callable[[MRAProblem, torch.Generator], MRAEstimate]

METHODS: Mapping[str, Recovery] = {
    "moments": recover_moments,
    "encoder": recover_encoder,
    "spectral": lambda problem, generator: recover_spectral(problem),
    "least-squares": recover_least_squares,
    "bispectrum": recover_bispectrum,
    "em": recover_em,
}
