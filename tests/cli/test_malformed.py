"""Damaged files of every kind: one sentence and exit 2, or read as they are; no traceback, no half output, no hang."""

import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from numpy.lib import recfunctions

from oracles import compressed_table
from orbitrec.cli import main
from orbitrec.io.mrc import StackWriter, write_map

COUNT, BOX = 8, 12
LONGEST_S = 60.0
TOKENS = [
    "", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-300", "9" * 30, "x", "x@y", "@", "0@p.mrcs", "9@p.mrcs", "1@p",
    "1@/", "1@..", "loop_", "data_", "data_particles", "_rlnVoltage", '"', "'", '"a b', "#", "\0", "é", "\r", "1,5",
    "0x10", "True", "<NA>", "1@" + "a" * 5000, "1@p.star", "-0.0", "1e9",
    "1@p.mrcs:mrcs", "1@p.mrcs:hdf", "'1@p.mrcs'", "1@p.mrcs'", "#1", "\ufeff", "[",
]  # fmt: skip
STAR = f"""# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
1 one 300.0 2.7 0.1 3.0 {BOX} 2
2 two 300.0 2.7 0.1 3.0 {BOX} 2

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnPhaseShift #6
_rlnAngleRot #7
_rlnAngleTilt #8
_rlnAnglePsi #9
_rlnOriginXAngst #10
_rlnOriginYAngst #11
""" + "".join(f"{i + 1}@p.mrcs {1 + i % 2} 10000 9000 30 0 10 20 30 1.5 -1.5\n" for i in range(COUNT))


GROUP = """created: 2024-05-01 10:11:12.131415
group:
  name: particles
  type: particle
results:
  blob:
    metafile: '>p.cs'
    num_items: 8
    type: particle.blob
  alignments3D:
    metafile: '>J2_020_particles.cs'
    num_items: 8
    type: particle.alignments3D
version: v4.4.1
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The whole files, by name."""
    folder = tmp_path_factory.mktemp("good")
    generator = torch.Generator().manual_seed(0)
    with StackWriter(folder / "p.mrcs", COUNT, BOX, 3.0) as stack:
        stack.write(torch.randn(COUNT, BOX, BOX, generator=generator))
    write_map(folder / "map.mrc", torch.randn(BOX, BOX, BOX, generator=generator), 3.0)
    (folder / "p.star").write_text(STAR)
    ctf = ["accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad", "phase_shift_rad"]
    numbers = ["blob/psize_A", "blob/sign", "alignments3D/psize_A", *(f"ctf/{name}" for name in ctf)]
    fields = [("uid", "<u8"), ("blob/path", "S12"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    fields += [("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)), *((n, "<f4") for n in numbers)]
    records = np.zeros(COUNT, dtype=fields)
    records["uid"] = records["blob/idx"] = np.arange(COUNT)
    records["blob/path"], records["blob/shape"], records["blob/sign"] = b"p.mrcs", BOX, -1
    records["blob/psize_A"] = records["alignments3D/psize_A"] = 3.0
    records["ctf/accel_kv"], records["ctf/cs_mm"], records["ctf/amp_contrast"] = 300, 2.7, 0.1
    records["ctf/df1_A"] = records["ctf/df2_A"] = 1e4
    with (folder / "p.cs").open("wb") as file:
        np.save(file, records)
    (folder / "packed.cs").write_bytes(compressed_table(records, lz4=True))
    (folder / "older.cs").write_bytes(compressed_table(records, lz4=False))
    (folder / "p.csg").write_text(GROUP)
    # A job whose images and CTF are in its passthrough file.
    for name, kept in (("J2_020_particles", "alignments3D"), ("J2_passthrough_particles", "blob ctf")):
        own = [field for field in records.dtype.names if field == "uid" or field.partition("/")[0] in kept.split()]
        with (folder / f"{name}.cs").open("wb") as file:
            np.save(file, recfunctions.repack_fields(records[own]))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _token_exchanged(content: bytes, draw: random.Random) -> bytes:
    lines = content.decode().split("\n")
    row = draw.choice([i for i, line in enumerate(lines) if line.strip()])
    tokens = lines[row].split(" ")
    tokens[draw.randrange(len(tokens))] = draw.choice(TOKENS)
    lines[row] = " ".join(tokens)
    return "\n".join(lines).encode()


def _line_moved(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    line = lines.pop(draw.randrange(len(lines)))
    for _ in range(draw.randrange(3)):  # 0 is a deletion, 2 a repetition elsewhere
        lines.insert(draw.randrange(len(lines)), line)
    return b"\n".join(lines)


def _truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _bytes_changed(content: bytes, draw: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        out[draw.randrange(len(out))] = draw.randrange(256)
    return bytes(out)


def _header_changed(content: bytes, draw: random.Random) -> bytes:
    """Four bytes of an MRC header's fields, or of a numpy header, set to a number that breaks things."""
    values = [0, 1, -1, 2, 3, 4, 12, 101, 2**31 - 1, -(2**31), 2**24, 2**16, 7, 0x7FC00000, 0x7F800000]
    out = bytearray(content)
    at = 4 * draw.randrange(56)
    out[at : at + 4] = draw.choice(values).to_bytes(4, draw.choice(["little", "big"]), signed=True)
    return bytes(out)


def _numbers_broken(content: bytes, draw: random.Random) -> bytes:
    """NaN, infinite or huge float32 values somewhere in the data."""
    out = bytearray(content)
    at = 4 * draw.randrange(256, len(out) // 4)
    out[at : at + 4] = np.float32(draw.choice([np.nan, np.inf, -np.inf, 3e38, -3e38])).tobytes()
    return bytes(out)


def _emptied(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"", b"\n", b"\0" * 4000, content[::-1], content[4:]])


Damage = Callable[[bytes, random.Random], bytes]
# File, kinds of damage, how many.
PLAN: list[tuple[str, list[Damage], int]] = [
    ("p.star", [*[_token_exchanged] * 3, _line_moved, _truncated, _bytes_changed, _emptied], 130),
    ("p.cs", [_header_changed, _bytes_changed, _truncated, _numbers_broken, _emptied], 80),
    ("packed.cs", [_bytes_changed, _truncated, _emptied], 40),
    ("older.cs", [_bytes_changed, _truncated, _emptied], 20),
    ("J2_020_particles.cs", [_bytes_changed, _truncated, _emptied], 20),
    ("J2_passthrough_particles.cs", [_bytes_changed, _truncated, _emptied], 20),
    ("p.csg", [_token_exchanged, _line_moved, _truncated, _bytes_changed, _emptied], 40),
    ("p.mrcs", [_header_changed, _header_changed, _truncated, _numbers_broken, _emptied], 80),
    ("map.mrc", [_header_changed, _header_changed, _truncated, _numbers_broken, _emptied], 30),
]  # fmt: skip


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still running after {seconds:g} s")

    old = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _commands(name: str, folder: Path) -> list[list[str]]:
    """What reads this file, one to tell what is in it and one to work with it."""
    if name == "map.mrc":
        work = ["simulate", "cryoem", "--map", str(folder / name), "-n", "2", "--no-ctf", "-o", str(folder / "made")]
        return [["info", str(folder / name)], work]
    table = {"p.mrcs": "p.star", "J2_passthrough_particles.cs": "J2_020_particles.cs"}.get(name, name)
    work = ["moments", str(folder / table), "-o", str(folder / "m.safetensors"), "--diameter", "30"]
    return [["info", str(folder / name)], work]


def test_damaged_files_are_told_in_one_sentence(
    good: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw, refused, told = random.Random(20), 0, set()
    for name, damages, count in PLAN:
        for _ in range(count):
            damage = draw.choice(damages)
            for other, content in good.items():
                (tmp_path / other).write_bytes(content)
            (tmp_path / name).write_bytes(damage(good[name], draw))
            before, codes = {path.name for path in tmp_path.iterdir()}, []
            for command in _commands(name, tmp_path):
                with _time_limit(LONGEST_S), pytest.raises(SystemExit) as exit_info:
                    main.run(command)
                printed = capsys.readouterr()
                case = f"{command[0]} on {name} after {damage.__name__}: {printed.err}"
                made = {path.name for path in tmp_path.iterdir()} - before
                codes.append(exit_info.value.code or 0)
                if codes[-1] == 0:
                    assert made <= {"m.safetensors", "made"}, case
                    (tmp_path / "m.safetensors").unlink(missing_ok=True)
                    shutil.rmtree(tmp_path / "made", ignore_errors=True)
                else:
                    assert codes[-1] == 2, case
                    assert printed.err.startswith("orbitrec: "), case
                    assert printed.err.count("\n") == 1, case
                    assert (printed.out, made) == ("", set()), case
                    told.add(re.sub(r"/\S+|[\d.]+", "", printed.err)[:60])
            refused += any(codes)
    assert refused >= 200
    assert len(told) > 20  # damage of many kinds is told apart
