"""Success rates of finished trials with their intervals, as a table for the terminal and for the documentation."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table
from scipy.stats import binomtest

from plan import Half

COLUMNS = (
    "condition", "half", "right", "95 % interval", "fine", "FSC 0.5 Å: median (range)", "known poses Å",
    "s", "processor s", "GiB",
)  # fmt: skip
FLAGS = ("junk flagged", "good lost")
Record = Mapping[str, Any]


def within(record: Record, factor: float) -> bool:
    """Whether a map is as fine as ``factor`` times RELION's from known poses; a run without a map is not."""
    return record["reason"] is None and record["fsc05_A"] <= factor * record["known_fsc05_A"]


def interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's interval of 95 % of a success rate (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    found = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def rows(records: Sequence[Record], right: float, fine: float) -> list[tuple[str, ...]]:
    """A row of text for each condition and half, and for both where both are there; medians over the runs.

    Args:
        records: of finished trials.
        right: how many times the resolution of known poses a right map may have.
        fine: the same for a fine one.

    Returns:
        Cells by :data:`COLUMNS`, and :data:`FLAGS` where a run flagged outliers.
    """
    flags = any("junk" in record for record in records)
    return [
        (condition, half, *_cells(group, right, fine), *(_flag_cells(group) if flags else ()))
        for condition, half, group in _groups(records)
    ]


def _groups(records: Sequence[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    for condition in dict.fromkeys(record["condition"] for record in records):
        of_condition = [record for record in records if record["condition"] == condition]
        halves = {half: [record for record in of_condition if record["half"] == half] for half in Half}
        for half, group in halves.items():
            if group:
                yield condition, half.value, group
        if all(halves.values()):
            yield condition, "both", of_condition


def _cells(group: Sequence[Record], right: float, fine: float) -> tuple[str, ...]:
    count = len(group)
    are_right, are_fine = (sum(within(record, factor) for record in group) for factor in (right, fine))
    low, high = interval(are_right, count)
    found = [record["fsc05_A"] for record in group if record["reason"] is None]
    return (
        f"{are_right} of {count}", f"{100 * low:.0f} – {100 * high:.0f} %", f"{are_fine} of {count}",
        f"{median(found):.1f} ({min(found):.1f} – {max(found):.1f})" if found else "no map",
        f"{median(record['known_fsc05_A'] for record in group):.1f}",
        f"{median(record['seconds'] for record in group):.0f}",
        f"{median(record['processor_s'] for record in group):.0f}",
        f"{max(record['peak_GiB'] for record in group):.2f}",
    )  # fmt: skip


def _flag_cells(group: Sequence[Record]) -> tuple[str, ...]:
    return tuple(_share(group, f"{kind}_flagged", kind) for kind in ("junk", "good"))


def _share(group: Sequence[Record], part: str, whole: str) -> str:
    """Pooled over the runs that flagged outliers."""
    flagging = [record for record in group if whole in record]
    total = sum(record[whole] for record in flagging)
    return f"{100 * sum(record[part] for record in flagging) / total:.1f} %" if total else "–"


def verdict(record: Record, right: float, fine: float) -> str:
    """What became of a run, in words."""
    if record["reason"] is not None:
        return f"no map: {record['reason']}"
    words = "fine" if within(record, fine) else "right" if within(record, right) else "not right"
    return f"{words}: {record['fsc05_A']:.1f} Å, from known poses {record['known_fsc05_A']:.1f} Å"


def failures(records: Sequence[Record], right: float, fine: float) -> list[str]:
    """A line for each run that is not right, with what the program itself said against its map."""
    return [
        f"{record['map']}, {record['condition']}, seed {record['seed']}: {verdict(record, right, fine)}; "
        f"{len(record.get('checks', ())) or 'no'} warning(s)"
        for record in records
        if not within(record, right)
    ]


def table(records: Sequence[Record], right: float, fine: float, title: str) -> Table:
    """The rates for the terminal."""
    cells = rows(records, right, fine)
    drawn = Table(title=title)
    for column in _columns(cells):
        drawn.add_column(column, no_wrap=column in ("condition", "right", "fine"))
    for row in cells:
        drawn.add_row(*row, end_section=row[1] == "both")
    return drawn


def as_markdown(panel: Mapping[str, Any]) -> str:
    """The rates of a panel's JSON file for the documentation, and which code they are of."""
    cells = rows(panel["runs"], panel["right"], panel["fine"])
    lines = [_columns(cells), ["---"] * len(_columns(cells)), *cells]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{len(panel['runs'])} of {panel['planned']} runs; {commits(panel['runs'])}."


def commits(records: Sequence[Record]) -> str:
    """Which code the runs are of; more than one commit is said, not hidden."""
    found = list(dict.fromkeys(record["commit"] for record in records))
    return f"{'commit' if len(found) == 1 else f'{len(found)} commits:'} {', '.join(found)}"


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    return [*COLUMNS, *FLAGS][: len(cells[0])] if cells else list(COLUMNS)
