"""Tests of heliograph.

Where there is no GPU, Triton's interpreter runs its kernels; that has to be said before anything imports Triton.
"""

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"
