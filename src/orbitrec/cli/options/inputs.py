"""The options of every command that reads particles."""

from pathlib import Path
from typing import Annotated

import typer

Particles = Annotated[
    Path, typer.Argument(metavar="PARTICLES", help="RELION (.star) or cryoSPARC (.cs) table, or a stack (.mrcs).")
]
Datadir = Annotated[
    Path | None, typer.Option(help="Folder of the image stacks, if not beside the table or in a folder above it.")
]
PixelSize = Annotated[
    float | None, typer.Option("--pixel-size", min=0.01, max=1000, help="Å, instead of what the file says.")
]
Passthrough = Annotated[Path | None, typer.Option(help="cryoSPARC's passthrough file, if not beside the table (.cs).")]
NoCTF = Annotated[bool, typer.Option("--no-ctf", help="Take the images as free of a CTF.")]
Invert = Annotated[
    bool | None,
    typer.Option(
        "--invert/--no-invert", help="Dense is dark, or bright, in the images; found from the map if left out."
    ),
]
Diameter = Annotated[
    float | None,
    typer.Option(
        "--diameter", help="Diameter in Å of a ball that holds the particle; found from the images if left out."
    ),
]
