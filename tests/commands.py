"""Running the command line from a test."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

SMALL = ("--height", "64", "--width", "64", "--steps", "1,1,1")
"""Options that make a chunk quickly."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`heliograph …` in a folder."""
    command = [sys.executable, "-m", "heliograph.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def decoded(path: Path) -> np.ndarray:
    """All frames of a video file."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
