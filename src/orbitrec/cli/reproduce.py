"""``orbitrec reproduce``: the thesis's tables and figures, one command each."""

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def reproduce() -> None:
    """Reproduce a table or figure of the thesis, its own figures beside ours."""
