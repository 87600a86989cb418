"""Work split over the processes that ``torchrun`` starts, with the result that one process has, bit by bit.

Every process holds the same model, draws the same random numbers and makes the same steps; only passes over particles
are shared. Sums round by how they are grouped, so a pass is cut into shards that do not depend on the number of
processes, and the shards' sums are added in the order of the shards, whichever process has computed them. Alone, a
process does exactly the same.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Num
from torch import Tensor

from orbitrec.errors import InputError

T = TypeVar("T")
Rows = TypeVar("Rows", Tensor, tuple[Tensor, ...])

SHARDS = 8
"""Parts that a pass over the particles is cut into: at most so many processes can share it."""
FEWEST = 50
"""Least number of images in a shard of a small batch: fewer would make its matrix products slow."""


def rank() -> int:
    """Number of this process, from 0; only process 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Number of processes that share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_device(name: str) -> str:
    """The device of this process where ``name`` is asked for: for ``cuda``, the GPU with its number on the machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name


def backend(device: str) -> str:
    """Torch's backend for processes that work on ``device``; tensors on the CPU always go by gloo."""
    return "gloo" if torch.device(device).type == "cpu" else "cpu:gloo,cuda:nccl"


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Context manager in which this process works together with the others that ``torchrun`` has started.

    Args:
        device: of this process.

    Raises:
        InputError: if there are more processes than shards.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        yield
        return
    if processes > SHARDS:
        raise InputError(
            f"{processes} processes are more than the {SHARDS} that can share the work; start fewer and give each "
            "more threads (OMP_NUM_THREADS)"
        )
    own = torch.device(device)
    dist.init_process_group(backend(device), device_id=None if own.type == "cpu" else own)
    yield
    # Not after an error, which the others do not know of: torchrun ends them.
    dist.barrier()
    dist.destroy_process_group()


def shards(rows: Rows, fewest: int = 1) -> list[Rows]:
    """Cut a pass into at most :data:`SHARDS` parts of nearly the same size.

    Args:
        rows: the particles of the pass, or chunks of them.
        fewest: least number of rows in a part, where there are that many.

    Returns:
        The parts, in order. They do not depend on the number of processes.
    """
    number = max(1, min(SHARDS, len(rows) // fewest))
    edges = [len(rows) * i // number for i in range(number + 1)]
    return [rows[a:b] for a, b in pairwise(edges)]


def summed(parts: Sequence[T], sums: Callable[[T], Sequence[Tensor]]) -> list[Tensor]:
    """Sum over all parts, each process computing some of them; the parts are added in order.

    No process ever holds more than its own part's tensors, those of one other part, and the total.

    Args:
        parts: of the pass, as :func:`shards` makes them.
        sums: makes new tensors of one part.

    Returns:
        The sums over all parts, the same in every process.
    """
    total: list[Tensor] = []
    for begun in range(0, len(parts), count()):
        turn = parts[begun : begun + count()]
        own = [each.contiguous() for each in sums(turn[rank()])] if rank() < len(turn) else []
        like = own or total
        if begun == 0 and len(turn) < count():  # a process without a part has not seen its shape
            shapes = from_first(lambda own=own: [(each.shape, each.dtype, each.device.type) for each in own])
            like = [torch.empty(shape, dtype=dtype, device=own_device(kind)) for shape, dtype, kind in shapes]
        for by in range(len(turn)):
            part = own if by == rank() else [torch.empty_like(each) for each in like]
            if count() > 1:
                for each in part:
                    dist.broadcast(each.view(-1).view(torch.uint8), by)
            total = [a.add_(b) for a, b in zip(total, part, strict=True)] if total else part
    return total


def share(parts: Sequence[T]) -> Sequence[T]:
    """The parts of this process, for work on particles one by one in which nothing is added up."""
    return parts[rank() :: count()]


def fill_in(*results: Num[Tensor, "N ..."]) -> None:
    """Exchange the entries of tensors of which each was found by one process and left at zero by all others.

    Bits are added and not numbers, so that every entry comes over exactly.
    """
    if count() > 1:
        for each in results:
            dist.all_reduce(each.view(torch.int32))


def from_first(compute: Callable[[], T]) -> T:
    """Compute something in the first process and send the result to all."""
    if count() == 1:
        return compute()
    result = [compute() if rank() == 0 else None]
    dist.broadcast_object_list(result)
    return result[0]  # pyright: ignore[reportReturnType]
