"""How to go on from a run in the programs that people use."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orbitrec.report.run_files import RunFiles


@dataclass(frozen=True)
class NextStep:
    """A ``program``, ``why`` it is next, and the ``command``; empty where it is used by hand."""

    program: str
    why: str
    command: str = ""


def next_steps(run: RunFiles, level: float) -> list[NextStep]:
    """Commands that go on from a run, to be run where orbitrec was; ``level`` is that of the map's surface."""
    folder, name, summary = run.folder, run.name, run.summary
    particles = summary["posed"]
    ctf, symmetry = bool(summary["ctf"]), str(summary.get("symmetry", "C1"))
    dense_is_dark = summary["contrast"] == "dense is dark"
    map_file, posed = shlex.quote(str(folder / f"{name}.mrc")), shlex.quote(str(folder / particles))
    surface = f"volume #1 level {level:.4g} step 1; lighting soft; view"
    steps = [
        NextStep(
            "ChimeraX",
            "Look at the map. If the hand is the wrong one, “volume flip #1 axis z” makes the mirror image.",
            f"chimerax {map_file} --cmd {shlex.quote(surface)}",
        )
    ]
    if name == "initial_model":
        out = shlex.quote(str(folder) + "-refined")
        steps.append(
            NextStep(
                "orbitrec",
                "Refine the map by its likelihood.",
                f"orbitrec refine {posed} --init {map_file}{'' if ctf else ' --no-ctf'} -o {out}",
            )
        )
    sign = (
        " These particles are dark on light: give RELION the same particles with inverted contrast, as it expects."
        if dense_is_dark
        else ""
    )
    if particles.endswith(".star"):
        steps.append(
            NextStep(
                "RELION: check", "The same poses, reconstructed by another program.", _rebuilt(posed, ctf, symmetry)
            )
        )
        if (folder / "mask.mrc").exists():
            half, mask = shlex.quote(str(folder / "half1.mrc")), shlex.quote(str(folder / "mask.mrc"))
            steps.append(
                NextStep(
                    "RELION: post-process",
                    "The half-maps weighted by their FSC; add --auto_bfac to sharpen a map that is finer than 10 Å.",
                    "mkdir -p PostProcess/orbitrec && "
                    f"relion_postprocess --i {half} --mask {mask} --o PostProcess/orbitrec/postprocess",
                )
            )
        steps.append(
            NextStep(
                "RELION: refine",
                "Auto-refinement of two independent halves from this map, filtered so that they share no detail. In "
                "the window of a 3D auto-refine job the same files and numbers go into its first tabs." + sign,
                _refined(posed, map_file, summary, ctf, symmetry),
            )
        )
    steps.append(
        NextStep(
            "cryoSPARC",
            f"Make an “Import Particle Stack” job with the particle meta path {folder / particles} and, as particle "
            f"data path, the folder of the stacks; an “Import 3D Volumes” job with {folder / f'{name}.mrc'}; connect "
            "both to a "
            "“Homogeneous Refinement” or “Non-uniform Refinement” job." + sign,
        )
    )
    return steps


def _rebuilt(posed: str, ctf: bool, symmetry: str) -> str:
    return f"relion_reconstruct --i {posed} --o rebuilt.mrc --sym {symmetry}{' --ctf' if ctf else ''}"


def _refined(posed: str, map_file: str, summary: Mapping[str, Any], ctf: bool, symmetry: str) -> str:
    ini_high_A = 2 * summary["search_resolution_A"]
    return " \\\n  ".join(
        [
            f"mkdir -p Refine3D/orbitrec && mpirun -n 3 relion_refine_mpi --i {posed}",
            f"--ref {map_file} --firstiter_cc --ini_high {ini_high_A:.0f} --o Refine3D/orbitrec/run",
            f"--auto_refine --split_random_halves --sym {symmetry} --particle_diameter {summary['diameter_A']:.0f}"
            + (" --ctf" if ctf else ""),
            "--flatten_solvent --zero_mask --norm --scale --pad 2 --oversampling 1 --healpix_order 2",
            "--auto_local_healpix_order 4 --offset_range 5 --offset_step 2 --low_resol_join_halves 40 --j 4",
        ]
    )
