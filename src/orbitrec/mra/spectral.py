"""The spectral method: a signal from the eigenvectors of its whitened second moment, if its shifts are aperiodic.

With ``C[k, l] = ρ̂(k − l)``, ``diag(|v̂|)⁻¹ M² diag(|v̂|)⁻¹ = diag(u) C diag(u)*``, u the phases of v̂ (2.4). C is
circulant: its eigenvalues are nρ(s) and its eigenvectors ``e^{−iks}``, so that each eigenvector of a simple eigenvalue
holds the phases of the signal shifted by s (Abbe et al. 2018).
"""

import time
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.fourier import centred_ifft
from orbitrec.moments.losses import relative_errors
from orbitrec.mra.density import fitted_density
from orbitrec.mra.identifiability import present_frequencies, two_moment_checks
from orbitrec.mra.problem import MRAEstimate, MRAProblem, model_moments


def recover_spectral(problem: MRAProblem) -> MRAEstimate:
    """The spectral method on the frequencies that stand out of the noise; the signal is zero at the others.

    Every eigenvector gives a candidate, with the density that fits it best; the candidate with the nearest moments is
    returned. Exact moments of a signal without vanishing frequencies give it exactly. Where frequencies are left out, C
    is Toeplitz but not circulant, and its eigenvectors are only approximately the shifted phases.

    Args:
        problem: moments of whole periods.

    Returns:
        Signal and density, with quality checks where two moments do not determine them.

    Raises:
        InputError: if the observations are windows, or no frequency stands out of the noise.
    """
    began = time.perf_counter()
    model = problem.given_all_samples("spectral")
    best, error = None, float("inf")
    for signal in _candidates(problem):
        density = fitted_density(problem, signal)
        of_this = float(sum(relative_errors(problem.moments, model_moments(model, signal, density))))
        if best is None or of_this < error:
            best, error = (signal, density), of_this
    assert best is not None
    return MRAEstimate(*best, seconds=time.perf_counter() - began, checks=two_moment_checks(problem))


def _candidates(problem: MRAProblem) -> Iterator[Float[Tensor, "n"]]:
    """The signal of every eigenvector, with both signs."""
    second, n = problem.moments.second[0], problem.model.n
    kept = present_frequencies(problem)
    if not kept.any():
        raise InputError(f"{problem.count} observations at σ = {problem.sigma:g} show no signal; give more of them")
    amplitude = second.diagonal().real[kept].sqrt()
    whitened = second[kept][:, kept] / amplitude[:, None] / amplitude
    negative = (2 * (n // 2) - torch.arange(n)) % n  # where the frequency −k is
    for vector in torch.linalg.eigh(whitened)[1].mT:
        transform = second.new_zeros(n)
        transform[kept] = amplitude * vector.sgn()
        # An eigenvector has an arbitrary phase; that of a real signal's transform is such that v̂(−k) = conj v̂(k).
        transform = transform / (transform * transform[negative]).sum().sgn().sqrt()
        signal = centred_ifft(transform, ndim=1).real
        yield signal
        yield -signal
