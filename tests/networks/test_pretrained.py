"""Weights as files: the round trip, the pretrained ones, and clear errors."""

import hashlib
import json
from dataclasses import asdict

import pytest
import torch

from orbitrec.errors import InputError
from orbitrec.io.tensors import write_tensors
from orbitrec.mra.families import LENGTH, default_law
from orbitrec.mra.training import MRATraining
from orbitrec.networks.encoders import StructuredEncoder
from orbitrec.networks.pretrained import (
    PRETRAINED,
    encoder_name,
    load_encoder,
    load_momnet,
    load_network,
    load_provenance,
    pretrained_encoders,
    write_network,
)
from orbitrec.networks.provenance import Provenance
from orbitrec.thesis.encoder_training import ThesisEncoderTraining
from orbitrec.thesis.encoders import WEIGHTS, ThesisEncoder, thesis_weights

SHA256 = {
    "momnet-polar": "34b93f224d58f57b2c2d9ae5b21f84477896dc37ddc39815d9df82417a9bde66",
    "mra-structured-1": "2e68ed0ef1f811e6804134def71887711f613ad874388e80f300af59eb79b6cf",
    "mra-structured-2": "b265a100557f560d21f3bee93ff1ae2bd23d948ebfd65d19545236468bdc1f2b",
    "mra-structured-3": "030387fbab9c451a13842ce8ed188744a5af88bd2ed278d9a143efd35b06c15e",
    "mra-thesis-1": "131968044ebeef8877da498ebae84b7ff6eaebfd507fb7d7df5a47e843413069",
    "mra-thesis-2": "4aefe95805ff876e907b0896f7044622e3467415149f8281e72fdb8772c6039c",
    "mra-thesis-3": "b6b323c85423807ba7d67eb271f907bd829323a258fa799e33f24610fe861f98",
}
"""Of the tensors' bytes, which follow the header, when the weights were trained."""


@pytest.mark.parametrize("kind", [MRATraining, ThesisEncoderTraining])
def test_round_trip(kind, tmp_path):
    task = kind(default_law(1), 9)
    encoder = task.untrained()
    made = Provenance(task.architecture.name, "a command", asdict(task), {"error": 1.0}, 2.0, "cpu", "today", None, "1")
    write_network(tmp_path / "encoder.safetensors", encoder, made, torch.float32)
    loaded = load_encoder(task.architecture, tmp_path / "encoder.safetensors", 9)
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    beside = json.loads((tmp_path / "encoder.json").read_text())
    assert beside["training"]["law"] == {"components": 1, "widths": [0.04, 0.1], "weight_spread": 0.5}
    assert asdict(load_provenance(tmp_path / "encoder.safetensors")) == beside


def test_there_are_weights_for_one_two_and_three_gaussians():
    assert pretrained_encoders() == [encoder_name(k) for k in (1, 2, 3)]
    assert all(thesis_weights(k).is_file() for k in (1, 2, 3))


@pytest.mark.parametrize(
    ("kind", "source"),
    [(StructuredEncoder, encoder_name(k)) for k in (1, 2, 3)] + [(ThesisEncoder, thesis_weights(k)) for k in (1, 2, 3)],
)
def test_pretrained_weights_load_and_say_how_they_were_made(kind, source):
    encoder = load_encoder(kind, source, LENGTH)
    assert all(p.isfinite().all() for p in encoder.parameters())
    made = load_provenance(source)
    assert made.command.startswith("orbitrec ")
    assert made.seconds > 0
    assert made.commit


@pytest.mark.parametrize("folder", [PRETRAINED, WEIGHTS])
def test_tensors_are_bit_by_bit_those_that_were_trained(folder):
    files = sorted(folder.glob("*.safetensors"))
    assert files
    for path in files:
        raw = path.read_bytes()
        header = int.from_bytes(raw[:8], "little")
        assert hashlib.sha256(raw[8 + header :]).hexdigest() == SHA256[path.stem], path.name


@pytest.mark.parametrize("folder", [PRETRAINED, WEIGHTS])
def test_provenance_stands_beside_the_weights(folder):
    for path in sorted(folder.glob("*.safetensors")):
        assert asdict(load_provenance(path)) == json.loads(path.with_suffix(".json").read_text()), path.name


def test_bad_names_files_and_lengths(tmp_path):
    with pytest.raises(InputError, match="there are no pretrained weights mra-none; choose among"):
        load_encoder(StructuredEncoder, "mra-none")
    with pytest.raises(InputError, match="no such file"):
        load_encoder(StructuredEncoder, tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_encoder(StructuredEncoder, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="for signals of 41 samples, not 40"):
        load_encoder(StructuredEncoder, pretrained_encoders()[0], 40)


def test_weights_of_another_class_or_version_are_refused(tmp_path):
    with pytest.raises(InputError, match="of the encoder “thesis”, not of “structured”"):
        load_network(StructuredEncoder, thesis_weights(1))
    with pytest.raises(InputError, match="of the encoder “structured”, not of “polar”"):
        load_momnet(encoder_name(1))
    write_tensors(tmp_path / "old.safetensors", "encoder", {"x": torch.ones(1)}, {"recipe": "{}"})
    with pytest.raises(InputError, match="another version of this library"):
        load_network(StructuredEncoder, tmp_path / "old.safetensors")
