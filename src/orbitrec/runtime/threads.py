"""Independent work on all cores."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def run_threaded(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs return, in order. Torch's threads are divided among them.

    Many small matrices are slower on two threads than on one. With a thread a job, as there is while jobs are many,
    what torch computes does not depend on their number; numpy's and scipy's libraries have threads of their own.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(jobs)))
    torch.set_num_threads(threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(lambda job: job(), jobs))
    finally:
        torch.set_num_threads(threads)
