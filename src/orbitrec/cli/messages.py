"""Sentences of the library in the words of the command line: parameters become options.

The library names a parameter in backticks, such as `pixel_size_A` or `ctf=False`, since it does not know who calls it.
"""

import os
import re

OPTIONS = {
    "batch": "--batch",
    "classes": "--classes",
    "ctf=False": "--no-ctf",
    "datadir": "--datadir",
    "dense_is_dark": "--invert or --no-invert",
    "device": "--device",
    "diameter_A": "--diameter",
    "learning_rate": "--rate",
    "mask_radius_A": "--mask-radius-A",
    "matched": "--matched",
    "method": "--method",
    "output": "--output",
    "passes": "--passes",
    "random": "--starts",
    "passthrough": "--passthrough",
    "pixel_size_A": "--pixel-size",
    "percentile": "--percentile",
    "proposals": "--proposals",
    "resolution_A": "--resolution",
    "resume": "--resume",
    "shift_px": "--shift-px",
    "sigma": "--sigma",
    "steps": "--steps",
    "truth": "--truth",
    "voxel_size_A": "--pixel-size",
    "width": "--width",
}
"""Every parameter that a sentence of the library may name, and the option that sets it."""


def for_command_line(text: str) -> str:
    """The text with every known parameter in backticks replaced by its option; anything else is kept."""
    return re.sub("`([^`]+)`", lambda found: OPTIONS.get(found[1], found[0]), text)


def say(text: str, colour: str) -> None:
    """Print a sentence on the error stream; of several processes, the first does."""
    from rich.console import Console
    from rich.markup import escape

    if os.environ.get("RANK", "0") == "0":
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold {colour}]orbitrec:[/] {escape(for_command_line(text))}")
