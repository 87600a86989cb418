"""Memory that a process may still take."""

import ctypes
import math
import sys
from pathlib import Path

GIB = 2.0**30
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def available_GiB() -> float:
    """Memory that this process may still take, in GiB: that of the machine, of its job, and of ``ulimit -v``.

    Infinite where the system does not say.
    """
    return min(_machine_bytes(), _job_bytes(), _address_bytes()) / GIB


def keep_freed_memory() -> None:
    """Let arrays of up to 32 MiB, once freed, be the next ones, where the C library is glibc.

    By itself it gives such memory back to the system, which fills it with zeros page by page when the next array is
    made: up to half of the time of an E-step on small batches. At most 256 MiB are kept.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    set_option(_MMAP_THRESHOLD, 1 << 25)
    set_option(_TRIM_THRESHOLD, 1 << 28)


def peak_GiB() -> float | None:
    """The most memory that this process has taken, in GiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (GIB if sys.platform == "darwin" else 2**20)  # macOS counts bytes, others KiB


def _machine_bytes(meminfo: Path = Path("/proc/meminfo")) -> float:
    """What is free or can be made free."""
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return 1024 * float(line.split()[1])
    return math.inf


def _job_bytes(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """What the control groups of a batch system or a container leave; files that they cache can be dropped."""
    own = [line.removeprefix("0::/") for line in _lines(membership) if line.startswith("0::/")]
    left = math.inf
    for folder in [Path(path) for name in own for path in (name, *Path(name).parents)]:
        limit = _lines(root / folder / "memory.max")
        used = _lines(root / folder / "memory.current")
        if limit and used and limit[0] != "max":
            cached = [
                line.split()[1] for line in _lines(root / folder / "memory.stat") if line.startswith("inactive_f")
            ]
            left = min(left, float(limit[0]) - float(used[0]) + sum(map(float, cached)))
    return max(left, 0.0)


def _address_bytes() -> float:
    """What the limit of the address space leaves."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf
    limit, statm = resource.getrlimit(resource.RLIMIT_AS)[0], _lines(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or not statm:
        return math.inf
    return max(0.0, limit - float(statm[0].split()[0]) * resource.getpagesize())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
