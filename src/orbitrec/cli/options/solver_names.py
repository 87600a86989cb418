"""The solvers of the likelihood by the names that a person types."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orbitrec.optim.solvers import SnapshotSolver


class SolverName(StrEnum):
    """The solvers of chapter 4 that pay on particle stacks."""

    em = "em"
    sem = "sem"
    sem_vr = "sem-vr"
    sem_vr_qn = "sem-vr+qn"
    svrg = "svrg"
    svrg2 = "svrg2"

    def make(self, share: float) -> "SnapshotSolver":
        """The solver, with batches of ``share`` of the particles and epochs of about two passes."""
        from orbitrec.optim import solvers

        inner = max(1, round(0.5 / share))
        return {
            SolverName.em: solvers.em,
            SolverName.sem: lambda: solvers.stochastic_em(share, 2 * inner),
            SolverName.sem_vr: lambda: solvers.sem_vr(share, inner),
            SolverName.sem_vr_qn: lambda: solvers.sem_vr_bfgs(share, inner),
            SolverName.svrg: lambda: solvers.svrg(share, inner),
            SolverName.svrg2: lambda: solvers.svrg_bfgs(share, inner),
        }[self]()
