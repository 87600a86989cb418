"""The panel: on how many molecules, under which conditions, does `orbitrec abinitio` find the right map?

make_set.py makes particles with RELION's projector and none of orbitrec's code; `abinitio` runs on them with defaults
only; judge_map.py aligns its map with the truth. Beside it stands RELION's map from the known poses of the good
particles of the same images: a map is right whose FSC 0.5 is at most twice that map's resolution, and fine at most 1.3
times. panel.toml beside this file says which maps, conditions and seeds there are, and on which maps settings may be
chosen.

    python benchmarks/panel -o FOLDER                                    the whole panel: a night and more
    python benchmarks/panel -o FOLDER --conditions clean typical --half tuning --threads 1
    python benchmarks/panel -o BEFORE --checkout ../before               the same of other code
    python benchmarks/panel -o FOLDER --show --json panel.json           run nothing: what is there

The same command goes on where it was stopped. A run that fails, is killed or leaves no map counts as not right, and
its reason is kept; remove its folder to have it run again. FOLDER/panel.json has what was measured, and is written
after every run; --json names another place. Each run's folder keeps its map, report and posed table, the true poses and
the judge's curves; its stack is removed unless --keep. Two processes may share FOLDER if each has maps, conditions or a
half of its own.

Needed: RELION's programs (the Debian package relion), and a Python with orbitrec's own dependencies, mrcfile, starfile,
pandas and scipy among them. --shared names a folder with tools/make_set.py, tools/judge_map.py, data/panel/MAP.mrc,
data/ctf and data/noise.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from orbitrec.errors import InputError
from orbitrec.io.files import write_json
from plan import Half, Plan, Trial
from rates import commits, failures, table, verdict
from record import Program, recorded, run_trial

ROOT = Path(__file__).resolve().parents[2]


def parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="panel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--maps", nargs="+", help="names; all if not given")
    parser.add_argument("--conditions", nargs="+", help="names; all if not given")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the panel's own")
    parser.add_argument("--half", type=Half, choices=list(Half), help="the maps of one half only")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="of the orbitrec to run; this one if not given")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of a run; all cores")
    parser.add_argument("--limit", type=float, default=6, help="hours that a run may take (6)")
    parser.add_argument("--keep", action="store_true", help="the stacks, about 80 MB a run")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--json", type=Path, help="FOLDER/panel.json if not given")
    parser.add_argument("--panel", type=Path, default=Path(__file__).with_name("panel.toml"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of data and tools")
    return parser.parse_args(words)


def collected(plan: Plan, trials: list[Trial], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The records of what is finished, by whichever process, and the JSON file of them."""
    done = [record for trial in trials if (record := recorded(trial, arguments.output)) is not None]
    facts = {"right": plan.right, "fine": plan.fine, "planned": len(trials), "runs": done}
    write_json(arguments.json or arguments.output / "panel.json", facts)
    return done


def run(arguments: argparse.Namespace, console: Console) -> None:
    plan = Plan.read(arguments.panel)
    trials = plan.trials(arguments.maps, arguments.conditions, arguments.seeds, arguments.half)
    output, shared = arguments.output.resolve(), arguments.shared.resolve()
    program = Program(arguments.checkout.resolve(), arguments.threads, 3600 * arguments.limit)
    output.mkdir(parents=True, exist_ok=True)
    done = collected(plan, trials, arguments)
    for trial in [] if arguments.show else trials:
        if recorded(trial, output) is None:
            record = run_trial(trial, program, output, shared, arguments.keep)
            console.print(f"{trial.name}: {verdict(record, plan.right, plan.fine)}; {record['seconds']:.0f} s")
            done = collected(plan, trials, arguments)
    if not done:
        raise InputError(f"{output} has no finished run of these yet")
    title = f"orbitrec abinitio with defaults: {len(done)} of {len(trials)} runs, {commits(done)}"
    console.print(table(done, plan.right, plan.fine, title))
    for line in failures(done, plan.right, plan.fine):
        console.print(line)


def main(words: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to stop the run that is under way, as Ctrl-C does
    try:
        run(parsed(words), Console(highlight=False))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
