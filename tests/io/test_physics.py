"""Values in another unit than the column's: refused where no microscope has them, told of where one may."""

from pathlib import Path

import numpy as np
import pytest

from orbitrec.errors import InputError
from orbitrec.io.cryosparc.table import CTF_FIELDS
from orbitrec.io.particle_table import ParticleTable
from orbitrec.io.relion_tables import CTF_COLUMNS
from orbitrec.io.tables import read_table

GOOD = {
    "defocus_u_A": [15000.0, 21000.0, 9000.0], "defocus_v_A": [14000.0, 20000.0, 9000.0],
    "voltage_kV": [300.0, 200.0, 120.0], "cs_mm": [2.7, 0.001, 0.0], "amplitude_contrast": [0.1, 0.07, 0.15],
}  # fmt: skip


def _defocus(*values: float) -> dict[str, object]:
    return {"defocus_u_A": values, "defocus_v_A": values}


def _table(folder: Path, dialect: str, pixel_A: float = 1.5, **changed: object) -> ParticleTable:
    """Three particles with these parameters; a number stands for all of them."""
    values = {name: np.resize(changed.get(name, good), 3) for name, good in GOOD.items()}
    if dialect == "relion":
        names = ["rlnImageName", "rlnImagePixelSize", "rlnDefocusAngle", *(CTF_COLUMNS[name] for name in values)]
        rows = [[f"{i + 1}@a.mrcs", pixel_A, 0, *(column[i] for column in values.values())] for i in range(3)]
        lines = [*(f"_{name}" for name in names), *(" ".join(map(str, row)) for row in rows)]
        (folder / "p.star").write_text("data_\nloop_\n" + "\n".join(lines) + "\n")
        return read_table(folder / "p.star")
    fields = [("uid", "<u8"), ("blob/path", "S6"), ("blob/idx", "<u4"), ("blob/psize_A", "<f8")]
    records = np.zeros(3, [*fields, *((field, "<f8") for field in CTF_FIELDS.values())])
    records["blob/path"], records["blob/psize_A"] = b"a.mrcs", pixel_A
    for name, column in values.items():
        records[CTF_FIELDS[name]] = column
    with (folder / "p.cs").open("wb") as file:
        np.save(file, records)
    return read_table(folder / "p.cs")


REFUSED = {
    "voltage in V": ({"voltage_kV": [300.0, 300000.0, 300.0]}, "voltage_kV", "of row 2 is 300000, which cannot be"),
    "voltage in MV": ({"voltage_kV": 0.3}, "voltage_kV", "of row 1 is 0.3, which cannot be: it is from 20 to 1500 kV"),
    "Cs in µm": ({"cs_mm": [2.7, 2.7, 2700.0]}, "cs_mm", "of row 3 is 2700, which cannot be"),
    "contrast in %": ({"amplitude_contrast": 10.0}, "amplitude_contrast", "of row 1 is 10, which cannot be"),
    "a failed fit": ({"defocus_v_A": [1e4, 9e6, 1e4]}, "defocus_v_A", "of row 2 is 9e[+]06, which cannot be"),
    "defocus in µm": (_defocus(1.5, 2.1, 0.9), "defocus_u_A", "is 1.5 in the median .* these are µm"),
    "defocus in m": (_defocus(1.5e-6), "defocus_u_A", "is 1.5e-06 in the median"),
}


@pytest.mark.parametrize("dialect", ["relion", "cryosparc"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_microscope_has_is_named(tmp_path, dialect, case):
    changed, name, sentence = REFUSED[case]
    column = (CTF_COLUMNS if dialect == "relion" else CTF_FIELDS)[name]
    with pytest.raises(InputError, match=f"p.(star|cs): {column} {sentence}"):
        _table(tmp_path, dialect, **changed).ctf()


DOUBTFUL = {
    "defocus in nm": (_defocus(1500.0, 2100.0, 900.0), "defocus_u_A", "is 1500 Å in the median"),
    "one in µm": (_defocus(15000.0, 1.5, 9000.0), "defocus_u_A", "is 1.5 Å in row 2 and below 100 Å in 1 of 3 rows"),
    "Cs in m": ({"cs_mm": [0.0, 0.0027, 0.0027]}, "cs_mm", "of row 2 is 0.0027 mm: if these are m, the usual 2.7 mm"),
}


@pytest.mark.parametrize("dialect", ["relion", "cryosparc"])
@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_a_microscope_hardly_has_is_told(tmp_path, dialect, case):
    changed, name, sentence = DOUBTFUL[case]
    table = _table(tmp_path, dialect, **changed)
    assert table.ctf().cs_mm.tolist() == np.resize(changed.get("cs_mm", GOOD["cs_mm"]), 3).tolist()
    (told,) = table.doubtful_values()
    assert f"{(CTF_COLUMNS if dialect == 'relion' else CTF_FIELDS)[name]} {sentence}" in told


@pytest.mark.parametrize("dialect", ["relion", "cryosparc"])
def test_what_is_common_is_not(tmp_path, dialect):
    """With overfocus, a corrector, and images in focus with their phase shifted."""
    for changed in (
        {},
        _defocus(-12000.0, 15000.0, 9000.0),
        {"cs_mm": 0.01},
        _defocus(0.0),
    ):
        assert _table(tmp_path, dialect, **changed).doubtful_values() == []


@pytest.mark.parametrize("dialect", ["relion", "cryosparc"])
@pytest.mark.parametrize("pixel_A", [-1.5, 0.0, 1.5e-10, 1500.0])
def test_pixel_sizes_that_cannot_be(tmp_path, dialect, pixel_A):
    column = "rlnImagePixelSize" if dialect == "relion" else "blob/psize_A"
    with pytest.raises(InputError, match=f"row 1 has a pixel size of {pixel_A:g} Å .{column}., which cannot be"):
        _table(tmp_path, dialect, pixel_A=pixel_A).pixel_sizes_A()
