"""``--device``: what cannot be used is refused in a sentence before anything is written."""

import pytest
import torch

from orbitrec.cli.main import run
from orbitrec.cli.options.devices import usable
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
    for name in ("particles.star", "map.mrc"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit) as stopped:
        run([*COMMANDS[command], "-o", "out", "--device", device])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.split("\n")
    assert said == [f"orbitrec: --device {device} cannot be used here; choose another, cpu is always there", ""]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_cuda_is_refused():
    with pytest.raises(InputError, match=r"^--device cuda cannot be used here; choose another"):
        usable("cuda")


@pytest.mark.parametrize(("device", "processes", "refused"), [
    ("cpu", 3, False), ("cuda", 2, False), ("cuda", 3, True), ("cuda:0", 1, False), ("cuda:0", 2, True),
])  # fmt: skip
def test_processes_that_would_share_a_gpu_are_refused_by_each_of_them(device, processes, refused, monkeypatch):
    """The first of them too, which would have one: no other says what is wrong."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))
    if not refused:
        assert usable(device) == device.replace("cuda:0", "cuda").replace("cuda", "cuda:0")
        return
    with pytest.raises(
        InputError, match=rf"^{processes} processes on a machine of 2 GPUs cannot share --device {device};"
    ):
        usable(device)


def test_the_cpu_is_always_there():
    assert usable("cpu") == "cpu"
