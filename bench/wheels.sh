#!/usr/bin/env bash
# Wheels that a bare GPU machine lacks for bench/gpu.sh, bench/gpu_session.py, training and the tests of kernels:
#   bench/wheels.sh [FOLDER]     (default: wheels)
# Such a machine has python3.12 on Linux x86-64, torch, transformers and what those need, accelerate, einops, hypothesis,
# jaxtyping, peft, pillow, psutil, pytest and rich. With the front end of cuDNN these eight take 47 MB, av alone 36.
set -euo pipefail
cd "$(dirname "$0")/.."
pinned() { for name in "$@"; do grep -i "^$name==" constraints.txt; done; }
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --dest "${1:-wheels}" \
  $(pinned av beartype diffusers ftfy importlib_metadata wcwidth zipp) nvidia-cudnn-frontend==1.19.1
du -sh "${1:-wheels}"
