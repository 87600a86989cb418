"""Work split over the processes that ``torchrun`` starts: each takes a share of the particles, and all know the sums.

Alone, every function leaves what it is given as it is. Every process holds the same model, draws the same random
numbers and makes the same steps; only passes over particles are shared. Sums over processes are those of one up to
rounding.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Num
from torch import Tensor

from orbitrec.inference.likelihood import Statistics

T = TypeVar("T")


def rank() -> int:
    """Which of the processes this is; the first, 0, is the only one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined() -> Iterator[None]:
    """The other processes, where ``torchrun`` has started some: by gloo, for the work is done by processors."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("gloo")
    yield
    # Not after an error, which the others do not know of: torchrun ends them.
    dist.barrier()
    dist.destroy_process_group()


def share(parts: Sequence[T]) -> Sequence[T]:
    """Every so manieth of ``parts``, such as chunks of particles, for this process."""
    return parts[rank() :: count()]


def add_up(*sums: Num[Tensor, "..."]) -> None:
    """Replace every tensor by its sum over the processes; entries that one of them alone has filled are exact."""
    if count() == 1:
        return
    for each in sums:
        dist.all_reduce(torch.view_as_real(each) if each.is_complex() else each)


def added_up(own: Statistics) -> Statistics:
    """Statistics of all processes' observations."""
    if count() == 1:
        return own
    scalars = torch.tensor([own.log_likelihood, own.count], dtype=torch.float64)
    sums = {part.name: getattr(own, part.name).contiguous() for part in fields(Statistics)[:3]}
    add_up(scalars, *sums.values())
    return replace(own, **sums, log_likelihood=float(scalars[0]), count=float(scalars[1]))


def from_first(compute: Callable[[], T]) -> T:
    """What the first process computes, told to all of them."""
    if count() == 1:
        return compute()
    told = [compute() if rank() == 0 else None]
    dist.broadcast_object_list(told)
    return told[0]  # pyright: ignore[reportReturnType]
