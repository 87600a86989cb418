"""Table 4.3 and Figure 4.6: optimisers on cryo-EM at low resolution, beside the thesis's figures and strong baselines.

The thesis has the first three of the gradient methods only; EM methods are new here, their M-step a linear solve.
"""

from orbitrec.optim import solvers
from orbitrec.thesis.baselines import Adam, Anderson, Squarem, newton
from orbitrec.thesis.cryoem_problem import CryoEMProblem
from orbitrec.thesis.optimiser_table import Contestant, Instance, SolverExperiment, scipy_lbfgs, stepping
from orbitrec.thesis.variable_metric import VariableMetric


def contestants(dimension: int) -> list[Contestant]:
    """The thesis's three, the EM methods it lacks, and what it left out, for so many unknowns."""
    return [
        Contestant("GD", stepping(solvers.gradient_descent()), "2000+", "1500+"),
        Contestant("SVRG", stepping(solvers.svrg()), "1139", "942"),
        Contestant("SVRG+II", stepping(solvers.svrg_bfgs()), "790", "713"),
        Contestant("EM", stepping(solvers.em())),
        Contestant("sEM-vr", stepping(solvers.sem_vr())),
        Contestant("sEM-vr+QN", stepping(solvers.sem_vr_bfgs())),
        Contestant("L-BFGS", scipy_lbfgs),
        Contestant("Newton", stepping(newton(dimension))),
        Contestant("SQUAREM", stepping(Squarem())),
        Contestant("Anderson", stepping(Anderson())),
        Contestant("Adam", stepping(Adam()), most_epochs=300.0),
        Contestant("variable metric", stepping(VariableMetric()), most_epochs=300.0),
        Contestant("Fisher+BFGS", stepping(solvers.fisher_bfgs())),
        Contestant("EM, then Fisher+BFGS", stepping(solvers.fisher_bfgs_after_em())),
    ]


def instance(seed: int, count: int = 3600) -> Instance:
    """The problem and the random start of one seed."""
    problem = CryoEMProblem.simulated(seed, count)
    return Instance(problem.polar(), problem.random_start(seed), seed)


EXPERIMENT = SolverExperiment("table-4.3", "Table 4.3: optimisers on cryo-EM", {"known density": instance}, contestants)
