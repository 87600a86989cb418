"""The probability that a map is right, from what a run knows of it without the truth.

A map is right if its FSC 0.5 with the truth is at most twice that of a map from known poses of the same images. The
probability is a logistic regression on :class:`Witnesses`. Its weights, in ``calibration.json`` beside this file, are
fitted by ``benchmarks/panel/confidence.py`` to runs of which many went wrong, and tested on other molecules.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from orbitrec.evaluation.fsc import FSC

FURTHEST = 1.25
"""Frequencies up to this many times the finest of the search are beyond it."""
SURE, DOUBTFUL = 0.9, 0.5
"""Probabilities from which on a map is called likely right, and below which a run says that it is probably wrong."""


@dataclass(frozen=True)
class Witnesses:
    """What speaks for a map or against it.

    Attributes:
        log_likelihood: of one particle over that of no signal, mean over those that are views.
        beyond: mean correlation of the half-maps, corrected for the mask, at frequencies up to :data:`FURTHEST` times
            the finest of the search. Poses did not see these, so noise cannot agree there.
        resolved: logarithm of the finest resolution of the search over the half-maps' at 0.143.
        starts: the largest correlation of another start's map with the chosen one.
        scf_star: how evenly views sample Fourier space, SCF*.
    """

    log_likelihood: float
    beyond: float
    resolved: float
    starts: float
    scf_star: float

    def terms(self) -> dict[str, float]:
        """What the regression is linear in, by name."""
        return {
            "log of the log-likelihood": math.log(max(self.log_likelihood, 1.0)),
            "correlation beyond the search": self.beyond,
            "log of search over resolution": min(max(self.resolved, -1.0), 1.0),
            "starts, -log(1 - correlation)": -math.log1p(-min(self.starts, 0.99)),
            "log of SCF*": math.log(max(self.scf_star, 0.01)),
        }


@dataclass(frozen=True)
class Calibration:
    """A fitted logistic regression.

    Attributes:
        intercept: of the log odds.
        weights: of :meth:`Witnesses.terms`, by name.
        runs: how many it is fitted to.
    """

    intercept: float
    weights: Mapping[str, float]
    runs: int

    def probability(self, witnesses: Witnesses) -> float:
        """That the map is right."""
        terms = witnesses.terms()
        log_odds = self.intercept + sum(weight * terms[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-log_odds))


@cache
def calibration() -> Calibration:
    """The calibration that this version comes with."""
    return Calibration(**json.loads(files("orbitrec.cryoem").joinpath("calibration.json").read_text(encoding="utf-8")))


def correlation_beyond(curve: FSC, k_max: float) -> float:
    """Mean correlation of half-maps on the shells from ``k_max`` (radians per pixel) to :data:`FURTHEST` times it.

    Of the last shell where there is none, since the search went to the end of the curve.
    """
    beyond = (curve.frequency > k_max) & (curve.frequency <= FURTHEST * k_max)
    return float(curve.value[beyond].mean() if bool(beyond.any()) else curve.value[-1])


def verdict(probability: float) -> str:
    """The probability in words."""
    if probability >= SURE:
        return "likely right"
    return "probably wrong" if probability < DOUBTFUL else "uncertain"


def doubt(probability: float) -> list[str]:
    """A sentence where the map is probably wrong, with what to try."""
    if probability >= DOUBTFUL:
        return []
    return [
        f"This map is probably wrong: of maps with such likelihood, half-maps and views {100 * probability:.0f} % are "
        "right. Try more or cleaner particles (`orbitrec classify2d`), other seeds, the symmetry or the diameter if "
        "you know them."
    ]
