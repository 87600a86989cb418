"""orbitrec: orbit recovery by moments and likelihood.

Multireference alignment and single-particle cryo-EM from one set of tensors. A first use::

    import orbitrec

    result = orbitrec.abinitio(orbitrec.open_particles("particles.star"))
    result.save("run")

Names are imported when they are first used, so that ``import orbitrec`` takes no time. Everything else is in the rooms:
``orbitrec.inference``, ``orbitrec.moments``, ``orbitrec.optim`` and so on, see ``docs/architecture.md``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from orbitrec.api import (
        Reconstruction as Reconstruction,
    )
    from orbitrec.api import (
        abinitio as abinitio,
    )
    from orbitrec.api import (
        evaluate as evaluate,
    )
    from orbitrec.api import (
        open_particles as open_particles,
    )
    from orbitrec.api import (
        refine as refine,
    )
    from orbitrec.api import (
        simulate_particles as simulate_particles,
    )
    from orbitrec.classification import classify2d as classify2d
    from orbitrec.cryoem.accumulate import accumulate_moments as accumulate_moments
    from orbitrec.cryoem.classes.config import ClassesConfig as ClassesConfig
    from orbitrec.cryoem.config import AbInitioConfig as AbInitioConfig
    from orbitrec.cryoem.config import RefineConfig as RefineConfig
    from orbitrec.errors import InputError as InputError
    from orbitrec.evaluation.alignment import align as align
    from orbitrec.evaluation.fsc import fourier_shell_correlation as fourier_shell_correlation
    from orbitrec.geometry.rotations import (
        euler_to_matrix as euler_to_matrix,
    )
    from orbitrec.geometry.rotations import (
        matrix_to_euler as matrix_to_euler,
    )
    from orbitrec.geometry.rotations import (
        random_rotations as random_rotations,
    )
    from orbitrec.io.mrc import read_map as read_map
    from orbitrec.io.mrc import write_map as write_map
    from orbitrec.moments.matching import match_moments as match_moments
    from orbitrec.mra.methods import recover_signal as recover_signal
    from orbitrec.mra.model import PeriodicMRA as PeriodicMRA
    from orbitrec.mra.problem import MRAProblem as MRAProblem
    from orbitrec.optim import solvers as solvers
    from orbitrec.optim.driver import run as run
    from orbitrec.optim.termination import Termination as Termination
    from orbitrec.volumes.fourier_net import FourierNet as FourierNet
    from orbitrec.volumes.gaussians import GaussianMixture as GaussianMixture
    from orbitrec.volumes.phantoms import protein_phantom as protein_phantom
    from orbitrec.volumes.spherical_bessel import SphericalBesselVolume as SphericalBesselVolume
    from orbitrec.volumes.voxel import VoxelVolume as VoxelVolume

_HOMES = {
    "orbitrec.api": (
        "Reconstruction", "abinitio", "evaluate", "open_particles", "refine", "simulate_particles",
    ),
    "orbitrec.classification": ("classify2d",),
    "orbitrec.cryoem.accumulate": ("accumulate_moments",),
    "orbitrec.cryoem.classes.config": ("ClassesConfig",),
    "orbitrec.cryoem.config": ("AbInitioConfig", "RefineConfig"),
    "orbitrec.errors": ("InputError",),
    "orbitrec.evaluation.alignment": ("align",),
    "orbitrec.evaluation.fsc": ("fourier_shell_correlation",),
    "orbitrec.geometry.rotations": ("euler_to_matrix", "matrix_to_euler", "random_rotations"),
    "orbitrec.io.mrc": ("read_map", "write_map"),
    "orbitrec.moments.matching": ("match_moments",),
    "orbitrec.mra.methods": ("recover_signal",),
    "orbitrec.mra.model": ("PeriodicMRA",),
    "orbitrec.mra.problem": ("MRAProblem",),
    "orbitrec.optim": ("solvers",),
    "orbitrec.optim.driver": ("run",),
    "orbitrec.optim.termination": ("Termination",),
    "orbitrec.volumes.fourier_net": ("FourierNet",),
    "orbitrec.volumes.gaussians": ("GaussianMixture",),
    "orbitrec.volumes.phantoms": ("protein_phantom",),
    "orbitrec.volumes.spherical_bessel": ("SphericalBesselVolume",),
    "orbitrec.volumes.voxel": ("VoxelVolume",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:  # noqa: ANN401 — as many types as there are names
    if name not in _HOME:
        raise AttributeError(f"orbitrec offers no {name!r}; dir(orbitrec) lists what it offers")
    module = import_module(_HOME[name])
    value = import_module("orbitrec.optim.solvers") if name == "solvers" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
