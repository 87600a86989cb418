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
"""Into which a pass is cut: as many processes can share it."""
FEWEST = 50
"""Images in a shard of a small batch: fewer would make its matrix products slow, however many processes there are."""


def rank() -> int:
    """Which of the processes this is; the first, 0, is the only one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_device(name: str) -> str:
    """The device of this process where ``name`` is asked for: of ``cuda`` the GPU of its number on the machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name


def backend(device: str) -> str:
    """What carries tensors between processes that work on ``device``; what is on the CPU always goes by gloo."""
    return "gloo" if torch.device(device).type == "cpu" else "cpu:gloo,cuda:nccl"


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """The other processes, where ``torchrun`` has started some, each working on its own ``device``.

    Raises:
        InputError: if there are more of them than shards.
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
    """A pass over ``rows``, or over chunks of them, in at most :data:`SHARDS` parts of nearly the same size.

    ``fewest``: rows in a part, where there are so many.
    """
    number = max(1, min(SHARDS, len(rows) // fewest))
    edges = [len(rows) * i // number for i in range(number + 1)]
    return [rows[a:b] for a, b in pairwise(edges)]


def summed(parts: Sequence[T], sums: Callable[[T], Sequence[Tensor]]) -> list[Tensor]:
    """The sum over all ``parts`` of the new tensors that ``sums`` makes of one; each process computes some of them.

    No process ever holds more than its own, one that it receives, and the total.
    """
    total: list[Tensor] = []
    for begun in range(0, len(parts), count()):
        turn = parts[begun : begun + count()]
        own = [each.contiguous() for each in sums(turn[rank()])] if rank() < len(turn) else []
        like = own or total
        if begun == 0 and len(turn) < count():  # a process without a part does not know its shape
            told = from_first(lambda own=own: [(each.shape, each.dtype, each.device.type) for each in own])
            like = [torch.empty(shape, dtype=dtype, device=own_device(kind)) for shape, dtype, kind in told]
        for by in range(len(turn)):
            part = own if by == rank() else [torch.empty_like(each) for each in like]
            if count() > 1:
                for each in part:
                    dist.broadcast(each.view(-1).view(torch.uint8), by)
            total = [a.add_(b) for a, b in zip(total, part, strict=True)] if total else part
    return total


def share(parts: Sequence[T]) -> Sequence[T]:
    """Every so manieth of ``parts``, for this process, where particles are seen one by one and nothing is added."""
    return parts[rank() :: count()]


def fill_in(*results: Num[Tensor, "N ..."]) -> None:
    """Exchange entries that one process has found and the others have left at zero: bits are added, not numbers."""
    if count() > 1:
        for each in results:
            dist.all_reduce(each.view(torch.int32))


def from_first(compute: Callable[[], T]) -> T:
    """What the first process computes, told to all of them."""
    if count() == 1:
        return compute()
    told = [compute() if rank() == 0 else None]
    dist.broadcast_object_list(told)
    return told[0]  # pyright: ignore[reportReturnType]
