"""Names and values of RELION's columns, and the tables of new particle sets."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.geometry.rotations import matrix_to_euler
from orbitrec.io.particle_table import ParticleStatistics
from orbitrec.io.star import Blocks
from orbitrec.models.ctf import CTFParameters

CTF_COLUMNS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "voltage_kV": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
ANGLE_COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGIN_COLUMNS_A = ["rlnOriginXAngst", "rlnOriginYAngst"]
ORIGIN_COLUMNS_PX = ["rlnOriginX", "rlnOriginY"]


def angle_columns(rotations: Float[Tensor, "N 3 3"]) -> dict[str, Float[np.ndarray, "N"]]:
    """RELION's columns of Euler angles in degrees, of rotations in its convention."""
    angles = matrix_to_euler(rotations.detach().cpu().double()).numpy()
    return dict(zip(ANGLE_COLUMNS, angles.T.round(6), strict=True))


def origin_columns(shifts: Float[Tensor, "N 2"], in_angstrom: bool) -> dict[str, Float[np.ndarray, "N"]]:
    """RELION's columns of origins, in Å (3.1) or pixels (3.0), of displacements of the content in the same unit."""
    origins = -shifts.detach().cpu().double().numpy().round(6) + 0.0  # + 0.0 turns -0.0 into 0.0
    return dict(zip(ORIGIN_COLUMNS_A if in_angstrom else ORIGIN_COLUMNS_PX, origins.T, strict=True))


def statistics_columns(statistics: ParticleStatistics) -> dict[str, Float[np.ndarray, "N"] | Int[np.ndarray, "N"]]:
    """RELION's columns of what is known of particles beside their poses.

    RELION keeps scales of groups in its model files; here every particle is a group of its own.
    """
    return {
        "rlnLogLikeliContribution": statistics.log_likelihood.double().numpy().round(6),
        "rlnMaxValueProbDistribution": statistics.max_probability.double().numpy().round(6),
        "rlnNrOfSignificantSamples": statistics.significant_samples.numpy(),
        "rlnParticleFigureOfMerit": statistics.inlier_probability.double().numpy().round(6),
        "rlnGroupScaleCorrection": statistics.scale.double().numpy().round(6),
    }


def particle_tables(
    stack_name: str,
    count: int,
    n: int,
    pixel_size_A: float,
    *,
    ctf: CTFParameters | None = None,
    rotations: Float[Tensor, "N 3 3"] | None = None,
    shifts_px: Float[Tensor, "N 2"] | None = None,
) -> Blocks:
    """RELION 3.1 tables for the ``count`` images of one stack, to be written with ``write_star``.

    Args:
        stack_name: the stack as the STAR file names it: relative to its own folder.
        count: number N of images.
        n: box size in pixels.
        pixel_size_A: pixel size in Å.
        ctf: CTF parameters; voltage, Cs and amplitude contrast make the optics groups. No columns where None.
        rotations: poses; no angle or origin columns where None.
        shifts_px: displacements (x, y) of the content in pixels, 0 where None.

    Returns:
        The blocks ``optics`` and ``particles``.
    """
    names = [f"{index + 1:06d}@{stack_name}" for index in range(count)]
    particles = pd.DataFrame({"rlnImageName": pd.Series(names, dtype=object)})  # a name may not be UTF-8
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"]}
    group = np.zeros(count, dtype=np.int64)
    if ctf is not None:
        shared = ["voltage_kV", "cs_mm", "amplitude_contrast"]
        rows = np.stack([getattr(ctf, name).numpy() for name in shared], axis=1)
        distinct, group = np.unique(rows, axis=0, return_inverse=True)
        optics["rlnOpticsGroup"] = list(range(1, len(distinct) + 1))
        optics["rlnOpticsGroupName"] = [f"opticsGroup{index + 1}" for index in range(len(distinct))]
        optics |= {CTF_COLUMNS[name]: list(values) for name, values in zip(shared, distinct.T, strict=True)}
        for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_deg"):
            particles[CTF_COLUMNS[name]] = getattr(ctf, name).numpy()
        particles["rlnPhaseShift"] = ctf.phase_shift_deg.numpy()
    particles["rlnOpticsGroup"] = group.reshape(-1) + 1
    if rotations is not None:
        shifts_A = pixel_size_A * (torch.zeros(count, 2) if shifts_px is None else shifts_px).double()
        particles = particles.assign(**angle_columns(rotations), **origin_columns(shifts_A, in_angstrom=True))
    optics_table = pd.DataFrame(optics).assign(rlnImagePixelSize=pixel_size_A, rlnImageSize=n, rlnImageDimensionality=2)
    return {"optics": optics_table, "particles": particles}
