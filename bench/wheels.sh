#!/usr/bin/env bash
# Wheels that a bare GPU machine (python3.12, Linux x86-64, torch already there) lacks, into wheels/, for bench/gpu.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
pinned() { for name in "$@"; do grep -i "^$name==" constraints.txt; done; }
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
  --platform manylinux2014_x86_64 --platform any --dest wheels \
  $(pinned accelerate av beartype click diffusers einops ftfy huggingface_hub jaxtyping peft psutil pytest iniconfig pluggy \
    regex rich markdown-it-py mdurl Pygments safetensors sentencepiece tokenizers transformers wadler_lindig wcwidth \
    hypothesis sortedcontainers httpx httpcore h11 anyio idna certifi sniffio PyYAML requests urllib3 \
    charset-normalizer packaging pillow importlib_metadata tqdm)
du -sh wheels
