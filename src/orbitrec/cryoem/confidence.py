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

FURTHEST = 1.25
"""Frequencies up to this many times the finest of the search are beyond it."""
UNSURE, DOUBTFUL = 0.9, 0.5
"""Probabilities below which a run says that its map may be wrong, and that it probably is."""


@dataclass(frozen=True)
class Witnesses:
    """What speaks for a map or against it.

    Attributes:
        log_likelihood: of one particle, mean over those that are views, over that of no signal.
        beyond: mean correlation of the half-maps, within the mask and corrected for it, at frequencies up to
            :data:`FURTHEST` beyond the search. Poses did not see these, so noise cannot agree there.
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
            "agreement of starts": -math.log1p(-min(self.starts, 0.99)),
            "log of SCF*": math.log(max(self.scf_star, 0.01)),
        }


@dataclass(frozen=True)
class Calibration:
    """A fitted logistic regression: its intercept, the weight of each term, and the number of runs it is fitted to."""

    intercept: float
    weights: Mapping[str, float]
    runs: int

    def probability(self, witnesses: Witnesses) -> float:
        """That the map is right."""
        terms = witnesses.terms()
        sum_ = self.intercept + sum(weight * terms[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-sum_)) if sum_ > -700 else 0.0


@cache
def calibration() -> Calibration:
    """The one that this version was shipped with."""
    return Calibration(**json.loads(files(__package__).joinpath("calibration.json").read_text(encoding="utf-8")))
