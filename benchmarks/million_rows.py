"""A table of a million particles: processor seconds and memory to read it, and to write it with poses.

A RELION 3.1 table and a cryoSPARC table list the same particles in a thousand stacks, which need not be there. Reading
is all that a run asks of a table: images, CTF, pixel sizes, optics groups, half-sets and poses.

    python benchmarks/million_rows.py [--count 1000000]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from orbitrec.geometry.rotations import random_rotations
from orbitrec.io.particle_table import ParticleTable
from orbitrec.io.tables import read_table

STACKS = 1000
OPTICS = """
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
1 opticsGroup1 300.0 2.7 0.1 1.5 128 2

data_particles

loop_
"""
COLUMNS = (
    "CoordinateX", "CoordinateY", "ImageName", "MicrographName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle",
    "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "RandomSubset", "ClassNumber",
    "NormCorrection",
)  # fmt: skip


def made_star(path: Path, count: int) -> None:
    """A table as RELION writes it, of about 250 bytes a row."""
    with path.open("w") as file:
        file.write(OPTICS + "".join(f"_rln{name} #{i}\n" for i, name in enumerate(COLUMNS, 1)))
        for row in range(count):
            stack, place = divmod(row, count // STACKS or 1)
            name = f"FoilHole_{stack:06d}_Data_20301130_fractions"
            values = [
                f"{1000 + place % 3000:12.6f} {500 + place % 2000:12.6f}",
                f"{place + 1:06d}@Extract/job012/Movies/{name}.mrcs MotionCorr/job003/Movies/{name}.mrc 1",
                f"{12000 + stack:12.6f} {11800 + stack:12.6f} {stack % 90:12.6f}",
                f"{row % 360 - 180:12.6f} {row % 180:12.6f} {row % 359 - 179:12.6f}",
                f"{row % 7 / 3:12.6f} {row % 5 / 3:12.6f} {1 + row % 2} 1 {0.9 + row % 10 / 50:12.6f}",
            ]
            file.write(" ".join(values) + "\n")


def made_cs(path: Path, count: int) -> None:
    """A table as cryoSPARC's refinements write it."""
    numbers = ["accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad", "phase_shift_rad"]
    fields = [("uid", "<u8"), ("blob/path", "S90"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    fields += [(f"ctf/{name}", "<f4") for name in numbers]
    fields += [("blob/psize_A", "<f4"), ("blob/sign", "<f4"), ("ctf/exp_group_id", "<u4"), ("ctf/tilt_A", "<f4", (2,))]
    fields += [("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/split", "<u4")]
    fields += [("alignments3D/psize_A", "<f4"), ("location/micrograph_path", "S90"), ("location/micrograph_uid", "<u8")]
    table, row = np.zeros(count, fields), np.arange(count)
    stack, table["blob/idx"] = np.divmod(row, count // STACKS or 1)
    paths = np.array([f"J12/extract/{i:021d}_FoilHole_Data_fractions_particles.mrc" for i in range(stack.max() + 1)])
    table["uid"], table["blob/path"] = row * 7919 + 11, paths[stack].astype("S90")
    table["blob/shape"], table["blob/psize_A"], table["blob/sign"] = 128, 1.5, -1
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/amp_contrast"] = 300, 2.7, 0.1
    table["ctf/df1_A"], table["ctf/df2_A"] = 12000 + stack, 11800 + stack
    table["alignments3D/split"], table["alignments3D/psize_A"] = row % 2, 1.5
    with path.open("wb") as file:
        np.save(file, table)


def read(path: Path) -> ParticleTable:
    """All that a run asks of a table."""
    table = read_table(path)
    table.sources(), table.pixel_sizes_A(), table.groups(), table.signs(), table.stated_boxes(), table.ctf()
    table.premultiplied(), table.phase_flipped(), table.poses(), table.halves(), table.aberrations()
    return table


def measured(path: Path, target: Path | None) -> None:
    """Read a table, and write it with poses if ``target`` is given; prints what this took of the process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    table = read(path)
    middle = resource.getrusage(resource.RUSAGE_SELF)
    if target is not None:
        rotations = random_rotations(len(table), torch.Generator().manual_seed(0))
        table.write_posed(target, rotations, torch.ones(len(table), 2).double(), None, 1 + torch.arange(len(table)) % 2)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = [b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in ((before, middle), (middle, after))]
    print(json.dumps({"seconds": seconds, "GiB": after.ru_maxrss / 2**20}))


def in_a_process(path: Path, target: Path | None) -> dict:
    """Seconds to read and to write, and the peak of memory."""
    command = [sys.executable, __file__, "--measure", str(path), *([str(target)] if target else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--measure", type=Path, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(arguments.measure[0], arguments.measure[1] if len(arguments.measure) > 1 else None)
        return
    cores = os.cpu_count()
    table = Table(title=f"{arguments.count:,} particles; processor seconds, on one core of {cores}")
    for column in ("table", "MB", "read, s", "read, GiB", "write, s", "read and write, GiB"):
        table.add_column(column, justify="left" if column == "table" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("RELION 3.1", made_star), ("cryoSPARC", made_cs)):
            path = Path(folder) / ("p.star" if make is made_star else "p.cs")
            make(path, arguments.count)
            alone, both = in_a_process(path, None), in_a_process(path, path.with_stem("posed"))
            numbers = [f"{alone['seconds'][0]:.0f}", f"{alone['GiB']:.2f}", f"{both['seconds'][1]:.0f}"]
            table.add_row(name, f"{path.stat().st_size / 1e6:.0f}", *numbers, f"{both['GiB']:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
