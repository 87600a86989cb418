"""Memory that arrays leave behind, against the system's count of pages that it had to make."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from orbitrec.runtime.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def used():
    pages = [libc.malloc(20 << 20), libc.malloc(20 << 20)]
    for page in pages:
        ctypes.memset(page, 1, 20 << 20)
    for page in pages:
        libc.free(ctypes.c_void_p(page))
used()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    used()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the option is that of glibc")
def test_freed_memory_is_used_again_without_new_pages():
    faults = {
        way: int(subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, check=True).stdout)
        for way in ("kept", "given back")
    }
    assert faults["kept"] < 100 < faults["given back"]
