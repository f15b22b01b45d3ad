#!/usr/bin/env bash
# Makes the embedded model from nothing: src/heliograph/assets/tiny. One CPU core, about eighteen hours.
#
# Every call works for at most CALL_SECONDS (default 570) and goes on where the one before stopped; call it again until it
# says "done". State is kept in runs/state (RUN_STATE), which git ignores. Phases:
#   start       linear code, tokenizer, untrained networks         latents     12,000 clips x 4 chunks, rendered once
#   adapt       stage 1, from scratch                              multiscale  stage 2, three levels
#   motion      stage 2 where left and right are easy to find      crossings   the same in all colours and lights
#   settle      stage 2 again, on everything, gently               whole       the same in larger batches
#   continue    the same, mostly with a whole past                 even        both, the middle level counted twice
#   halved      cells of half the side, and clips of their size    finer       stage 2 on them, four times the tokens
#   pairs       the teacher's paths for prompts of the mix         ode         stage 3, few steps
#   decoder     the network that paints what the code lacks        refiner     the one that smooths and sharpens it
#   sharpen     the same against a critic, for edges               pack        the folder that is installed
#
# On a GPU, which takes minutes for what takes a core hours: EVEN_BATCH=1024 EVEN_STEPS=320 (36 GB).
#
# The variables for malloc keep freed memory and ask for large pages: a training step allocates and frees a gigabyte, and
# where a page fault is dear (virtual machines) the step took up to three times as long without them.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
STATE=${RUN_STATE:-runs/state}
OUTPUT=${OUTPUT:-src/heliograph/assets/tiny}
DEVICE=${DEVICE:-auto}
CLIPS=${CLIPS:-12000}
LATE=${LATE:-3000}
ADAPT_STEPS=${ADAPT_STEPS:-450}
MULTISCALE_STEPS=${MULTISCALE_STEPS:-9000}
MOTION_STEPS=${MOTION_STEPS:-150}
CROSSINGS_STEPS=${CROSSINGS_STEPS:-800}
SETTLE_STEPS=${SETTLE_STEPS:-3000}
WHOLE_STEPS=${WHOLE_STEPS:-3400}
CONTINUE_STEPS=${CONTINUE_STEPS:-1500}
EVEN_STEPS=${EVEN_STEPS:-3300}
EVEN_BATCH=${EVEN_BATCH:-64}
FINER_CLIPS=${FINER_CLIPS:-4000}
FINER_LATE=${FINER_LATE:-1000}
FINER_STEPS=${FINER_STEPS:-6000}
PROMPTS=${PROMPTS:-480}
PAIR_CHUNKS=${PAIR_CHUNKS:-6}
PAIR_STEPS=${PAIR_STEPS:-8,8,8}
ODE_STEPS=${ODE_STEPS:-1200}
DECODER_STEPS=${DECODER_STEPS:-4000}
REFINER_STEPS=${REFINER_STEPS:-2500}
SHARPEN_STEPS=${SHARPEN_STEPS:-1100}
PAINTED_CHUNKS=${PAINTED_CHUNKS:-900}
END=$((SECONDS + ${CALL_SECONDS:-570}))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456

left() { echo $((END - SECONDS > 10 ? END - SECONDS : 10)); }

# Run a command that can be interrupted and goes on when it is called again. It may say that by itself (75); what ends
# in any other way has failed, and would fail again.
limited() {
    local status=0
    timeout --signal=TERM --kill-after=60 "$(left)" "$@" || status=$?
    case $status in
        0) ;;
        75 | 124 | 137) echo "not done yet: call again"; exit 0 ;;
        *) echo "failed (status $status): $*" >&2; exit "$status" ;;
    esac
}

train() { # preset, start, data, steps; name of the result where it is not the preset's, and further options
    local out=$STATE/${5:-${1#embedded-}} resume=()
    [ -d "$out/model" ] && return
    [ -f "$out/run.json" ] && resume=(--resume)
    limited "$PYTHON" -m heliograph.cli train "$1" --start "$2" --data "$3" --output "$out" \
        --max-steps "$4" --device "$DEVICE" "${resume[@]}" "${@:6}"
}

latents() { # model whose code it is, folder, clips, how many of them late
    [ -f "$2/done" ] && return
    limited "$PYTHON" -m heliograph.embedded latents "$1" "$2" --clips "$3" --late "$4" --workers "${WORKERS:-1}" \
        --device "$DEVICE"
    touch "$2/done"
}

mkdir -p "$STATE"
[ -f "$STATE/start/heliograph.json" ] || "$PYTHON" -m heliograph.embedded start "$STATE/start"
latents "$STATE/start" "$STATE/latents" "$CLIPS" "$LATE"
train embedded-adapt "$STATE/start" "$STATE/latents" "$ADAPT_STEPS"
train embedded-multiscale "$STATE/adapt/model" "$STATE/latents" "$MULTISCALE_STEPS"
train embedded-motion "$STATE/multiscale/model" "$STATE/latents" "$MOTION_STEPS"
train embedded-crossings "$STATE/motion/model" "$STATE/latents" "$CROSSINGS_STEPS"
train embedded-settle "$STATE/crossings/model" "$STATE/latents" "$SETTLE_STEPS"
train embedded-whole "$STATE/settle/model" "$STATE/latents" "$WHOLE_STEPS" whole --batch-size 64 --learning-rate 1e-3
train embedded-continue "$STATE/whole/model" "$STATE/latents" "$CONTINUE_STEPS" continue --batch-size 64 --learning-rate 1e-3
train embedded-even "$STATE/continue/model" "$STATE/latents" "$EVEN_STEPS" even --batch-size "$EVEN_BATCH" --learning-rate 1e-3
[ -f "$STATE/halved/heliograph.json" ] || "$PYTHON" -m heliograph.embedded finer "$STATE/even/model" "$STATE/halved"
latents "$STATE/halved" "$STATE/halved-latents" "$FINER_CLIPS" "$FINER_LATE"
train embedded-finer "$STATE/halved" "$STATE/halved-latents" "$FINER_STEPS"
[ -f "$STATE/pairs/done" ] || {
    "$PYTHON" -m heliograph.embedded prompts "$STATE/prompts.txt" --count "$PROMPTS"
    limited "$PYTHON" -m heliograph.cli prepare "$STATE/prompts.txt" --ode-pairs --model "$STATE/finer/model" \
        --output "$STATE/pairs" --steps "$PAIR_STEPS" --guidance-scale 2.5 --negative-prompt "" --chunks "$PAIR_CHUNKS" \
        --device "$DEVICE"
    touch "$STATE/pairs/done"
}
train embedded-ode "$STATE/finer/model" "$STATE/pairs" "$ODE_STEPS"
[ -f "$STATE/decoder.done" ] || {
    limited "$PYTHON" -m heliograph.embedded decoder "$STATE/halved" "$STATE/decoder.pt" --steps "$DECODER_STEPS" \
        --seconds "$(($(left) - 20))"
    touch "$STATE/decoder.done"
}
[ -f "$STATE/painting/heliograph.json" ] ||
    "$PYTHON" -m heliograph.embedded pack "$STATE/ode/model" "$STATE/painting" --decoder "$STATE/decoder.pt"
[ -f "$STATE/refiner.done" ] || {
    limited "$PYTHON" -m heliograph.embedded refine "$STATE/painting" "$STATE/halved-latents" "$STATE/refiner.pt" \
        --steps "$REFINER_STEPS" --chunks "$PAINTED_CHUNKS" --seconds "$(($(left) - 20))"
    touch "$STATE/refiner.done"
}
[ -f "$STATE/sharpened.done" ] || {
    limited "$PYTHON" -m heliograph.embedded sharpen "$STATE/painting" "$STATE/halved-latents" "$STATE/refiner.pt" \
        "$STATE/sharpened.pt" --steps "$SHARPEN_STEPS" --chunks "$PAINTED_CHUNKS" --seconds "$(($(left) - 20))"
    touch "$STATE/sharpened.done"
}
"$PYTHON" -m heliograph.embedded pack "$STATE/painting" "$OUTPUT" --refiner "$STATE/sharpened.pt"
echo done
