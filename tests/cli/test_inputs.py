"""The main job on what is no RELION table: outputs in the input's own dialect."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from orbitrec.cli import main
from orbitrec.cryoem import config
from orbitrec.geometry.rotations import geodesic_distance
from orbitrec.io.mrc import StackWriter
from orbitrec.io.particles import ParticleStack

COUNT, N, PIXEL_A = 150, 24, 4.0


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main.run([str(argument) for argument in arguments])
    return exit_info.value.code if isinstance(exit_info.value.code, int) else 0


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "data"
    options = ["--phantom", 30, "--box", N, "--pixel-size", PIXEL_A, "--views", "uniform", "--snr", 2]
    assert _run("simulate", "cryoem", *options, "-n", COUNT, "--shift-px", 0.5, "-o", folder) == 0
    return folder / "particles.star"


def _abinitio(table: Path, folder: Path, *options: object) -> dict:
    """A run of seconds; its summary."""
    short = ["--matched", 0, "--starts", 1, "--resolution", 25, "--diameter", 72, "--json"]
    schedule = config.Schedule(start_steps=4, settle_steps=1, select_steps=2, passes=1)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(config, "Schedule", lambda: schedule)
        assert _run("abinitio", table, "-o", folder, *short, *options) == 0
    return json.loads(printed.getvalue())


def _dark_table(star: Path) -> Path:
    """The set as cryoSPARC has it: dense dark, and a sign that says so."""
    stack = ParticleStack.open(star)
    assert stack.ctf is not None
    with StackWriter(star.parent / "dark.mrcs", COUNT, N, PIXEL_A) as out:
        out.write(-stack.images(slice(None)))
    fields: dict[str, np.ndarray] = {
        "uid": np.arange(COUNT, dtype=np.uint64) + 7, "blob/path": np.array([b"dark.mrcs"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype=np.uint32), "blob/psize_A": np.full(COUNT, PIXEL_A, np.float32),
        "blob/sign": np.full(COUNT, -1, np.float32), "ctf/df1_A": stack.ctf.defocus_u_A.numpy(),
        "ctf/df2_A": stack.ctf.defocus_v_A.numpy(), "ctf/cs_mm": stack.ctf.cs_mm.numpy(),
        "ctf/df_angle_rad": np.deg2rad(stack.ctf.defocus_angle_deg.numpy()),
        "ctf/accel_kv": stack.ctf.voltage_kV.numpy(), "ctf/amp_contrast": stack.ctf.amplitude_contrast.numpy(),
        "ctf/phase_shift_rad": np.deg2rad(stack.ctf.phase_shift_deg.numpy()),
        "my/own": np.arange(COUNT) ** 2,
    }  # fmt: skip
    records = np.zeros(COUNT, dtype=[(name, values.dtype) for name, values in fields.items()])
    for name, values in fields.items():
        records[name] = values
    path = star.parent / "dark.cs"
    with path.open("wb") as file:
        np.save(file, records)
    return path


def test_a_cryosparc_table_comes_back_posed_as_a_star_file_does(star: Path, tmp_path: Path) -> None:
    table = _dark_table(star)
    summary = _abinitio(table, tmp_path / "cs")
    assert (summary["dialect"], summary["posed"]) == ("cryoSPARC", "particles.cs")
    assert not (tmp_path / "cs" / "particles.star").exists()
    old, new = np.load(table), np.load(tmp_path / "cs" / "particles.cs")
    assert all(np.array_equal(old[name], new[name]) for name in old.dtype.names)
    posed = ParticleStack.open(tmp_path / "cs" / "particles.cs", datadir=star.parent)
    assert torch.equal(posed.images([3]), ParticleStack.open(star).images([3]))
    # The same set in RELION's words gives the same poses, up to how numbers are rounded.
    assert _abinitio(star, tmp_path / "star")["posed"] == "particles.star"
    poses = posed.poses(), ParticleStack.open(tmp_path / "star" / "particles.star").poses()
    assert poses[0] is not None
    assert poses[1] is not None
    assert float((geodesic_distance(poses[0][0], poses[1][0]) < 1e-2).double().mean()) > 0.9


def test_a_bare_stack_and_a_set_contrast(star: Path, tmp_path: Path) -> None:
    stack = star.with_suffix(".mrcs")
    assert _run("abinitio", stack, "-o", tmp_path / "none") == 2
    summary = _abinitio(stack, tmp_path / "run", "--no-ctf", "--invert")
    assert (summary["dialect"], summary["contrast"], summary["ctf"]) == ("image stack", "dense is dark", False)
    assert ParticleStack.open(tmp_path / "run" / "particles.star", ctf=False).poses() is not None


def test_images_are_looked_at_on_request(star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("info", "--images", star, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert "standard errors" in facts["contrast"]
    assert 0 < facts["diameter_A"] < N * PIXEL_A
