"""The errors a user is meant to read."""


class InputError(ValueError):
    """Bad input, said in one sentence that names the file, row or parameter, what is wrong and what to do.

    The command line prints it and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


class WriteError(InputError):
    """An output could not be written, the disk being full: what was written before is whole and is kept."""
