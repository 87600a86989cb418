"""Aberrations as tables of particles state them: RELION's columns, and cryoSPARC's fields."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.models.aberrations import Aberrations, beam_tilt_zernike
from orbitrec.models.ctf import electron_wavelength_A

BEAM_TILT_COLUMNS = ["rlnBeamTiltX", "rlnBeamTiltY"]
ODD_COLUMN, EVEN_COLUMN = "rlnOddZernike", "rlnEvenZernike"
MAGNIFICATION_COLUMNS = ["rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"]
RELION_COLUMNS = [*BEAM_TILT_COLUMNS, ODD_COLUMN, EVEN_COLUMN, *MAGNIFICATION_COLUMNS]
CRYOSPARC_FIELDS = {"ctf/tilt_A": 2, "ctf/trefoil_A": 2, "ctf/tetra_A": 4, "ctf/anisomag": 4}
"""Field → numbers in it. ``ctf/shift_A`` is a displacement, which origins take up."""
_ODD_TERMS, _EVEN_TERMS = 6, 9  # up to the third and the fourth degree


def relion_aberrations(
    path: Path, columns: Mapping[str, np.ndarray], groups: Int[np.ndarray, "N"]
) -> Aberrations | None:
    """Aberrations of RELION's columns; None where there are none of them.

    Args:
        path: the table.
        columns: for every image, what the table has of :data:`RELION_COLUMNS`, ``rlnVoltage`` and
            ``rlnSphericalAberration``.
        groups: optics group of every image.

    Returns:
        The distinct aberrations of each group.

    Raises:
        InputError: if a value is not a number, or a list not one of numbers.
    """
    if not set(RELION_COLUMNS) & set(columns):
        return None
    table = pd.DataFrame({**columns, "group": groups}).drop_duplicates(ignore_index=True)

    def numbers(column: str, otherwise: float) -> Float[Tensor, "g"]:
        given = table[column] if column in table else pd.Series(otherwise, table.index)
        values = torch.from_numpy(np.array(pd.to_numeric(given, errors="coerce"), dtype=np.float64))
        if not bool(values.isfinite().all()):
            raise InputError(f"{path}: {column} holds {given[int((~values.isfinite()).nonzero()[0])]}, not a number")
        return values

    odd, even = _lists(path, table, ODD_COLUMN, _ODD_TERMS), _lists(path, table, EVEN_COLUMN, _EVEN_TERMS)
    if {"rlnVoltage", "rlnSphericalAberration"} <= set(columns):
        tilt = torch.stack([numbers(column, 0.0) for column in BEAM_TILT_COLUMNS], dim=1)
        wavelength = electron_wavelength_A(numbers("rlnVoltage", 0.0))
        odd[:, :_ODD_TERMS] += beam_tilt_zernike(tilt, numbers("rlnSphericalAberration", 0.0), wavelength)
    identity = torch.eye(2, dtype=torch.float64).flatten().tolist()
    matrix = [numbers(column, one) - one for column, one in zip(MAGNIFICATION_COLUMNS, identity, strict=True)]
    magnification = torch.stack(matrix, dim=1).unflatten(1, (2, 2))
    return Aberrations(odd, even, magnification, torch.from_numpy(np.array(table["group"], dtype=np.int64)))


def _lists(path: Path, table: pd.DataFrame, column: str, width: int) -> Float[Tensor, "g _"]:
    """Lists of numbers as RELION writes them, ``[1,2,3]``, filled up with zeros to at least ``width``."""
    given = table[column].astype(str).tolist() if column in table else ["[]"] * len(table)
    rows = []
    for text in given:
        entries = text.strip().removeprefix("[").removesuffix("]")
        try:
            rows.append([float(entry) for entry in entries.split(",")] if entries.strip() else [])
        except ValueError:
            rows.append([math.nan])
        if not all(map(math.isfinite, rows[-1])):
            raise InputError(f"{path}: {column} holds {text}, not a list of numbers; correct it")
    out = torch.zeros(len(rows), max(width, *map(len, rows)), dtype=torch.float64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return out


def cryosparc_aberrations(
    fields: Mapping[str, Float[np.ndarray, "N _"]],
    voltage_kV: Float[np.ndarray, "N"],
    groups: Int[np.ndarray, "N"],
) -> Aberrations | None:
    """Aberrations of cryoSPARC's fields; None where there are none of them or all are zero.

    With λ the wavelength and r in 1/Å, the phases are ``2πλ² tilt r² (x, y)``, ``2πλ²/3 trefoil r³ (cos, sin) 3φ``,
    ``2πλ³ tetra₀₁ r⁴ (cos, sin) 2φ`` and ``πλ³/2 tetra₂₃ r⁴ (cos, sin) 4φ``, up to signs: ``tilt_A`` is C_s sin τ, as
    pyem reads it. ``anisomag`` is M − 1.

    Args:
        fields: for every image, what the table has of :data:`CRYOSPARC_FIELDS`.
        voltage_kV: of every image.
        groups: optics group of every image.

    Returns:
        The distinct aberrations of each group.
    """
    if not any(values.any() for values in fields.values()):
        return None
    none = {name: np.zeros((len(groups), width)) for name, width in CRYOSPARC_FIELDS.items()}
    rows = np.unique(np.column_stack([*{**none, **fields}.values(), voltage_kV, groups]), axis=0)
    table = torch.from_numpy(rows)
    tilt, trefoil, second, fourfold, magnification, last = table.split([2, 2, 2, 2, 4, 2], dim=1)
    wavelength = electron_wavelength_A(last[:, :1])
    cubic, quartic = 2 * math.pi * wavelength.square(), 2 * math.pi * wavelength**3
    x, y = (cubic * tilt / 3).unbind(1)  # r²x is a third of R_3^1 cos φ + 2 R_1^1 cos φ
    cos3, sin3 = (cubic * trefoil / 3).unbind(1)
    cos2, sin2 = (quartic * second / 4).unbind(1)  # r⁴ is a quarter of R_4^2 + 3 R_2^2
    cos4, sin4 = (quartic * fourfold / 4).unbind(1)
    zero = torch.zeros_like(x)
    odd = torch.stack([2 * y, 2 * x, sin3, y, x, cos3], dim=1)
    even = torch.stack([zero, 3 * sin2, zero, 3 * cos2, sin4, sin2, zero, cos2, cos4], dim=1)
    return Aberrations(odd, even, magnification.unflatten(1, (2, 2)), last[:, 1].long())
