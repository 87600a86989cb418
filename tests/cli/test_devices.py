"""``--device``: what cannot be used is refused in a sentence before anything is written."""

import pytest
import torch

from orbitrec.cli.devices import usable
from orbitrec.cli.main import run
from orbitrec.errors import InputError

COMMANDS = {
    "abinitio": ["abinitio", "particles.star"],
    "refine": ["refine", "particles.star", "--init", "map.mrc"],
    "moments": ["moments", "particles.star"],
}


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_device_here_is_refused_by_every_command(command, device, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run([*COMMANDS[command], "-o", "out", "--device", device])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.split("\n")
    assert said == [f"orbitrec: --device {device} cannot be used here; choose another, cpu is always there", ""]
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_cuda_is_refused_and_named_as_each_process_has_it(monkeypatch):
    with pytest.raises(InputError, match=r"^--device cuda cannot be used here; choose another"):
        usable("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(InputError, match=r"^--device cuda, which is cuda:3 for this process, cannot be used here"):
        usable("cuda")


def test_the_cpu_is_always_there():
    assert usable("cpu") == "cpu"
