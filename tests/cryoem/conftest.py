"""Particles of a phantom, and a second device where there is no GPU: it computes on the CPU and does not say so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from orbitrec.io.runs import new_run
from orbitrec.io.simulation import write_simulation
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.volumes.phantoms import protein_phantom
from orbitrec.volumes.voxel import VoxelVolume

PIXEL_A = 3.0

PRETENDED = "meta"  # of torch's devices the one that every build lets tensors name
aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
RESOLVED = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}
"""Signs that wait to be multiplied in are not known to a tensor that is wrapped."""


class Elsewhere(Tensor):
    """A tensor on the pretended device; ``held``: its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor):
        like = {"dtype": held.dtype, "device": PRETENDED, "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), **like)

    def __init__(self, held: Tensor):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} of a tensor on a device that is no longer there")


class PretendedDevice(TorchDispatchMode):
    """While it lasts, tensors may be on :data:`PRETENDED`, with numbers, and are refused what a GPU's are refused.

    An operation must have all its tensors on one device, but for copies, indices on the CPU, and tensors without axes
    where it goes element by element; and nothing goes past the operations, as ``numpy`` does. It cannot show how
    a GPU rounds and how fast it is.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = [each for each in tensors if isinstance(each, Elsewhere)]
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if not there:
            found = function(*args, **kwargs)
            return found if asked is None or torch.device(asked).type == "cpu" else tree_map(_wrapped, found)
        if function not in CROSSING:
            self._check(function, args, tensors)
        known = {id(each.held): each for each in there}  # in-place operations return what they were given
        found = RESOLVED.get(function, function)(*tree_map(_held, args), **tree_map(_held, kwargs))
        if (asked is not None and torch.device(asked).type == "cpu") or (
            function is aten.copy_.default and not isinstance(args[0], Elsewhere)
        ):
            return args[0] if function is aten.copy_.default else found
        return tree_map(lambda each: known.get(id(each)) if id(each) in known else _wrapped(each), found)

    @staticmethod
    def _check(function, args, tensors):
        indexing = function in INDEXING and isinstance(args[0], Elsewhere)
        if indexing:
            tensors = [args[0], *args[2:3]]
        here = [x for x in tensors if isinstance(x, Tensor) and not isinstance(x, Elsewhere)]
        numbers = (indexing or torch.Tag.pointwise in function.tags) and isinstance(tensors[0], Elsewhere)
        stray = [tuple(x.shape) for x in here if x.ndim or not numbers]
        if stray:
            raise RuntimeError(f"{function}: all tensors must be on the same device, those of shape {stray} are not")


def _held(each: object) -> object:
    return each.held if isinstance(each, Elsewhere) else each


def _wrapped(each: object) -> object:
    return Elsewhere(each) if isinstance(each, Tensor) else each


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a device that is not the CPU, on any machine."""
    made = torch.tensor  # goes past the operations

    def tensor(data, *, device=None, **options):
        return made(data, **options).to(device or "cpu")

    monkeypatch.setattr(torch, "tensor", tensor)
    with PretendedDevice():
        yield PRETENDED


@pytest.fixture(params=["pretended", "cuda:0"])
def elsewhere(request: pytest.FixtureRequest) -> str:
    """The pretended device, and the first GPU where there is one."""
    if request.param == "pretended":
        return request.getfixturevalue("pretended")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return request.param


@pytest.fixture(scope="session")
def phantom_particles() -> Callable[[Path, int, int, float], Path]:
    """particles.star, truth.star and truth.mrc of a phantom at five defoci: of (folder, box, particles, SNR)."""

    def made(path: Path, n: int, count: int, snr: float) -> Path:
        generator = torch.Generator().manual_seed(1)
        grid = protein_phantom(40, 0.27 * n, torch.Generator().manual_seed(5)).to_grid(n).float()
        one = torch.ones(count, dtype=torch.float64)
        defocus = 2000 + 1000.0 * (torch.arange(count) % 5).double()
        ctf = CTFParameters(defocus + 150, defocus - 150, 40 * one, 300 * one, 2 * one, 0.1 * one, 0 * one)
        poses = random_poses(count, generator, shift_px=1.0)
        with new_run(path) as run:
            write_simulation(run, ParticleSimulation(VoxelVolume(grid), n, PIXEL_A, *poses, ctf), snr, generator)
        return path

    return made
