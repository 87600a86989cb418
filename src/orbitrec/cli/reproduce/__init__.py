"""``orbitrec reproduce``: the thesis's tables and figures, one command each."""

from orbitrec.cli.reproduce import matching, momnet, mra, optimisers
from orbitrec.cli.reproduce.shared import app

__all__ = ["app", "matching", "momnet", "mra", "optimisers"]
