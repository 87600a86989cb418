"""What tests compare with and no program needs: direct forms on the Cartesian grid of an image's transform."""

import json
from collections.abc import Callable

import numpy as np
import torch

from orbitrec.cryoem.reconstruct import CombinedMap, alternate_halves, combined, half_map
from orbitrec.densities.von_mises_fisher import VonMisesFisherMixture
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import frequency_vectors, radial_frequencies
from orbitrec.io.particles import ParticleStack
from orbitrec.models.noise import Noise, NoiseSpectrum
from orbitrec.moments.analytic import Moments
from orbitrec.volumes.base import Volume

TWO_CAPS = VonMisesFisherMixture(
    torch.tensor([[0.6, 0.0, 0.8], [0.0, -1.0, 0.0]], dtype=torch.float64),
    torch.tensor([3.0, 2.0], dtype=torch.float64),
    torch.tensor([0.7, 0.3], dtype=torch.float64),
)
"""Uneven views, neither even nor odd."""


def cartesian_templates(volume: Volume, n: int, rotations: torch.Tensor) -> torch.Tensor:
    """Templates on the Cartesian K₂ grid, unitary: ``v̂(R (kx, ky, 0)) / n`` as one mode of n² nodes (2.8)."""
    plane = frequency_vectors(n, dtype=rotations.dtype).reshape(-1, 2)
    return volume.fourier(torch.einsum("qij,pj->qpi", rotations[..., :2], plane))[:, None] / n


def shifted_cartesian_moments(moments: Moments, points: torch.Tensor, sigma: torch.Tensor) -> Moments:
    """Moments on Cartesian frequencies (radians per pixel) after Gaussian shifts: the elementwise factors of (3.12)."""
    apart, variance = (points[:, None] - points).square().sum(-1), sigma.to(points).square()[..., None, None]
    return Moments(
        moments.first * torch.exp(-variance * points.square().sum(-1) / 2),
        moments.second * torch.exp(-variance[..., None] * apart / 2),
        moments.weights,
    )


def whitened(images: torch.Tensor, noise: NoiseSpectrum) -> torch.Tensor:
    """Images with every Fourier coefficient divided by the noise's standard deviation there."""
    k = radial_frequencies(images.shape[-1], dtype=images.dtype)
    return centred_ifft(centred_fft(images) * noise.at(k).rsqrt()).real


def reconstruct(
    stack: ParticleStack,
    noise: Noise,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    radius: float,
    *,
    chunk: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> CombinedMap:
    """Half-maps of alternate particles at known poses, and their combination."""
    halves = alternate_halves(len(stack))
    first, second = (
        half_map(
            stack, noise, (halves == half).nonzero().flatten(), rotations, shifts_px, chunk=chunk, progress=progress
        )
        for half in (1, 2)
    )
    return combined((first, second), stack.n, radius, torch.Generator().manual_seed(0))


def _lz4_literals(data: bytes) -> bytes:
    """LZ4 of literals only."""
    out, more = bytes([min(len(data), 15) << 4]), len(data) - 15
    while more >= 0:
        out, more = out + bytes([min(more, 255)]), more - 255
    return out + data


def _snappy_literals(data: bytes) -> bytes:
    """Raw Snappy of one literal."""
    return bytes([*_varint(len(data)), 0xF4, *(len(data) - 1).to_bytes(2, "little")]) + data


def compressed_table(records: np.ndarray, lz4: bool) -> bytes:
    """The documented stream, written by hand, with everything but the uids packed as literals."""
    heap, columns, dtype = b"\0", [], []
    for name in records.dtype.names:
        column, kind = records[name], records.dtype[name]
        if kind.kind == "S" and lz4:
            places = {}
            for text in dict.fromkeys(column.tolist()):
                places[text], heap = len(heap) if text else 0, heap + (text + b"\0" if text else b"")
            column, kind_text = np.array([places[text] for text in column.tolist()], "<u8"), "|O"
        else:
            kind_text = kind.base.str
        dtype.append([name, kind_text, *([list(kind.shape)] if kind.shape else [])])
        data = column.tobytes()
        columns.append(data if name == "uid" else _lz4_literals(data) if lz4 else _snappy_literals(data))
    packed = [name for name in records.dtype.names if name != "uid"]
    header = {"dtype": dtype, "compression": "lz4" if lz4 else "snap", "compressed_fields": packed}
    if lz4:
        header["length"] = len(records)
    text = json.dumps(header).encode()
    body = b"".join(len(column).to_bytes(4, "little") + column for column in columns)
    magic = b"\x95CSDAT" if lz4 else b"\x94CSDAT"
    return magic + len(text).to_bytes(4, "little") + text + body + (heap if lz4 else b"")


def _varint(number: int) -> list[int]:
    return [*([number & 127 | 128] if number > 127 else [number]), *(_varint(number >> 7) if number > 127 else [])]
