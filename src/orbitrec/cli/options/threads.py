"""How many cores a command uses."""

import os
import sys
from typing import Annotated

import typer


def take_threads(count: int | None) -> int | None:
    """Tell the numerical libraries, none of which is loaded before a command begins, of their number of threads.

    Matrices of numpy and scipy are so small here that threads would only wait for one another; torch and finufft have
    the cores, one after the other.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(count)
    return count


Threads = Annotated[int | None, typer.Option(min=1, callback=take_threads, help="Cores to use. [all]")]
