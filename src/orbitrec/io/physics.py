"""Values of a table that no microscope has, and values that one hardly has: wrong units, mostly."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from orbitrec.errors import InputError
from orbitrec.models.ctf import CTFParameters

LIMITS = {
    "defocus_u_A": (-2e5, 2e5, "Å"),
    "defocus_v_A": (-2e5, 2e5, "Å"),
    "voltage_kV": (20.0, 1500.0, "kV"),
    "cs_mm": (-20.0, 20.0, "mm"),
    "amplitude_contrast": (0.0, 1.0, "(a share)"),
}
"""Least and largest value that any instrument has, and the unit that tables have it in."""
PIXEL_LIMITS_A = (0.02, 500.0)
MICROMETRES_BELOW = 100.0
"""Å of defocus in the median below which micrographs would show nothing: such a column is in µm."""
NANOMETRES_BELOW = 2500.0
"""Å of defocus in the median that are rare without a phase plate, and common as nm."""
METRES = (0.0011, 0.006)
"""mm of spherical aberration that would be usual ones if they were m; 0.001 is written for corrected microscopes."""


def ctf_of_columns(
    path: Path, values: Mapping[str, Float[np.ndarray, "N"]], columns: Mapping[str, str]
) -> CTFParameters:
    """CTF parameters of a table's columns.

    Args:
        path: the table.
        values: of every parameter, in the units of :class:`CTFParameters`.
        columns: what the table calls each.

    Returns:
        The parameters.

    Raises:
        InputError: if a value is outside :data:`LIMITS`, or all defocus values are as in µm.
    """
    for name, (low, high, unit) in LIMITS.items():
        bad = np.flatnonzero((values[name] < low) | (values[name] > high))
        if bad.size:
            raise InputError(
                f"{path}: {columns[name]} of row {bad[0] + 1} is {values[name][bad[0]]:g}, which cannot be: it is from "
                f"{low:g} to {high:g} {unit}; correct the value or its unit"
            )
    typical_A = _typical_defocus_A(values)
    if 0 < typical_A < MICROMETRES_BELOW:
        raise InputError(
            f"{path}: {columns['defocus_u_A']} is {typical_A:g} in the median and should be in Å: if these are µm, "
            "multiply the defocus columns by 10000"
        )
    return CTFParameters(**{name: torch.from_numpy(column) for name, column in values.items()})


def doubtful_values(ctf: CTFParameters, columns: Mapping[str, str]) -> list[str]:
    """One sentence for each column that is possible and yet looks like one in another unit.

    Args:
        ctf: the parameters.
        columns: what the table calls each.

    Returns:
        The sentences; most tables have none.
    """
    values = {name: getattr(ctf, name).numpy() for name in ("defocus_u_A", "defocus_v_A", "cs_mm", "phase_shift_deg")}
    sentences, typical_A = [], _typical_defocus_A(values)
    if 0 < typical_A < NANOMETRES_BELOW and not values["phase_shift_deg"].any():
        sentences.append(
            f"{columns['defocus_u_A']} is {typical_A:g} Å in the median, closer to focus than most micrographs are: if "
            "these are nm, multiply the defocus columns by 10."
        )
    defocus_A = np.abs(values["defocus_u_A"] + values["defocus_v_A"]) / 2
    micrometres = np.flatnonzero((defocus_A > 0) & (defocus_A < MICROMETRES_BELOW))
    if micrometres.size and not values["phase_shift_deg"].any():
        row = micrometres[0]
        sentences.append(
            f"{columns['defocus_u_A']} is {defocus_A[row]:g} Å in row {row + 1} and below {MICROMETRES_BELOW:g} Å in "
            f"{micrometres.size} of {len(defocus_A)} rows: if these are µm, multiply them by 10000."
        )
    low, high = METRES
    likely = np.flatnonzero((values["cs_mm"] > low) & (values["cs_mm"] < high))
    if likely.size:
        found = values["cs_mm"][likely[0]]
        sentences.append(
            f"{columns['cs_mm']} of row {likely[0] + 1} is {found:g} mm: if these are m, the usual {1000 * found:g} mm "
            "are meant."
        )
    return sentences


def checked_pixel_sizes_A(path: Path, sizes_A: Float[np.ndarray, "N"], column: str) -> Float[np.ndarray, "N"]:
    """Pixel sizes that an instrument can have.

    Args:
        path: the table.
        sizes_A: of the images.
        column: what the table calls them.

    Returns:
        The pixel sizes, rounded as tables are.

    Raises:
        InputError: if one is outside :data:`PIXEL_LIMITS_A`.
    """
    low, high = PIXEL_LIMITS_A
    bad = np.flatnonzero((sizes_A < low) | (sizes_A > high))
    if bad.size:
        raise InputError(
            f"{path}: row {bad[0] + 1} has a pixel size of {sizes_A[bad[0]]:g} Å ({column}), which cannot be; correct "
            "it"
        )
    return sizes_A.round(6)


def _typical_defocus_A(values: Mapping[str, Float[np.ndarray, "N"]]) -> float:
    return float(np.median(np.abs(values["defocus_u_A"] + values["defocus_v_A"]) / 2))
