"""Where a command computes: its option, and whether there is such a device."""

from typing import Annotated

import typer

from orbitrec.errors import InputError

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")]


def usable(name: str, precision: str = "float64") -> str:
    """The device that this process has where ``name`` is asked for, tried with one number of that ``precision``.

    Raises:
        InputError: if it cannot be used.
    """
    import torch

    from orbitrec.recovery.ranks import own_device

    own = own_device(name)
    try:
        torch.zeros(1, dtype=getattr(torch, precision), device=own).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        here = "" if own in (name, f"{name}:0") else f", which is {own} for this process,"
        raise InputError(f"--device {name}{here} cannot be used here; choose another, cpu is always there") from error
    return own
