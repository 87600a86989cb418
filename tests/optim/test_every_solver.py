"""Every solver on every problem: the minimum is reached, and F never rises where theory says so."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.optim import solvers
from orbitrec.optim.driver import run
from orbitrec.optim.online import OnlineEM
from orbitrec.optim.problem import CompleteInformation, FiniteSum, TwiceDifferentiable
from orbitrec.optim.solvers import Solver
from orbitrec.optim.termination import Outcome, Result, Termination
from orbitrec.thesis.baselines import Adam, Anderson, Squarem, lbfgs, newton
from orbitrec.thesis.cryoem_problem import CryoEMProblem
from orbitrec.thesis.variable_metric import VariableMetric


@dataclass(frozen=True)
class NoisyMeans:
    """``y_i = z_i + ε_i``, hidden ``z_i ~ N(w, 1)``, noise of variance τ²: F is a quadratic, least at the mean of y.

    The hidden data's information is 1 and the observed data's ``1/(1 + τ²)``, so EM keeps the share ``τ²/(1 + τ²)`` of
    its error at every step (Dempster, Laird and Rubin 1977).
    """

    y: Float[Tensor, "N d"]
    tau2: Float[Tensor, "d"]
    fisher_passes: float = 1.0

    @property
    def count(self) -> int:
        return len(self.y)

    @property
    def dimension(self) -> int:
        return self.y.shape[1]

    def gradient(self, w: Tensor, index: Int[Tensor, "b"] | None = None) -> tuple[float, Tensor]:
        residual = (w - self._terms(index)) / (1 + self.tau2)
        return float((residual.square() * (1 + self.tau2)).sum(1).mean()) / 2, residual.mean(0)

    def expectation(self, w: Tensor, index: Int[Tensor, "b"] | None = None) -> tuple[float, Tensor]:
        value, slope = self.gradient(w, index)
        return value, w - slope  # the mean of E[z_i | y_i] = w + (y_i − w)/(1 + τ²)

    def maximisation(
        self, statistics: Tensor, w: Tensor, inertia: float = 0.0, terms: float | None = None
    ) -> Float[Tensor, "d"]:
        return (statistics + inertia * w) / (1 + inertia)

    def hessian(self, w: Tensor, index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        return (1 / (1 + self.tau2)).diag()

    def fisher(self, w: Tensor, index: Int[Tensor, "b"] | None = None) -> Float[Tensor, "d d"]:
        scores = (w - self._terms(index)) / (1 + self.tau2)
        return scores.T @ scores / len(scores)

    def information(self, w: Tensor) -> Float[Tensor, "d d"]:
        return torch.eye(self.dimension, dtype=torch.float64)

    def _terms(self, index: Int[Tensor, "b"] | None) -> Float[Tensor, "b d"]:
        return self.y if index is None else self.y[index]


@dataclass(frozen=True)
class Case:
    """A problem, where to start, and the minimum."""

    problem: FiniteSum
    start: Float[Tensor, "d"]
    least: float

    @property
    def height(self) -> float:
        return self.problem.gradient(self.start)[0] - self.least


def noisy_means() -> Case:
    generator = torch.Generator().manual_seed(1)
    tau2 = torch.tensor([0.0, 0.5, 2.0, 4.0], dtype=torch.float64)
    mean = torch.tensor([3.0, -2.0, 1.0, 5.0], dtype=torch.float64)
    y = mean + (1 + tau2).sqrt() * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    problem = NoisyMeans(y, tau2)
    return Case(problem, torch.zeros(4, dtype=torch.float64), problem.gradient(y.mean(0))[0])


Method = Callable[[FiniteSum, Tensor, Termination], Result]


def stepping(make: Callable[[FiniteSum], Solver]) -> Method:
    return lambda problem, w, termination: run(make(problem), problem, w, termination, seed=3)


@dataclass(frozen=True)
class Entry:
    """A method: whether it ends at the minimum itself or only near it, and whether F may rise on the way."""

    method: Method
    exact: bool = True
    monotone: bool = True


EVERY = {
    "GD": Entry(stepping(lambda p: solvers.gradient_descent())),
    "SGD": Entry(stepping(lambda p: solvers.stochastic_gradient(inner=5)), exact=False),
    "SVRG": Entry(stepping(lambda p: solvers.svrg(inner=5))),
    "SVRG+I": Entry(stepping(lambda p: solvers.svrg_newton(p.dimension - 1, share=0.3, inner=5))),
    "SVRG+II": Entry(stepping(lambda p: solvers.svrg_bfgs())),
    "EM": Entry(stepping(lambda p: solvers.em())),
    "sEM": Entry(stepping(lambda p: solvers.stochastic_em(inner=5)), exact=False),
    "sEM-vr": Entry(stepping(lambda p: solvers.sem_vr(inner=5))),
    "sEM-vr+QN": Entry(stepping(lambda p: solvers.sem_vr_bfgs())),
    "Fisher+BFGS": Entry(stepping(lambda p: solvers.fisher_bfgs())),
    "EM, then Fisher+BFGS": Entry(stepping(lambda p: solvers.fisher_bfgs_after_em(5))),
    "online EM": Entry(stepping(lambda p: OnlineEM(p.count // 4)), exact=False, monotone=False),
    "L-BFGS": Entry(lbfgs),
    "Newton": Entry(stepping(lambda p: newton(p.dimension))),
    "Anderson": Entry(stepping(lambda p: Anderson())),
    "SQUAREM": Entry(stepping(lambda p: Squarem())),
    "Adam": Entry(stepping(lambda p: Adam(inner=5, rate=0.3)), exact=False, monotone=False),
    "variable metric": Entry(stepping(lambda p: VariableMetric(inner=5, epochs=10)), exact=False, monotone=False),
}


@pytest.fixture(scope="module")
def windows(small_problem, starts) -> Case:
    """Windowed MRA of known density, from a point beside the minimum that L-BFGS finds."""
    problem = small_problem(300, known=True)
    found = lbfgs(problem, starts(problem, 1)[0], Termination())
    aside = torch.tensor([0.6, -0.6, 0.3, 0.0, -0.5, 0.4], dtype=torch.float64)
    return Case(problem, found.w + aside, found.trace[-1].value)


@pytest.fixture(scope="module")
def particles() -> Case:
    simulated = CryoEMProblem.simulated(3, 20)
    return Case(simulated.polar(), simulated.random_start(1), -float("inf"))


@pytest.fixture(params=["noisy means", "windows"])
def case(request, windows) -> Case:
    return windows if request.param == "windows" else noisy_means()


def rises(result: Result) -> bool:
    return any(after.value > before.value + 1e-12 * abs(before.value) for before, after in pairwise(result.trace))


def test_every_solver_of_the_library_is_here():
    made = [name for name, value in vars(solvers).items() if callable(value) and getattr(value, "__module__", "") ==
            solvers.__name__ and not name.startswith("_") and name[0].islower()]  # fmt: skip
    assert len(made) == 11
    assert {name.replace("_", "") for name in made} == {
        "gradientdescent", "stochasticgradient", "svrg", "svrgnewton", "svrgbfgs", "em", "stochasticem", "semvr",
        "semvrbfgs", "fisherbfgs", "fisherbfgsafterem",
    }  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_the_minimum_is_reached(case, name):
    """To nine digits, or by methods of noisy steps to a tenth of the way."""
    entry = EVERY[name]
    gap = 1e-9 if entry.exact else 0.1 * case.height
    limit = Termination(moved=0.0, value=case.least + 1e-9, measured=1000.0 if entry.exact else 40.0)
    result = entry.method(case.problem, case.start, limit)
    assert result.outcome is Outcome.REACHED or not entry.exact
    assert case.least - 1e-12 <= case.problem.gradient(result.w)[0] <= case.least + gap
    assert not (entry.monotone and rises(result))


@pytest.mark.parametrize("name", EVERY)
def test_particles_are_explained_better(particles, name):
    """Of the cryo-EM problem no minimum is known: a few passes descend, monotonically where theory says so."""
    entry = EVERY[name]
    before = particles.problem.gradient(particles.start)[0]
    passes = {"Newton": 70.0, "SVRG+I": 40.0}.get(name, 7.0)  # a Hessian of all terms is 64 passes
    result = entry.method(particles.problem, particles.start, Termination(moved=0.0, measured=passes))
    assert particles.problem.gradient(result.w)[0] < before - 1
    assert not (entry.monotone and rises(result))


def test_noisy_means_keep_their_promises():
    problem = noisy_means().problem
    assert isinstance(problem, TwiceDifferentiable)
    assert isinstance(problem, CompleteInformation)
    w = torch.arange(4.0, dtype=torch.float64)
    slopes = [problem.gradient(w + e)[0] - problem.gradient(w - e)[0] for e in torch.eye(4, dtype=torch.float64)]
    torch.testing.assert_close(2 * problem.gradient(w)[1], torch.tensor(slopes, dtype=torch.float64))
    ahead = problem.gradient(w + 1)[1] - problem.gradient(w)[1]
    torch.testing.assert_close(problem.hessian(w) @ torch.ones(4, dtype=torch.float64), ahead)


def test_em_loses_the_fraction_of_missing_information_at_every_step():
    case = noisy_means()
    problem = case.problem
    assert isinstance(problem, NoisyMeans)
    result = run(solvers.em(), problem, case.start, Termination(moved=0.0, epochs=8))
    kept = problem.tau2 / (1 + problem.tau2)
    centre = problem.y.mean(0)
    torch.testing.assert_close(result.w - centre, kept**7 * (case.start - centre), rtol=1e-10, atol=1e-12)
