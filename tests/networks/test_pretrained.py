"""Weights as files: the round trip, the shipped ones, and clear errors."""

import json

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.mra.families import LENGTH
from orbitrec.networks.encoders import ENCODERS
from orbitrec.networks.pretrained import PRETRAINED, encoder_name, load_encoder, pretrained_encoders, write_encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_round_trip(name, tmp_path):
    encoder = ENCODERS[name](9)
    write_encoder(tmp_path / "encoder.safetensors", encoder, {"encoder": name, "n": 9}, torch.float32)
    loaded = load_encoder(tmp_path / "encoder.safetensors", 9)
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert json.loads((tmp_path / "encoder.json").read_text()) == {"encoder": name, "n": 9}


def test_weights_are_shipped_for_one_two_and_three_gaussians():
    expected = {encoder_name(encoder, k) for encoder in ENCODERS for k in (1, 2, 3)}
    assert expected <= set(pretrained_encoders())


@pytest.mark.parametrize("name", pretrained_encoders())
def test_shipped_weights_load_and_say_how_they_were_made(name):
    encoder = load_encoder(name, LENGTH)
    assert all(p.isfinite().all() for p in encoder.parameters())
    recipe = json.loads((PRETRAINED / f"{name}.json").read_text())
    assert recipe["command"].startswith("orbitrec train mra --gaussians ")
    assert {"seconds", "device", "commit", "date"} <= set(recipe)


def test_bad_names_files_and_lengths(tmp_path):
    with pytest.raises(InputError, match="no weights are shipped as mra-none; choose among"):
        load_encoder("mra-none")
    with pytest.raises(InputError, match="no such file"):
        load_encoder(tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_encoder(tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="for signals of 41 samples, not 40"):
        load_encoder(pretrained_encoders()[0], 40)
