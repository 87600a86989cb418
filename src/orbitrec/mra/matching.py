"""The reconstruction phase: signals and densities whose moments match given ones (2.15), several problems at once.

A :class:`Representation` says what is varied: the parameters θ of an encoder, as in the thesis, or signal and density
themselves. Each problem has its own parameters. Adam treats every number by itself, so matching many problems together
is the same as matching each alone.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from orbitrec.moments.analytic import Moments
from orbitrec.moments.losses import moment_loss
from orbitrec.mra.density import LEAST_PROBABILITY
from orbitrec.mra.model import PeriodicMRA, all_shifts
from orbitrec.mra.problem import model_moments
from orbitrec.mra.sampling import SignalProblems
from orbitrec.networks.encoders import Encoder
from orbitrec.optim.adam import ScheduledAdam, cosine

Pair = tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]
"""Densities and signals."""


@dataclass(frozen=True, eq=False)
class Representation:
    """What is varied for each of b problems, and the densities and signals that it stands for.

    Attributes:
        parameters: by name; the first axis of each is the problem.
        pair: densities and signals (b, n) of such parameters.
        rate: the learning rate of Adam's first step.
    """

    parameters: dict[str, Tensor]
    pair: Callable[[Mapping[str, Tensor]], Pair]
    rate: float

    def start(self) -> Pair:
        """The densities and signals of the parameters to begin with."""
        with torch.no_grad():
            return self.pair(self.parameters)


def jointly_shifted(moments: Moments, density: Float[Tensor, "b n"], signal: Float[Tensor, "b n"]) -> Int[Tensor, "b"]:
    """The shift of each signal with which it and its density explain the moments best (2.14), (2.15).

    The error (2.9) allows density and signal a shift each; their moments depend on the shift of one against the other.

    Args:
        moments: of b problems.
        density: (b, n).
        signal: (b, n).

    Returns:
        A number of samples for each problem, (b,).
    """
    candidates = all_shifts(signal)  # (b, s, n)
    trial = model_moments(PeriodicMRA(signal.shape[-1]), candidates, density[:, None].expand_as(candidates))
    target = Moments(moments.first[:, None], moments.second[:, None], moments.weights)
    return moment_loss(target, trial).argmin(1)


def by_encoder(encoder: Encoder, problems: SignalProblems, rate: float = 1e-4) -> Representation:
    """The parameters θ of one copy of the encoder for each problem, as in the thesis.

    Args:
        encoder: what is copied.
        problems: whose moments the encoder is given.
        rate: the learning rate of Adam's first step.

    Returns:
        The representation. Each signal is shifted by what :func:`jointly_shifted` finds at the start.
    """

    def one(
        parameters: dict[str, Tensor], first: Tensor, second: Tensor, sigma: Tensor, count: Tensor
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        moments = Moments(first[None], second[None], problems.moments.weights)
        density, signal = functional_call(encoder, parameters, (moments, sigma[None], count[None]))
        return density[0], signal[0]

    outputs = torch.func.vmap(one)
    size, m = len(problems.signal), problems.moments
    own = {name: value.detach() for name, value in encoder.named_parameters()}
    copies = {name: value.expand(size, *value.shape).clone() for name, value in own.items()}
    with torch.no_grad():
        density, signal = outputs(copies, m.first, m.second, problems.sigma, problems.count)
    by = jointly_shifted(m, density, signal)
    index = (torch.arange(signal.shape[1]) - by[:, None]) % signal.shape[1]

    def pair(parameters: Mapping[str, Tensor]) -> Pair:
        density, signal = outputs(dict(parameters), m.first, m.second, problems.sigma, problems.count)
        return density, signal.gather(1, index)

    return Representation(copies, pair, rate)


def directly(density: Float[Tensor, "b n"], signal: Float[Tensor, "b n"], rate: float = 1e-2) -> Representation:
    """Samples of the signals and logits of the densities, with ρ = softmax.

    Args:
        density: to begin with, (b, n).
        signal: to begin with, (b, n).
        rate: the learning rate of Adam's first step.

    Returns:
        The representation.
    """
    logits = density.clamp(min=LEAST_PROBABILITY).log()
    return Representation(
        {"logits": logits.clone(), "signal": signal.clone()},
        lambda parameters: (parameters["logits"].softmax(1), parameters["signal"]),
        rate,
    )


def match(
    representation: Representation,
    moments: Moments,
    iterations: int,
    callback: Callable[[int, float, Pair], None] = lambda iteration, seconds, pair: None,
) -> Pair:
    """Densities and signals that minimise (2.15) with λ = 1, by Adam with a rate that falls as a cosine to zero.

    Args:
        representation: what is varied, and where to begin.
        moments: M̂¹ and M̂² of the problems, one block each.
        iterations: of Adam.
        callback: called before each iteration and after the last with its number, the processor's seconds so far, and
            densities and signals.

    Returns:
        Densities and signals at the end.
    """
    varied = {name: value.clone().requires_grad_() for name, value in representation.parameters.items()}
    adam = ScheduledAdam(varied.values(), cosine(representation.rate, iterations))
    model, seconds = PeriodicMRA(moments.first.shape[-1]), 0.0
    for iteration in range(iterations):
        start = time.process_time()
        density, signal = representation.pair(varied)
        loss = moment_loss(moments, model_moments(model, signal, density)).sum()
        seconds += time.process_time() - start
        callback(iteration, seconds, (density.detach(), signal.detach()))
        start = time.process_time()
        adam.step(loss)
        seconds += time.process_time() - start
    density, signal = representation.pair({name: value.detach() for name, value in varied.items()})
    callback(iterations, seconds, (density, signal))
    return density, signal
