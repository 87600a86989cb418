"""``--threads``, against what torch says of itself."""

import subprocess
import sys

PROGRAM = "from orbitrec.cli.options.threads import take_threads; take_threads({}); import torch; {}"


def test_torch_has_as_many_threads_as_were_asked_for():
    for count in (1, 3):
        program = PROGRAM.format(count, "print(torch.get_num_threads())")
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert int(told.stdout) == count
