"""Networks as files: weights in safetensors, their provenance as metadata and as JSON beside them.

A file says which class of network it is of. Loading names the class that is wanted; a file of another is refused.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.files import to_json, write_json
from orbitrec.io.plain import from_plain
from orbitrec.io.tensors import read_tensors, write_tensors
from orbitrec.networks.base import StoredNetwork
from orbitrec.networks.encoders import Encoder
from orbitrec.networks.polar_momnet import PolarMomNet
from orbitrec.networks.provenance import Provenance

PRETRAINED = Path(__file__).parent / "weights"
MOMNET = "momnet-polar"
"""The pretrained network for cryo-EM."""

N = TypeVar("N", bound=StoredNetwork)
E = TypeVar("E", bound=Encoder)


def encoder_name(components: int) -> str:
    """The name of pretrained weights, say ``mra-structured-2``: for mixtures of so many Gaussians."""
    return f"mra-structured-{components}"


def pretrained_encoders() -> list[str]:
    """Names of the pretrained weights for multireference alignment."""
    return sorted(path.stem for path in PRETRAINED.glob("mra-*.safetensors"))


def write_network(path: Path | str, network: StoredNetwork, provenance: Provenance, dtype: torch.dtype) -> None:
    """Write weights and provenance to one file, and the provenance also beside it as JSON.

    Args:
        path: the file, which should end in .safetensors.
        network: whose weights.
        provenance: how they were made.
        dtype: of the numbers in the file.

    Raises:
        InputError: if ``path`` cannot be written.
    """
    weights = {name: value.to(dtype) for name, value in network.state_dict().items()}
    write_tensors(path, "encoder", weights, {"provenance": to_json(asdict(provenance))})
    write_json(Path(path).with_suffix(".json"), asdict(provenance))


def load_network(network: type[N], source: str | Path) -> N:
    """A network of that class with the weights of ``source``, in float32, on the CPU.

    Args:
        network: the class.
        source: a name of pretrained weights, or the path, ending in .safetensors, that :func:`write_network` wrote.

    Raises:
        InputError: if there is no such name or file, or it holds something else than that network's weights.
    """
    weights, provenance = _read(source)
    if provenance.encoder != network.name:
        raise InputError(
            f"{source} holds weights of the encoder “{provenance.encoder}”, not of “{network.name}”; give a file of "
            "the latter"
        )
    net = network.blank(provenance.training, weights)
    net.load_state_dict({key: value.float() for key, value in weights.items()})
    return net.eval()


def load_encoder(encoder: type[E], source: str | Path, n: int | None = None) -> E:
    """:func:`load_network` for multireference alignment.

    Args:
        encoder: the class.
        source: a name of pretrained weights, or the path of a file of weights.
        n: samples of the signals it is wanted for, if that is to be checked now.

    Returns:
        The encoder.

    Raises:
        InputError: as :func:`load_network`, or if the encoder is for signals of another length.
    """
    found = load_network(encoder, source)
    if n is not None and n != found.n:
        raise InputError(f"{source} is for signals of {found.n} samples, not {n}; train one for that length")
    return found


def load_momnet(source: str | Path = MOMNET) -> PolarMomNet:
    """MoM-net's pretrained weights, or those of ``source``, as :func:`load_network` does."""
    return load_network(PolarMomNet, source)


def load_provenance(source: str | Path) -> Provenance:
    """How the weights of that name or file were made.

    Raises:
        InputError: if there is no such name or file, or it holds something else.
    """
    return _read(source)[1]


def _read(source: str | Path) -> tuple[dict[str, Tensor], Provenance]:
    path = Path(source) if str(source).endswith(".safetensors") else PRETRAINED / f"{source}.safetensors"
    if path.parent == PRETRAINED and not path.exists():
        names = ", ".join(file.stem for file in sorted(PRETRAINED.glob("*.safetensors")))
        raise InputError(f"there are no pretrained weights {source}; choose among {names}")
    weights, metadata = read_tensors(path, "encoder", "give a file of trained weights")
    try:
        return weights, from_plain(Provenance, json.loads(metadata["provenance"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} was written by another version of this library; train the network anew") from error
