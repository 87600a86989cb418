"""``python -m orbitrec``."""

from orbitrec.cli.main import run

run()
