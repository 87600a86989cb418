"""Where a result comes from: the commit of the checkout that runs."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of a checkout that runs; None where the package is installed without its history."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
