"""Where a command computes: its option, and whether there is such a device."""

import os
from typing import Annotated

import typer

from orbitrec.errors import InputError

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")]


def usable(name: str, precision: str = "float64") -> str:
    """The device that this process has where ``name`` is asked for, tried with one number of that ``precision``.

    Raises:
        InputError: if it cannot be used, or processes of torchrun would have to share a GPU.
    """
    import torch

    from orbitrec.runtime.distributed import own_device

    own = own_device(name)
    try:
        torch.zeros(1, dtype=getattr(torch, precision), device=own).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"--device {name} cannot be used here; choose another, cpu is always there") from error
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    # Found by each process, since only the first says what is wrong.
    if own.startswith("cuda") and processes > (gpus if name == "cuda" else 1):
        raise InputError(
            f"{processes} processes on a machine of {gpus} GPUs cannot share --device {name}; give --device cuda, and "
            "start no more processes than GPUs"
        )
    return own
