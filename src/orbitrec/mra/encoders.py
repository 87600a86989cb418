"""Recovery by pretrained encoders: what they find from the moments, and matching where the data refute it."""

import time
from dataclasses import replace

import torch

from orbitrec.moments.analytic import Moments
from orbitrec.moments.losses import kam_loss
from orbitrec.mra.density import fitted_density
from orbitrec.mra.identifiability import two_moment_checks
from orbitrec.mra.least_squares import matched, misfit, recover_least_squares
from orbitrec.mra.matching import Pair, jointly_shifted
from orbitrec.mra.model import PeriodicMRA, shifted
from orbitrec.mra.problem import MRAEstimate, MRAProblem, model_moments
from orbitrec.networks.encoders import StructuredEncoder
from orbitrec.networks.pretrained import load_encoder, load_provenance, pretrained_encoders

_REFUTED = "the moments refute what the encoders know of signals"
_ROUNDING = 1e-12  # misfit of an entry of exact moments


def recover_encoder(problem: MRAProblem, generator: torch.Generator) -> MRAEstimate:
    """What the pretrained encoder that explains the moments best finds, and no more.

    Each of the pretrained encoders is for mixtures of so many Gaussians; where none is for the signal's length, or the
    observations are windows, this is least squares, and a quality check says so.
    """
    began = time.perf_counter()
    pair = _best_pair(problem)
    if pair is None:
        return _without_encoder(problem, generator)
    density, signal = pair
    return MRAEstimate(signal[0], density[0], 0.0, time.perf_counter() - began, two_moment_checks(problem))


def recover_moments(problem: MRAProblem, generator: torch.Generator) -> MRAEstimate:
    """The encoder's estimate where the moments agree with it to their noise, otherwise matched until they do.

    The misfit of the truth is (n + n²)/N, give or take 2/n of it: an estimate within three of these deviations is kept,
    because matching would only fit the moments' noise. A signal outside the encoders' family is refuted, and matching
    (2.15), each entry by its standard error, goes from the encoder's estimate until the misfit is down to its mean.
    The encoder's density is kept if it explains the moments together with the matched signal; otherwise the density is
    fitted. Where that does not explain them either, this is least squares from several starts.
    """
    began = time.perf_counter()
    pair = _best_pair(problem)
    if pair is None:
        return _without_encoder(problem, generator)
    density, signal = pair[0][0], pair[1][0]
    n, checks = problem.model.n, two_moment_checks(problem)
    expected = (n + n * n) * max(1 / problem.count, _ROUNDING)

    def refuted() -> bool:
        return float(misfit(problem, signal, density)) > (1 + 6 / n) * expected

    if refuted():
        checks += (f"{_REFUTED}: matched from their estimate",)
        _, signal = matched(problem, signal, density, enough=expected)
        if refuted():
            density = fitted_density(problem, signal)
    if refuted():
        other = recover_least_squares(problem, generator)
        if float(misfit(problem, other.signal, other.density)) < float(misfit(problem, signal, density)):
            checks = (*checks[:-1], f"{_REFUTED}: matched from other starts")
            signal, density = other.signal, other.density
    return MRAEstimate(signal, density, 0.0, time.perf_counter() - began, checks)


def _best_pair(problem: MRAProblem) -> Pair | None:
    """Density and signal (1, n), shifted to explain the moments together, of the encoder with the least (3.13)."""
    if not isinstance(problem.model, PeriodicMRA):
        return None
    m = problem.moments
    batch = Moments(m.first[None], m.second[None], m.weights)
    sigma, count = m.weights.new_tensor([problem.sigma]), m.weights.new_tensor([float(problem.count)])
    found: list[tuple[float, Pair]] = []
    for name in pretrained_encoders():
        if load_provenance(name).training["n"] != problem.model.n:
            continue
        encoder = load_encoder(StructuredEncoder, name)
        with torch.no_grad():
            density, signal = (part.double() for part in encoder(batch, sigma, count))
        density = density.clamp(min=0)
        density = density / density.sum()
        signal = shifted(signal, jointly_shifted(batch, density, signal))
        found.append((float(kam_loss(batch, model_moments(problem.model, signal, density))), (density, signal)))
    return min(found, key=lambda item: item[0])[1] if found else None


def _without_encoder(problem: MRAProblem, generator: torch.Generator) -> MRAEstimate:
    estimate = recover_least_squares(problem, generator)
    seen = "windows" if not isinstance(problem.model, PeriodicMRA) else f"signals of {problem.model.n} samples"
    check = f"there is no pretrained encoder for {seen}: recovered by least squares from several starts"
    return replace(estimate, checks=(*estimate.checks, check))
