"""Independent jobs on all cores."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def run_threaded(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run jobs in threads, among which torch's threads are divided, and return their results in order.

    Work on many small matrices is faster on one thread than on two. Where there are at least as many jobs as threads,
    each job has one, and what torch computes does not depend on their number. Libraries of numpy and scipy have threads
    of their own.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(jobs)))
    torch.set_num_threads(threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(lambda job: job(), jobs))
    finally:
        torch.set_num_threads(threads)
