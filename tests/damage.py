"""Files of every dialect, damaged: what commands say of them, and what they leave.

The tests try some; ``benchmarks/damaged_files.py`` tries thousands.
"""

import io
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from unittest import mock

import numpy as np
import torch
from numpy.lib import recfunctions

from oracles import compressed_table
from orbitrec import api  # noqa: F401 - imports all modules before the schedule is replaced in one
from orbitrec.cli import main
from orbitrec.cryoem import config
from orbitrec.cryoem.result import Session
from orbitrec.io.mrc import StackWriter, write_map
from orbitrec.io.tables import read_table, table_reader

COUNT, BOX = 8, 12
LONGEST_S = 60.0
TOKENS = [
    "", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-300", "9" * 30, "x", "x@y", "@", "0@p.mrcs", "9@p.mrcs", "1@p",
    "1@/", "1@..", "loop_", "data_", "data_particles", "_rlnVoltage", '"', "'", '"a b', "#", "\0", "é", "\r", "1,5",
    "0x10", "True", "<NA>", "1@" + "a" * 5000, "1@p.star", "-0.0", "1e9",
    "1@p.mrcs:mrcs", "1@p.mrcs:hdf", "'1@p.mrcs'", "1@p.mrcs'", "#1", "\ufeff", "[", "[]", "[1,2", "[nan]",
    "[1e308,1e308]", "300000", "0.0027", "1e-10", "2", "1@sub/p.mrcs", "000001@p.mrcs",
    "2147483648@p.mrcs", "$x$", "{}", "1 2",
]  # fmt: skip

OPTICS = f"""
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
"""
PARTICLES = """
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
"""
# RELION 5's columns: tomograms, aberrations, forms of images, half-sets, coordinates.
OPTICS_5 = f"""
data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnImageSize #6
_rlnBeamTiltX #7
_rlnBeamTiltY #8
_rlnOddZernike #9
_rlnEvenZernike #10
_rlnMagMat00 #11
_rlnMagMat01 #12
_rlnMagMat10 #13
_rlnMagMat11 #14
_rlnCtfDataArePhaseFlipped #15
1 300.0 2.7 0.1 3.0 {BOX} 0.1 -0.2 [0,0,1,2,3,4] [0,0,0,0,5,6,7,8,9] 1.01 0 0 0.99 1
2 200.0 1.4 0.1 3.0 {BOX} 0.0 0.0 [0,0,0,0,0,0] [0] 1 0 0 1 0
"""
PARTICLES_5 = """
data_particles

loop_
_rlnTomoName #1
_rlnImageName #2
_rlnOpticsGroup #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
_rlnRandomSubset #7
_rlnMicrographName #8
_rlnCoordinateX #9
_rlnCoordinateY #10
"""
RELION_3_0 = """
data_

loop_
_rlnImageName #1
_rlnDetectorPixelSize #2
_rlnMagnification #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnOriginX #10
_rlnOriginY #11
_rlnAngleRot #12
_rlnAngleTilt #13
_rlnAnglePsi #14
"""
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
SUMMARY = Path(__file__).parent / "report" / "version_0_1" / "summary.json"


def star_files(count: int) -> dict[str, str]:
    """The same particles as three versions of RELION list them."""
    numbers = range(1, count + 1)
    return {
        "p.star": OPTICS + PARTICLES
        + "".join(f"{i}@p.mrcs {1 + i % 2} 10000 9000 30 0 10 20 30 1.5 -1.5\n" for i in numbers),
        "five.star": OPTICS_5 + PARTICLES_5
        + "".join(f"tomo {i}@p.mrcs {1 + i % 2} 10000 9000 30 {1 + i % 2} m{i % 3}.mrc {i}.5 7\n" for i in numbers),
        "old.star": RELION_3_0
        + "".join(f"{i}@p.mrcs 14 46667 300 2.7 0.1 10000 9000 30 0.5 -0.5 10 20 30\n" for i in numbers),
    }  # fmt: skip


def cryosparc_records(count: int) -> np.ndarray:
    """The same particles as a cryoSPARC table."""
    ctf = ["accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad", "phase_shift_rad"]
    numbers = ["blob/psize_A", "blob/sign", "alignments3D/psize_A", *(f"ctf/{name}" for name in ctf)]
    fields = [("uid", "<u8"), ("blob/path", "S12"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    fields += [("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)), ("ctf/tilt_A", "<f4", (2,))]
    records = np.zeros(count, dtype=[*fields, *((name, "<f4") for name in numbers)])
    records["uid"] = records["blob/idx"] = np.arange(count)
    records["blob/path"], records["blob/shape"], records["blob/sign"] = b"p.mrcs", BOX, -1
    records["blob/psize_A"] = records["alignments3D/psize_A"] = 3.0
    records["ctf/accel_kv"], records["ctf/cs_mm"], records["ctf/amp_contrast"] = 300, 2.7, 0.1
    records["ctf/df1_A"] = records["ctf/df2_A"] = 1e4
    records["ctf/tilt_A"] = 5e3
    return records


def write_whole(folder: Path, count: int = COUNT) -> dict[str, bytes]:
    """Write whole files of every dialect on the same particles; returns them by name."""
    generator = torch.Generator().manual_seed(0)
    with StackWriter(folder / "p.mrcs", count, BOX, 3.0) as stack:
        stack.write(torch.randn(count, BOX, BOX, generator=generator))
    write_map(folder / "map.mrc", torch.randn(BOX, BOX, BOX, generator=generator), 3.0)
    for name, text in star_files(count).items():
        (folder / name).write_text(text)
    records = cryosparc_records(count)
    with (folder / "p.cs").open("wb") as file:
        np.save(file, records)
    (folder / "packed.cs").write_bytes(compressed_table(records, lz4=True))
    (folder / "older.cs").write_bytes(compressed_table(records, lz4=False))
    (folder / "p.csg").write_text(GROUP)
    # A job whose images and CTF are in its passthrough file.
    for name, kept in (("J2_020_particles", "alignments3D"), ("J2_passthrough_particles", "blob ctf")):
        own = [
            field for field in records.dtype.names or () if field == "uid" or field.partition("/")[0] in kept.split()
        ]
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


def _column_exchanged(content: bytes, draw: random.Random) -> bytes:
    """One value in place of every value of a column, or another name for it."""
    lines = content.decode().split("\n")
    rows = [i for i, line in enumerate(lines) if "@" in line]
    column, token = draw.randrange(len(lines[rows[0]].split(" "))), draw.choice(TOKENS)
    for row in rows:
        tokens = lines[row].split(" ")
        tokens[column] = token
        lines[row] = " ".join(tokens)
    return "\n".join(lines).encode()


def _line_moved(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    line = lines.pop(draw.randrange(len(lines)))
    for _ in range(draw.randrange(3)):  # 0 is a deletion, 2 a repetition elsewhere
        lines.insert(draw.randrange(len(lines)), line)
    return b"\n".join(lines)


def truncated(content: bytes, draw: random.Random) -> bytes:
    """The beginning of a file."""
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
_STAR: list[Damage] = [
    *[_token_exchanged] * 3, _column_exchanged, _line_moved, truncated, _bytes_changed, _emptied,
]  # fmt: skip
_BYTES: list[Damage] = [_bytes_changed, truncated, _emptied]
_MRC: list[Damage] = [_header_changed, _header_changed, truncated, _numbers_broken, _emptied]
# File, kinds of damage, share of the cases.
PLAN: list[tuple[str, list[Damage], int]] = [
    ("p.star", _STAR, 8),
    ("five.star", _STAR, 8),
    ("old.star", _STAR, 6),
    ("p.cs", [_header_changed, *_BYTES, _numbers_broken], 8),
    ("packed.cs", _BYTES, 4),
    ("older.cs", _BYTES, 2),
    ("J2_020_particles.cs", _BYTES, 2),
    ("J2_passthrough_particles.cs", _BYTES, 2),
    ("p.csg", [_token_exchanged, _line_moved, *_BYTES], 3),
    ("p.mrcs", _MRC, 5),
    ("map.mrc", _MRC, 2),
]
_SHARES = sum(share for *_, share in PLAN)
_TABLE_OF = {"p.mrcs": "p.star", "J2_passthrough_particles.cs": "J2_020_particles.cs"}


@dataclass(frozen=True)
class Said:
    """How a command ended, what it printed, and which files and folders it made."""

    code: int
    out: str
    err: str
    made: set[str]

    def complaint(self, allowed: set[str]) -> str | None:
        """What is wrong with it: only success, which may leave what is allowed, and one sentence are right."""
        if self.code == 0:
            return None if self.made <= allowed else f"leaves {self.made - allowed}"
        if self.code != 2:
            return f"ends with status {self.code}: {self.err}"
        if not self.err.startswith("orbitrec: ") or self.err.count("\n") != 1:
            return f"says {self.err!r}"
        return f"prints {self.out!r}, leaves {self.made}" if self.out or self.made else None


@contextmanager
def _time_limit() -> Iterator[None]:
    """Both of processor time, which a busy machine does not use up, and, for what waits forever, of the clock's."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("still running")

    limits = ((signal.SIGPROF, signal.ITIMER_PROF, LONGEST_S), (signal.SIGALRM, signal.ITIMER_REAL, 20 * LONGEST_S))
    before = {number: signal.signal(number, expired) for number, *_ in limits}
    try:
        for _, timer, seconds in limits:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for _, timer, _ in limits:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def said(command: list[str], folder: Path) -> Said:
    """Run a command in this process, as the command line would; files are looked for in ``folder``."""
    before, out, err, code = _names(folder), io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with _time_limit():
                main.run(command)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            code, _ = 1, err.write(traceback.format_exc())
    return Said(code, out.getvalue(), err.getvalue(), _names(folder) - before)


@dataclass(frozen=True)
class Case:
    """One damaged file: its name, how it was damaged, and its bytes."""

    name: str
    damage: str
    content: bytes


def cases(good: dict[str, bytes], count: int, seed: int) -> Iterator[Case]:
    """About ``count`` damaged files in all, of every dialect its share."""
    draw = random.Random(seed)
    for name, damages, share in PLAN:
        for _ in range(round(count * share / _SHARES)):
            damage = draw.choice(damages)
            yield Case(name, damage.__name__.strip("_"), damage(good[name], draw))


def finished_run(folder: Path) -> None:
    """A folder as a run on the whole files leaves it, as far as ``transfer`` needs it."""
    run = folder / "run"
    run.mkdir()
    shutil.copy(SUMMARY, run)
    (run / "particles.star").write_text(star_files(COUNT)["p.star"])


def _commands(name: str, folder: Path) -> list[list[str]]:
    """What reads this file: to tell what is in it, to work with it, and to write it again."""
    info = ["info", str(folder / name)]
    if name == "map.mrc":
        work = ["simulate", "cryoem", "--map", str(folder / name), "-n", "2", "--no-ctf", "-o", str(folder / "made")]
        return [info, work]
    table = _TABLE_OF.get(name, name)
    work = ["moments", str(folder / table), "-o", str(folder / "m.safetensors"), "--diameter", "30"]
    if name == "p.mrcs":
        return [info, work]
    reader = table_reader(table)
    suffix = ".star" if reader is None or ".star" in reader.suffixes else ".cs"
    again = ["transfer", str(folder / "run"), "--onto", str(folder / table), "-o", str(folder / f"posed{suffix}")]
    return [info, work, again]


MADE = {"m.safetensors", "posed.star", "posed.cs", "posed.csg"}


def tried(case: Case, good: dict[str, bytes], folder: Path) -> tuple[list[Said], list[str]]:
    """What all commands say of a damaged file among whole ones, and what is wrong with that."""
    for other, content in good.items():
        (folder / other).write_bytes(content)
    (folder / case.name).write_bytes(case.content)
    answers, wrong = [], []
    for command in _commands(case.name, folder):
        answer = said(command, folder)
        complaint = answer.complaint(MADE | {name for name in answer.made if name.split("/")[0] == "made"})
        if complaint is None and answer.code == 0 and command[0] == "transfer":
            complaint = _misread(Path(command[-1]))
        if complaint is not None:
            wrong.append(f"{command[0]} on {case.name} after {case.damage}: {complaint}")
        answers.append(answer)
        for name in MADE & answer.made:
            (folder / name).unlink()
        shutil.rmtree(folder / "made", ignore_errors=True)
    return answers, wrong


def _misread(path: Path) -> str | None:
    """What is wrong with a table that was written: it must be read with the poses of whole files."""
    poses = read_table(path).poses()
    if poses is None:
        return "wrote no poses"
    x, y = (poses[1] - torch.tensor([-1.5, 1.5])).abs().amax(0).tolist()
    return None if max(x, y) < 1e-3 else f"wrote displacements that are {x:g}, {y:g} Å off"


# Truncations of every file that a run reads -----------------------------------------------------------------------


@dataclass(frozen=True)
class _ShortSchedule(config.Schedule):
    start_bandwidth: float = 6.0
    start_steps: int = 4
    settle_steps: int = 2
    settle_batch: int = 50
    select_bandwidth: float = 6.0
    select_steps: int = 2
    bandwidths: tuple[float, ...] = (6.0, 8.0)
    passes: int = 1


@contextmanager
def short_runs() -> Iterator[None]:
    """Runs take seconds."""
    with mock.patch.object(config, "Schedule", _ShortSchedule):
        yield


def run_command(folder: Path, table: str, *more: str) -> list[str]:
    """A short run on a table of the folder: ``refine`` with ``--init``, else ``abinitio``."""
    options = ["--resolution", "12", "--diameter", "24", "-o", str(folder / "out"), *more]
    if "--init" in more:
        return ["refine", str(folder / table), "--passes", "2", *options]
    return ["abinitio", str(folder / table), "--matched", "0", "--starts", "1", *options]


def read_files(folder: Path) -> dict[str, list[str]]:
    """Every file that a new run reads → the command that reads it."""
    truth, init = ("--truth", str(folder / "map.mrc")), ("--init", str(folder / "map.mrc"))
    return {
        **{name: run_command(folder, name) for name in ("p.star", "five.star", "old.star")},
        **{name: run_command(folder, name) for name in ("p.cs", "packed.cs", "older.cs", "p.csg")},
        "p.mrcs": run_command(folder, "p.star"),
        "J2_020_particles.cs": run_command(folder, "J2_020_particles.cs"),
        "J2_passthrough_particles.cs": run_command(folder, "J2_020_particles.cs"),
        "map.mrc (--init)": run_command(folder, "p.star", *init),
        "map.mrc (--truth)": run_command(folder, "p.star", *truth),
    }


def interrupted(folder: Path, command: list[str]) -> None:
    """Run a command that is interrupted when all its steps but the map are recorded."""
    with mock.patch.object(Session, "result", side_effect=KeyboardInterrupt):
        answer = said(command, folder)
    assert answer.code != 0
    assert (folder / "out" / "checkpoint" / "settings.json").is_file(), answer.err


def truncation_tried(
    path: Path, command: list[str], folder: Path, draw: random.Random, allowed: set[str] | None = None
) -> tuple[Said, str | None]:
    """What a command says while a file is truncated, and what is wrong with that; the file is whole again then.

    A command that does not miss what is cut off may succeed; then its results are removed.
    """
    whole, kept = path.read_bytes(), _names(folder)
    path.write_bytes(truncated(whole, draw))
    try:
        answer = said(command, folder)
    finally:
        path.write_bytes(whole)
    wrong = answer.complaint(allowed if allowed is not None else answer.made)
    if answer.code != 0 and wrong is None and _names(folder) != kept:
        wrong = f"removes {kept - _names(folder)}"
    return answer, None if wrong is None else f"{command[0]} with {path.name} truncated: {wrong}"
