"""Reading results that a command wrote: which record a file holds, and its tables for a document."""

import json
from pathlib import Path

from orbitrec.errors import InputError
from orbitrec.io.files import existing_file
from orbitrec.thesis.figure_2_4 import StartTable
from orbitrec.thesis.figure_3_7 import MatchingCurves
from orbitrec.thesis.mra_accuracy import AccuracyTable
from orbitrec.thesis.optimiser_starts import StartsTable
from orbitrec.thesis.optimiser_table import SolverTable
from orbitrec.thesis.records import ExperimentResult, Made
from orbitrec.thesis.table_2_1 import EncoderTable
from orbitrec.thesis.table_2_2_results import VolumeTable
from orbitrec.thesis.table_3_1 import TrainedMomNetTable
from orbitrec.thesis.table_3_2 import ShiftTable

RESULTS: dict[str, type[ExperimentResult]] = {
    "table-2.1": EncoderTable,
    "table-2.2": VolumeTable,
    "table-3.1": TrainedMomNetTable,
    "table-3.2": ShiftTable,
    "table-4.1": SolverTable,
    "table-4.2": SolverTable,
    "table-4.3": SolverTable,
    "optimiser-starts": StartsTable,
    "mra-accuracy": AccuracyTable,
    "figure-2.4": StartTable,
    "figure-3.7": MatchingCurves,
}
"""The record of every experiment, by the name that its files have."""


def read_result(path: Path) -> tuple[ExperimentResult, Made]:
    """What ``orbitrec reproduce`` wrote as JSON.

    Raises:
        InputError: if the file is missing, or holds something else.
    """
    text = existing_file(path).read_text(encoding="utf-8")
    try:
        values = json.loads(text)
        return RESULTS[values["experiment"]].from_json(values)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of an experiment ({error}); make it anew") from error


def as_markdown(path: Path) -> str:
    """The tables of a result for a document, and by what they were made, in a block of the class ``result``.

    Raises:
        InputError: as :func:`read_result`.
    """
    result, made = read_result(path)
    facts = [f"`{made.command}`", f"commit {made.commit[:7]}" if made.commit else "", made.device, made.note]
    source = f"*{'; '.join(fact for fact in facts if fact)}.*"
    tables = "\n".join(table.as_markdown() for table in result.tables())
    return f'<div class="result" markdown="1">\n\n{tables}\n{source}\n\n</div>\n'
