"""Which commit of this package is running; figures that are kept name it."""

import subprocess
from pathlib import Path


def revision() -> str:
    """The commit of this source tree, marked where it was changed since; empty for an installed package."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
