"""Progress bars, drawn on the terminal and nowhere else."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def passing_bar() -> "Progress":
    """A bar that goes away when the work is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def staying_bar(shown: bool = True) -> "Progress":
    """A bar with what is being done and the time left, which stays when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<30}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))
