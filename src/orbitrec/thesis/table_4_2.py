"""Table 4.2 and Figure 4.3: EM methods on windowed MRA, beside the thesis's figures and strong baselines."""

from orbitrec.optim import solvers
from orbitrec.optim.metrics import BFGS
from orbitrec.thesis.baselines import Anderson, Squarem
from orbitrec.thesis.optimiser_table import Contestant, SolverExperiment, stepping
from orbitrec.thesis.windowed_mra import SETTINGS


def contestants(dimension: int) -> list[Contestant]:
    """The thesis's three, sEM, the other secants of sEM-vr+QN, and what it left out, for any number of unknowns."""
    reported, residual = BFGS(scaled=False, of_map=True), BFGS(scaled=False)
    return [
        Contestant("EM", stepping(solvers.em()), "3078", "85"),
        Contestant("sEM-vr", stepping(solvers.sem_vr()), "392", "53"),
        Contestant("sEM-vr+QN", stepping(solvers.sem_vr_bfgs()), "188", "34"),
        Contestant("sEM-vr+QN, residual secant", stepping(solvers.sem_vr_bfgs(metric=residual))),
        Contestant("sEM-vr+QN, reported secant", stepping(solvers.sem_vr_bfgs(metric=reported))),
        Contestant("sEM", stepping(solvers.stochastic_em()), most_epochs=1000.0),
        Contestant("SQUAREM", stepping(Squarem())),
        Contestant("Anderson", stepping(Anderson())),
        Contestant("Fisher+BFGS", stepping(solvers.fisher_bfgs())),
        Contestant("EM, then Fisher+BFGS", stepping(solvers.fisher_bfgs_after_em())),
    ]


EXPERIMENT = SolverExperiment("table-4.2", "Table 4.2: EM methods on windowed MRA", SETTINGS, contestants)
