"""``--threads``, against what torch says of itself."""

import os
import subprocess
import sys

PROGRAM = "from orbitrec.cli.options.threads import take_threads; take_threads({}); import torch; {}"


def test_torch_has_as_many_threads_as_were_asked_for():
    for count in (1, min(2, os.cpu_count() or 1)):  # no more than there are cores
        program = PROGRAM.format(count, "print(torch.get_num_threads())")
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert int(told.stdout) == count
