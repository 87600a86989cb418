"""Names and values of RELION's columns, and the tables of new particle sets."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
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
# The stack's name may hold an @ too, but what looks like a number before it is an index.
_IMAGE = re.compile(r"(?:(\d{1,15})@|(?![-+.\d]+@))(.+)", re.DOTALL)
_FOREIGN_FORMAT = re.compile(r":(spi|stk|hdf|img|hed|inf|em|tiff?|raw)$")


def angle_columns(rotations: Float[Tensor, "N 3 3"]) -> dict[str, Float[np.ndarray, "N"]]:
    """RELION's columns of Euler angles in degrees, of rotations in its convention."""
    angles = matrix_to_euler(rotations.detach().cpu().double()).numpy()
    return dict(zip(ANGLE_COLUMNS, angles.T.round(6), strict=True))


def origin_columns(shifts: Float[Tensor, "N 2"], in_angstrom: bool) -> dict[str, Float[np.ndarray, "N"]]:
    """RELION's columns of origins, in Å (3.1) or pixels (3.0), of displacements of the content in the same unit."""
    origins = -shifts.detach().cpu().double().numpy().round(6) + 0.0  # + 0.0 turns -0.0 into 0.0
    return dict(zip(ORIGIN_COLUMNS_A if in_angstrom else ORIGIN_COLUMNS_PX, origins.T, strict=True))


def parsed_image_names(
    path: Path, images: Sequence[str]
) -> tuple[Int[np.ndarray, "N"], list[str], Int[np.ndarray, "N"]]:
    """Take ``index@stack`` apart; a name without an index is the first image of its stack.

    Returns:
        Index of every image in its stack, counted from 1; distinct names of stacks; which of them each image is in.

    Raises:
        InputError: if a name is not of that form, counts from 0, or names another format.
    """
    parts = [_IMAGE.fullmatch(image) for image in images]
    bad = next((row for row, part in enumerate(parts) if part is None), None)
    if bad is not None:
        raise InputError(f"{path}: rlnImageName of row {bad + 1} is {images[bad]}, not of the form index@stack")
    index = np.array([int(part[1] or 1) for part in parts if part], dtype=np.int64)
    if (index == 0).any():
        row = int(np.argmax(index == 0))
        raise InputError(
            f"{path}: row {row + 1} names image {images[row]}, but RELION counts the images of a stack from 1; if the "
            "table counts from 0, add 1 to every index"
        )
    codes, names = pd.factorize(np.array([part[2] for part in parts if part], dtype=object))
    foreign = next((name for name in names if _FOREIGN_FORMAT.search(name)), None)
    if foreign is not None:
        raise InputError(f"{path}: {foreign} is no MRC stack; convert it to .mrcs")
    return index, list(names), np.asarray(codes, dtype=np.int64)


def without_format(name: str) -> str:
    """A stack's name without the format that RELION and Scipion may append to it, as in ``stack.mrc:mrcs``."""
    return re.sub(r"(?<=.):(?i:mrcs?)$", "", name)


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
