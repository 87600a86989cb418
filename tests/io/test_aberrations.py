"""Aberrations of tables: both programs' columns say the same, of the right optics groups, and a run tells them."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import damage
from orbitrec.cryoem.config import FEWEST_PARTICLES
from orbitrec.errors import InputError
from orbitrec.io.cryosparc.table import CTF_FIELDS
from orbitrec.io.tables import read_table
from orbitrec.models.ctf import electron_wavelength_A

OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnVoltage\n_rlnSphericalAberration\n"
PARTICLES = "\ndata_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@a.mrcs 4\n2@a.mrcs 2\n3@a.mrcs 4\n"


def _star(folder: Path, columns: dict[str, tuple[object, object]]):
    """Optics groups 2 and 4, in this order."""
    rows = [" ".join([f"{group} 1.5 300 2.7", *(str(pair[i]) for pair in columns.values())]) for i, group in
            enumerate((2, 4))]  # fmt: skip
    path = folder / "p.star"
    path.write_text(OPTICS + "".join(f"_{name}\n" for name in columns) + "\n".join(rows) + "\n" + PARTICLES)
    return read_table(path)


def _cs(folder: Path, **fields: list[list[float]]):
    """Three particles in exposure groups 7, 5 and 7."""
    kinds = [("uid", "<u8"), ("blob/path", "S6"), ("blob/idx", "<u4"), ("ctf/exp_group_id", "<u4")]
    kinds += [(name, "<f4") for name in ("blob/psize_A", *CTF_FIELDS.values())]
    kinds += [(f"ctf/{name}", "<f4", (len(values[0]),)) for name, values in fields.items()]
    records = np.zeros(3, kinds)
    records["ctf/exp_group_id"], records["ctf/accel_kv"], records["ctf/cs_mm"] = [7, 5, 7], 300, 2.7
    for name, values in fields.items():
        records[f"ctf/{name}"] = values
    with (folder / "p.cs").open("wb") as file:
        np.save(file, records)
    return read_table(folder / "p.cs")


def _largest(table, resolution_A: float = 4.0) -> dict[int, float]:
    """Largest phase in degrees of each optics group."""
    found = table.aberrations()
    return dict(zip(found.group.tolist(), found.largest_phase_deg(resolution_A, 60.0).tolist(), strict=True))


def test_both_dialects_say_the_same(tmp_path):
    """``tilt_A`` is C_s sin τ; trefoil's coefficient is 2πλ²/3 times ``trefoil_A``."""
    wavelength = float(electron_wavelength_A(torch.tensor(300.0, dtype=torch.float64)))
    trefoil = [-12.5 * 3 / (2 * math.pi * wavelength**2), 0]
    relion = _star(tmp_path, {
        "rlnBeamTiltX": (0, 0.3), "rlnBeamTiltY": (0, -0.4), "rlnOddZernike": ("[0,0,0,0,0,0]", "[1,2,0,0,0,12.5]"),
        "rlnMagMat00": (1.02, 1), "rlnMagMat01": (0, 0), "rlnMagMat10": (0, 0), "rlnMagMat11": (1, 1),
    })  # fmt: skip
    cs = _cs(
        tmp_path,
        tilt_A=[[0.3e-3 * 2.7e7, -0.4e-3 * 2.7e7], [0, 0], [0.3e-3 * 2.7e7, -0.4e-3 * 2.7e7]],
        trefoil_A=[trefoil, [0, 0], trefoil],
        anisomag=[[0, 0, 0, 0], [0.02, 0, 0, 0], [0, 0, 0, 0]],
    )
    ours, theirs = _largest(relion), _largest(cs)
    assert ours.keys() == theirs.keys() == {0, 1}
    assert ours[0] == pytest.approx(360 / 4 * 60 * 0.015, rel=1e-9)  # 0.005 is a scale that both share
    assert [theirs[0], theirs[1]] == pytest.approx([ours[0], ours[1]], rel=1e-5)


def test_tetrafoil_of_cryosparc_is_of_the_fourth_power(tmp_path):
    wavelength = float(electron_wavelength_A(torch.tensor(300.0, dtype=torch.float64)))
    for tetra, factor in (([3.0, 4.0, 0, 0], 2 * math.pi), ([0, 0, 3.0, 4.0], math.pi / 2)):
        found = _largest(_cs(tmp_path, tetra_A=[tetra] * 3))[0]
        assert found == pytest.approx(math.degrees(5e0 * factor * wavelength**3 / 4**4), rel=1e-3)


def test_tables_without_aberrations_have_none(tmp_path):
    assert _star(tmp_path, {}).aberrations() is None
    assert _cs(tmp_path, tilt_A=[[0, 0]] * 3, shift_A=[[3, 4]] * 3).aberrations() is None
    (tmp_path / "neutral").mkdir()
    neutral = _star(tmp_path / "neutral", {"rlnBeamTiltX": (0, 0), "rlnMagMat11": (1, 1)})
    assert set(_largest(neutral).values()) == {0.0}


@pytest.mark.parametrize("value", ["[1,2,x]", "one", "[1,2", "[nan]", "[1,,2]"])
def test_lists_that_are_none_are_named(tmp_path, value):
    if value == "[1,2":  # RELION's own reader takes it too
        assert _largest(_star(tmp_path, {"rlnOddZernike": (value, value)}))
        return
    with pytest.raises(InputError, match=r"p.star: rlnOddZernike holds .*, not a list of numbers"):
        _star(tmp_path, {"rlnOddZernike": (value, value)}).aberrations()


def test_a_tilt_that_is_no_number_is_named(tmp_path):
    with pytest.raises(InputError, match=r"p.star: rlnBeamTiltX holds much, not a number"):
        _star(tmp_path, {"rlnBeamTiltX": (0, "much")}).aberrations()


def test_a_real_table(shared_data):
    """RELION's refinement of a virus: its magnification of 0.7 % matters at 8 Å for a particle of 300 Å."""
    path = shared_data / "tables" / "isecc_test.star"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = read_table(path).aberrations()
    assert found.odd.tolist() == [[0.470415004546, 0.416253693925, 34.3861477546, 0, 0, 10.7852815872]]
    assert found.even.shape == (1, 9)
    expected = [[1.007178 - 1, 0.007680], [0.007699, 0.993671 - 1]]
    np.testing.assert_allclose(found.magnification[0].numpy(), expected, atol=1e-9)


def test_a_run_says_how_far_phases_change(tmp_path):
    """At the finest resolution that it worked at, and in which optics groups that is too much."""
    damage.write_whole(tmp_path, FEWEST_PARTICLES)
    with damage.short_runs():
        assert damage.said(damage.run_command(tmp_path, "five.star"), tmp_path).code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    said = next(check for check in summary["checks"] if check.startswith("Not modelled"))
    pattern = r"(.*rlnOddZernike.*)\. At ([\d.]+) Å they change phases by up to (\d+)° \(optics group 1\): more"
    found = re.search(pattern, said)
    assert found is not None, said
    assert float(found[2]) <= summary["search_resolution_A"] + 0.05
    largest = read_table(tmp_path / "five.star").aberrations().largest_phase_deg(float(found[2]), 12.0)
    assert float(found[3]) == pytest.approx(float(largest.max()), rel=0.02)
