"""Encoders as files: weights in safetensors, the recipe that made them as metadata and as JSON beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orbitrec.errors import InputError
from orbitrec.io.files import to_json, write_json
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.networks.encoders import ENCODERS, Encoder
from orbitrec.networks.momnet import MomNet, Setting
from orbitrec.networks.polar_momnet import PolarMomNet
from orbitrec.thesis.reference_momnet import PrintedMomNet

PRETRAINED = Path(__file__).parent / "weights"


def encoder_name(encoder: str, components: int) -> str:
    """The name of shipped weights, say ``mra-structured-2``: for mixtures of so many Gaussians."""
    return f"mra-{encoder}-{components}"


MOMNET = "momnet-polar"
"""The shipped network for cryo-EM."""


def pretrained_encoders() -> list[str]:
    """Names that :func:`load_encoder` knows."""
    return sorted(path.stem for path in PRETRAINED.glob("mra-*.safetensors"))


def write_encoder(path: Path | str, encoder: nn.Module, recipe: Mapping[str, object], dtype: torch.dtype) -> None:
    """Write weights in ``dtype`` to ``path``, and the recipe (which names the encoder and n) also beside it as JSON."""
    weights = {name: value.to(dtype) for name, value in encoder.state_dict().items()}
    write_tensors(path, "encoder", weights, {"recipe": to_json(recipe)})
    write_json(Path(path).with_suffix(".json"), recipe)


def load_encoder(name: str | Path, n: int | None = None) -> Encoder:
    """The encoder of shipped weights or of a file that :func:`write_encoder` wrote, in float32, on the CPU.

    Args:
        name: one of :func:`pretrained_encoders`, or a path that ends in .safetensors.
        n: samples of the signals it is wanted for, if that is to be checked now.

    Raises:
        InputError: if there is no such name or file, the file holds something else, or it is for another length.
    """
    weights, recipe = _read(name)
    if n is not None and n != recipe["n"]:
        raise InputError(f"{name} is for signals of {recipe['n']} samples, not {n}; train one for that length")
    if recipe["encoder"] not in ENCODERS:
        raise InputError(f"{name} is no encoder of signals; make one with: orbitrec train mra -o DIR")
    encoder = ENCODERS[recipe["encoder"]](recipe["n"])
    encoder.load_state_dict({key: value.float() for key, value in weights.items()})
    return encoder.eval()


def load_momnet(name: str | Path = MOMNET) -> MomNet:
    """MoM-net of the shipped weights or of a file that :func:`write_encoder` wrote, in float32, on the CPU.

    Raises:
        InputError: if there is no such name or file, or it holds something else.
    """
    weights, recipe = _read(name)
    if "setting" not in recipe["training"]:
        raise InputError(f"{name} is no MoM-net; make one with: orbitrec train momnet -o DIR")
    net = _blank_momnet(recipe["training"], weights)
    net.load_state_dict({key: value.float() for key, value in weights.items()})
    return net.eval()


def _blank_momnet(training: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MomNet:
    setting = Setting(**training["setting"])
    if "compression.functions" not in weights:
        return PrintedMomNet(setting, torch.Generator())
    kept = weights["compression.functions"].any(1).sum(1).tolist()
    return PolarMomNet(setting, tuple(kept), training["width"], training.get("proposals", 1))


def load_recipe(name: str | Path) -> dict[str, Any]:
    """How the encoder of that name or file was made: what :func:`write_encoder` was given.

    Raises:
        InputError: if there is no such name or file, or it holds something else.
    """
    return _read(name)[1]


def _read(name: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and recipe."""
    path = Path(name) if str(name).endswith(".safetensors") else PRETRAINED / f"{name}.safetensors"
    if path.parent == PRETRAINED and not path.exists():
        raise InputError(f"no weights are shipped as {name}; choose among {', '.join(pretrained_encoders())}")
    weights, metadata = read_tensors(path, "encoder", "make one with: orbitrec train mra -o DIR")
    return weights, json.loads(metadata["recipe"])
