"""How to go on from a run in the programs that people use."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orbitrec.report.run_files import RunFiles
from orbitrec.report.summary import Contrast, RunKind, Summary


@dataclass(frozen=True)
class NextStep:
    """What can be done next with a run.

    Attributes:
        program: that does it.
        why: what it is good for.
        command: to be run where orbitrec was; empty where the program is used by hand.
    """

    program: str
    why: str
    command: str = ""


def next_steps(run: RunFiles, level: float) -> list[NextStep]:
    """What can be done next with a run; ``level`` is that of the map's surface."""
    map_file, posed = shlex.quote(str(run.map_file)), shlex.quote(str(run.folder / run.summary.posed))
    steps = [_look(map_file, level)]
    if run.kind is RunKind.INITIAL_MODEL:
        steps.append(_refinement(run, map_file, posed))
    if run.summary.posed.endswith(".star"):
        steps.extend(_relion(run, map_file, posed))
    steps.append(_cryosparc(run))
    return steps


def _look(map_file: str, level: float) -> NextStep:
    surface = f"volume #1 level {level:.4g} step 1; lighting soft; view"
    return NextStep(
        "ChimeraX",
        "Look at the map. If its handedness is the wrong one, “volume flip #1 axis z” makes the mirror image.",
        f"chimerax {map_file} --cmd {shlex.quote(surface)}",
    )


def _refinement(run: RunFiles, map_file: str, posed: str) -> NextStep:
    out = shlex.quote(str(run.folder) + "-refined")
    ctf = "" if run.summary.ctf else " --no-ctf"
    return NextStep(
        "orbitrec", "Refine the map by its likelihood.", f"orbitrec refine {posed} --init {map_file}{ctf} -o {out}"
    )


def _sign(summary: Summary) -> str:
    if summary.contrast is not Contrast.DARK:
        return ""
    return " These particles are dark on light: give RELION the same particles with inverted contrast, as it expects."


def _relion(run: RunFiles, map_file: str, posed: str) -> Iterator[NextStep]:
    ctf = " --ctf" if run.summary.ctf else ""
    yield NextStep(
        "RELION: check",
        "The same poses, reconstructed by another program.",
        f"relion_reconstruct --i {posed} --o rebuilt.mrc --sym {run.summary.symmetry}{ctf}",
    )
    if (run.folder / "mask.mrc").exists():
        half, mask = shlex.quote(str(run.folder / "half1.mrc")), shlex.quote(str(run.folder / "mask.mrc"))
        yield NextStep(
            "RELION: post-process",
            "The half-maps weighted by their FSC; add --auto_bfac to sharpen a map that is finer than 10 Å.",
            "mkdir -p PostProcess/orbitrec && "
            f"relion_postprocess --i {half} --mask {mask} --o PostProcess/orbitrec/postprocess",
        )
    yield NextStep(
        "RELION: refine",
        "Auto-refinement of two independent halves from this map, filtered so that they share no detail. In the window "
        "of a 3D auto-refine job the same files and numbers go into its first tabs." + _sign(run.summary),
        _auto_refinement(run.summary, map_file, posed),
    )


def _auto_refinement(summary: Summary, map_file: str, posed: str) -> str:
    ini_high_A = 2 * summary.search_resolution_A
    return " \\\n  ".join(
        [
            f"mkdir -p Refine3D/orbitrec && mpirun -n 3 relion_refine_mpi --i {posed}",
            f"--ref {map_file} --firstiter_cc --ini_high {ini_high_A:.0f} --o Refine3D/orbitrec/run",
            f"--auto_refine --split_random_halves --sym {summary.symmetry} --particle_diameter {summary.diameter_A:.0f}"
            + (" --ctf" if summary.ctf else ""),
            "--flatten_solvent --zero_mask --norm --scale --pad 2 --oversampling 1 --healpix_order 2",
            "--auto_local_healpix_order 4 --offset_range 5 --offset_step 2 --low_resol_join_halves 40 --j 4",
        ]
    )


def _cryosparc(run: RunFiles) -> NextStep:
    posed: Path = run.folder / run.summary.posed
    return NextStep(
        "cryoSPARC",
        f"Make an “Import Particle Stack” job with the particle meta path {posed} and, as particle data path, the "
        f"folder of the stacks; an “Import 3D Volumes” job with {run.map_file}; connect both to a “Homogeneous "
        "Refinement” or “Non-uniform Refinement” job." + _sign(run.summary),
    )
