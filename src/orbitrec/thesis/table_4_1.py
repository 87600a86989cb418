"""Table 4.1 and Figure 4.2: gradient methods on windowed MRA, beside the thesis's figures and strong baselines."""

from orbitrec.optim import solvers
from orbitrec.thesis.baselines import Adam, newton
from orbitrec.thesis.optimiser_table import Contestant, SolverExperiment, scipy_lbfgs, stepping
from orbitrec.thesis.windowed_mra import SETTINGS


def contestants(dimension: int) -> list[Contestant]:
    """The thesis's four, SGD, and what it left out, for so many unknowns."""
    return [
        Contestant("GD", stepping(solvers.gradient_descent()), "14000+", "3500+"),
        Contestant("SVRG", stepping(solvers.svrg()), "14000+", "3500+"),
        Contestant("SVRG+I", stepping(solvers.svrg_newton(dimension // 2)), "14000+", "3500+"),
        Contestant("SVRG+II", stepping(solvers.svrg_bfgs()), "821", "217"),
        Contestant("SGD", stepping(solvers.stochastic_gradient()), most_epochs=1000.0),
        Contestant("Adam", stepping(Adam()), most_epochs=1000.0),
        Contestant("L-BFGS", scipy_lbfgs),
        Contestant("Newton", stepping(newton(dimension))),
        Contestant("Fisher+BFGS", stepping(solvers.fisher_bfgs())),
    ]


EXPERIMENT = SolverExperiment("table-4.1", "Table 4.1: gradient methods on windowed MRA", SETTINGS, contestants)
