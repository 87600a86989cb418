"""``orbitrec train`` as a user runs it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from orbitrec.cli.main import app
from orbitrec.cli.train import mra_command
from orbitrec.errors import InputError
from orbitrec.mra.families import default_law
from orbitrec.mra.training import MRATraining
from orbitrec.networks.encoders import StructuredEncoder
from orbitrec.networks.pretrained import load_encoder

SMALL = ["--gaussians", "1", "--length", "9", "--steps", "6", "--batch", "4"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", "mra", *map(str, arguments)])


def test_a_run_and_its_files(tmp_path):
    result = invoke(*SMALL, "--half", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "held-out density error" in result.output
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint.safetensors", "encoder.safetensors", "encoder.json", "history.csv"}
    provenance = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert provenance["command"].startswith("orbitrec train mra --gaussians 1 --length 9 ")
    assert load_encoder(StructuredEncoder, tmp_path / "run" / "encoder.safetensors", 9).n == 9


def test_the_recorded_command_makes_the_same_weights_and_resume_of_a_finished_run_too(tmp_path):
    invoke(*SMALL, "-o", tmp_path / "one")
    provenance = json.loads((tmp_path / "one" / "encoder.json").read_text())
    words = provenance["command"].replace("DIR", str(tmp_path / "two")).split()[1:]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert invoke("--resume", "-o", tmp_path / "two").exit_code == 0
    one, two = (
        load_encoder(StructuredEncoder, tmp_path / name / "encoder.safetensors").state_dict() for name in ("one", "two")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_command_names_every_choice():
    command = mra_command(MRATraining(default_law(1), 11, steps=20, batch=16, seed=7), half=True)
    assert command.startswith("orbitrec train mra --gaussians 1 --length 11 ")
    assert command.endswith("--batch 16 --rate 0.001 --seed 7 --half -o DIR")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume"], "no such file"),
        ([*SMALL, "--device", "warp"], "--device warp cannot be used"),
        (["--gaussians", "0"], "at least one"),
        (["--widths", "0.2", "0.1"], "widths"),
        (["--noise", "0", "1"], "noise levels"),
        (["--steps", "0"], "must be positive"),
        (["--rate", "nan"], "must be positive"),
        ([*SMALL, "--rate", "1e30"], "training diverged"),
        (["--observations", "1", "inf"], "numbers of observations"),
        ([*SMALL, "--device", "meta"], "--device meta cannot be used"),
    ],
)
def test_bad_input(arguments, says, tmp_path):
    result = invoke(*arguments, "-o", tmp_path / "run")
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert not (tmp_path / "run").exists()
