#!/usr/bin/env bash
# One item of docs/gpu_todo.md on a bare machine: torch with CUDA, python3.12, and the wheels that bench/wheels.sh fetched.
#   bench/gpu.sh ITEM [RESULT_FOLDER]     ITEM `session` (with its seconds third) does many of them in one process
set -euo pipefail
cd "$(dirname "$0")/.."
item=$1 out=${2:-docs/benchmarks/gpu}
mkdir -p "$out"
if [ -d wheels ]; then python3 -m pip install --quiet --no-index --no-deps wheels/*.whl; fi
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1
bench() { local name=$1; shift; python3 -m heliograph.cli bench --device cuda --json "$out/$name.json" "$@" 2>&1 | tee "$out/$name.txt"; }
random="--random-weights 14b --chunks 4 --rounds 2"
case $item in
  session) python3 bench/gpu_session.py "$out" --seconds "${3:-280}" ;;
  tests) python3 -m pytest -q -p no:cacheprovider tests/kernels tests/test_wan_decoder.py tests/engine/test_offload.py \
           tests/engine/test_tuning.py tests/engine/test_graphs.py tests/model/test_float8.py 2>&1 | tee "$out/tests.txt" ;;
  kernels) python3 bench/single_kernels.py "$out/kernels.json" 2>&1 | tee "$out/kernels.txt" ;;
  exact-111) bench exact-111 $random --steps 1,1,1 --against diffusers ;;
  exact-222) bench exact-222 $random --steps 2,2,2 --against diffusers ;;
  compiled-111) bench compiled-111 --random-weights 14b --chunks 3 --rounds 2 --steps 1,1,1 --against diffusers --compile-theirs ;;
  compiled-222) bench compiled-222 --random-weights 14b --chunks 3 --rounds 2 --steps 2,2,2 --against diffusers --compile-theirs ;;
  runners) for runner in eager graph compile; do bench "runner-$runner" $random --steps 1,1,1 --runner $runner; done ;;
  fp8) bench fp8-111 $random --steps 1,1,1 --fp8; bench fp8-222 $random --steps 2,2,2 --fp8 ;;
  reuse) bench reuse-111 $random --steps 1,1,1 --history-reuse chunk
         bench reuse-222 $random --steps 2,2,2 --history-reuse level
         bench reuse-chunk-222 $random --steps 2,2,2 --history-reuse chunk ;;
  fast) python3 -c "
import torch; from safetensors.torch import save_file; from heliograph.autoencoder import FastAutoencoder
save_file(FastAutoencoder().state_dict(), '$out/random_taew.safetensors')"
        bench decoder-111 $random --steps 1,1,1 --decoder "$out/random_taew.safetensors"
        bench fast-111 $random --steps 1,1,1 --mode fast --history-reuse chunk --decoder "$out/random_taew.safetensors"
        bench fast-222 $random --steps 2,2,2 --mode fast --history-reuse chunk --decoder "$out/random_taew.safetensors"
        rm "$out/random_taew.safetensors" ;;
  offload) python3 bench/offload.py "$out/offload.json" 2>&1 | tee "$out/offload.txt" ;;
  doctor) python3 -m heliograph.cli doctor --model BestWishYsh/Helios-Distilled --json > "$out/doctor.json"
          python3 -m heliograph.cli doctor --model BestWishYsh/Helios-Distilled | tee "$out/doctor.txt" ;;
  *) echo "gpu.sh: there is no item '$item'; docs/gpu_todo.md lists them" >&2; exit 2 ;;
esac
