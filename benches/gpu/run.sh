#!/usr/bin/env bash
# Measures convoy on this machine's GPU, and PyTorch beside it, in one go and within BUDGET seconds.
#
#   [VARIABLE=value ...] benches/gpu/run.sh
#
# CONVOY   the server's binary (target/release/convoy)
# BENCH    the GPU bench's binary (the newest target/release/deps/gpu-*), called as
#          BENCH PART --weights FILE --json FILE [--reference FILE]; in the environment PHOTOS is a folder of JPEGs. Its part
#          `all` is check, speed, layers, preprocess and decode in one process, each with a JSON of its own
# OUT      where report.md and results.json go, new after each part (benches/results/gpu)
# WORK     where each part's JSON and log go; what an earlier run left there is removed first (OUT)
# PARTS    which parts, in this order (all)
# BUDGET   seconds for everything; a part gets at most what is left of them (560)
# WEIGHTS  a checkpoint to measure with (seeded random weights of ARCH, from SEED)
# CHOICES  file of kernels that were chosen on an earlier run (a new one)
# ARCH, SEED, BATCHES, PORT, PYTHON, DEVICE   resnet152, 7, 1,8,32,64,128, 18080, python3 (with torch), cuda
# CONNECTIONS  of the load on the server, each with one request at a time (256), for HTTP_SECONDS (20)
# PHOTOS   a folder of JPEGs named 00.jpg and so on (one made from a seed)
# PYTORCH_ARGS  more arguments of pytorch.py
# BENCH_ARGS   more arguments of each call of BENCH
# SERVE_ARGS   more arguments of convoy serve
#
# Each part has a time limit and is on its own: whatever becomes of it is printed and noted, and the next goes on. Exits
# with 1 if a part failed or was cut off. The card's settings are left as they are.

set -uo pipefail

# Parts of the bench's binary.
BENCHES=(all check speed layers preprocess decode)
DEFAULT=(reference all pytorch http compile memcheck racecheck)
ALL=("${DEFAULT[@]}" check speed layers preprocess decode)
# The most seconds a part may take, and those that are left for others after it.
declare -A LIMIT=([reference]=90 [all]=170 [check]=90 [speed]=90 [pytorch]=150 [layers]=60 [preprocess]=40 [decode]=45 [http]=120
    [compile]=220 [memcheck]=120 [racecheck]=120)
declare -A SPARE=([compile]=90 [memcheck]=15)
# A part that would have fewer seconds than this is not begun.
declare -A LEAST=([http]=50 [compile]=45 [memcheck]=20 [racecheck]=20)

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
ROOT=$(cd "$HERE/../.." && pwd) || exit 1
CONVOY=${CONVOY:-$ROOT/target/release/convoy}
OUT=${OUT:-$ROOT/benches/results/gpu}
WORK=${WORK:-$OUT}
BUDGET=${BUDGET:-560}
ARCH=${ARCH:-resnet152}
SEED=${SEED:-7}
BATCHES=${BATCHES:-1,8,32,64,128}
PORT=${PORT:-18080}
CONNECTIONS=${CONNECTIONS:-256}
HTTP_SECONDS=${HTTP_SECONDS:-20}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
WEIGHTS=${WEIGHTS:-}
read -ra BENCH_ARGS <<<"${BENCH_ARGS:-}"
read -ra SERVE_ARGS <<<"${SERVE_ARGS:-}"
read -ra PYTORCH_ARGS <<<"${PYTORCH_ARGS:-}"
read -ra CHOSEN <<<"${PARTS:-${DEFAULT[*]}}"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

for part in "${CHOSEN[@]}"; do
    if [[ -z ${LIMIT[$part]:-} ]]; then
        echo "no such part: $part; there are: ${ALL[*]}" >&2
        exit 64
    fi
done
if [[ -z ${BENCH:-} ]]; then
    BENCH=
    for file in "$ROOT"/target/release/deps/gpu-*; do
        if [[ -f $file && -x $file && $file != *.d && (-z $BENCH || $file -nt $BENCH) ]]; then
            BENCH=$file
        fi
    done
fi

mkdir -p "$OUT" "$WORK" || exit 1
OUT=$(cd "$OUT" && pwd) || exit 1
WORK=$(cd "$WORK" && pwd) || exit 1
TEMP=$(mktemp -d) || exit 1
# Kernels that were chosen by one part are not chosen again by the next.
CHOICES=${CHOICES:-$TEMP/kernels}
export PHOTOS=${PHOTOS:-$TEMP/photos}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$TEMP/inductor}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$TEMP/triton}
export TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-16}
REFERENCE=$TEMP/reference.safetensors
LIBRARIES=
CHILDREN=()
declare -A STATE TOOK
FAILED=0

for part in "${ALL[@]}" http_one; do
    rm -f "$WORK/$part.json" "$WORK/$part.json.partial" "$WORK/$part.log"
    STATE[$part]="not run: not asked for"
done
for part in "${CHOSEN[@]}"; do
    STATE[$part]="not run: the run ended before"
done
rm -f "$OUT/report.md" "$OUT/results.json" "$WORK/machine.txt" "$WORK/parts.tsv" "$WORK/serve.log" "$WORK/metrics.txt"

# Called on exit, also by a signal.
# shellcheck disable=SC2317
leave() {
    local child
    for child in "${CHILDREN[@]}"; do
        kill "$child" 2>/dev/null
    done
    rm -rf "$TEMP"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Writes how parts ended, and the report.
note() {
    local part
    for part in "${ALL[@]}"; do
        printf '%s\t%s\t%s\n' "$part" "${STATE[$part]}" "${TOOK[$part]:-}"
    done >"$WORK/parts.tsv"
    timeout -k 2 20 "$PYTHON" "$HERE/report.py" "$WORK" "$OUT" || echo "the report could not be written"
}

# limited SECONDS LOG COMMAND... : runs it, its output both in the log and here; 124 or 137 is out of time.
limited() {
    local seconds=$1 log=$2 child code
    shift 2
    timeout -k 5 "$seconds" "$@" >>"$log" 2>&1 </dev/null &
    child=$!
    CHILDREN=("$child")
    tail -n +1 -s 0.2 -f --pid="$child" "$log" 2>/dev/null
    wait "$child"
    code=$?
    CHILDREN=()
    return "$code"
}

machine() {
    echo "date         $(date -u +%FT%TZ)"
    echo "cores        $(nproc), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "memory       $(sed -n 's/^MemTotal: *//p' /proc/meminfo), kernel $(uname -r)"
    local query=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,memory.total
    echo "gpu          $(timeout 15 nvidia-smi --query-gpu="$query" --format=csv,noheader 2>&1 | head -n 4)"
    echo "  as in      $query"
    local nvcc
    nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    echo "nvcc         $("$nvcc" --version 2>&1 | tail -n 2 | tr '\n' ' ')"
    echo "python       $("$PYTHON" --version 2>&1), $(command -v "$PYTHON")"
    echo "packages     $(timeout 30 "$PYTHON" -c '
from importlib.metadata import PackageNotFoundError, version
for name in "torch", "torchvision", "triton", "numpy", "safetensors", "pillow":
    try:
        print(name, version(name), end=" ")
    except PackageNotFoundError:
        print(name, "missing", end=" ")' 2>&1)"
    echo "convoy       $("$CONVOY" --version 2>&1 | head -n 1), $CONVOY"
    echo "bench        ${BENCH:-none}"
    local name folder found
    for name in libcuda.so.1 libcudnn.so.9 libcublasLt.so.13 libnvrtc.so.13 libnvjpeg.so.13; do
        found=
        while read -r folder; do
            if [[ -n $folder && -e $folder/$name ]]; then
                found=$folder/$name
                break
            fi
        done < <(tr : '\n' <<<"$LIBRARIES:${LD_LIBRARY_PATH:-}")
        if [[ -z $found ]]; then
            found=$( (ldconfig -p || /sbin/ldconfig -p) 2>/dev/null | awk -v name="$name" '$1 == name { print $NF; exit }')
        fi
        printf '%-20s %s\n' "$name" "${found:-NOT FOUND}"
    done
}

# Folders of CUDA's libraries: Python packages first, then the toolkit, so that one version of each is found first.
libraries() {
    local folder
    while read -r folder; do
        if [[ -d $folder ]]; then
            LIBRARIES+=${LIBRARIES:+:}$folder
        fi
    done < <(
        timeout 20 "$PYTHON" -c '
import glob, os
try:
    import nvidia
    roots = list(nvidia.__path__)
except ImportError:
    roots = []
print("\n".join(path for root in roots for path in sorted(glob.glob(os.path.join(root, "*", "lib")))))' 2>/dev/null
        printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib
    )
}

# 64 JPEGs of quality 90 in PHOTOS, from a seed: half of them 500x375, half 640x480; a gradient, 14 soft blobs, 10 rectangles
# and 10 ellipses, each of a random place, size and colour, then normal noise of 6 of 255, as a small sensor has it.
photos() {
    mkdir -p "$PHOTOS" || return
    if [[ -e $PHOTOS/00.jpg ]]; then
        echo "photos       $PHOTOS, as they were"
        return
    fi
    timeout -k 2 60 "$PYTHON" - "$PHOTOS" <<'PYTHON'
import math
import sys

import numpy
from PIL import Image, ImageDraw

rng = numpy.random.default_rng(2)


def colour():
    return rng.uniform(0, 255, 3).astype(numpy.float32)


for i in range(64):
    width, height = (500, 375) if i % 2 == 0 else (640, 480)
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float32)
    angle = numpy.float32(rng.uniform(0, 2 * math.pi))
    along = ((x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)) / math.hypot(width, height) + 0.5
    pixels = colour() * along[..., None] + colour() * (1 - along[..., None])
    for _ in range(14):
        cx, cy, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(15, 150)
        down, across = (numpy.exp(-((p - c) ** 2) / (2 * radius * radius)) for p, c in ((y[:, 0], cy), (x[0], cx)))
        shape = numpy.outer(down, across)[..., None]
        pixels += (colour() - pixels) * shape
    image = Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))
    draw = ImageDraw.Draw(image)
    for which in range(20):
        left, top = rng.uniform(0, width), rng.uniform(0, height)
        box = [left, top, left + rng.uniform(5, 120), top + rng.uniform(5, 120)]
        (draw.rectangle if which % 2 else draw.ellipse)(box, fill=tuple(colour().astype(int).tolist()))
    noisy = numpy.asarray(image, numpy.float32) + 6 * rng.standard_normal((height, width, 3), numpy.float32)
    Image.fromarray(noisy.clip(0, 255).astype(numpy.uint8)).save(f"{sys.argv[1]}/{i:02}.jpg", quality=90)
PYTHON
    echo "photos       $(find "$PHOTOS" -name '*.jpg' | wc -l) JPEGs, $(du -sb "$PHOTOS" | cut -f 1) bytes"
}

# get PATH : status line and all of the server's answer.
get() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$PORT" || exit 1
        printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$1" >&3
        timeout 5 cat <&3
    ) 2>/dev/null
}

# serve_and_load SECONDS LOG
serve_and_load() {
    local until=$((SECONDS + $1)) log=$2 server code=1 photos=("$PHOTOS"/*.jpg) ready="" line
    if [[ ! -e ${photos[0]} ]]; then
        echo "there are no photos" | tee -a "$log"
        return 1
    fi
    if get /readyz >/dev/null; then
        echo "port $PORT is taken" | tee -a "$log"
        return 1
    fi
    # Identical photos must not share an execution: there are fewer of them than connections.
    "${WITH_LIBRARIES[@]}" timeout -k 5 "$1" "$CONVOY" serve --device "$DEVICE" --weights "$WEIGHTS" --bind "127.0.0.1:$PORT" \
        --services photos --max-batch 64 --queue 2048 --share-identical false --lame-duck-ms 0 --grace-ms 3000 \
        --kernel-cache "$CHOICES" \
        "${SERVE_ARGS[@]}" >"$WORK/serve.log" 2>&1 </dev/null &
    server=$!
    CHILDREN=("$server")
    while ((SECONDS < until - 30)) && kill -0 "$server" 2>/dev/null; do
        line=$(get /readyz | head -n 1)
        if [[ $line == *" 200 "* ]]; then
            ready=yes
            break
        fi
        sleep 0.3
    done
    if [[ $ready ]]; then
        echo "ready" | tee -a "$log"
        timeout -k 2 30 "$CONVOY" bench "http://127.0.0.1:$PORT/classify" --photo "${photos[@]}" --connections "$CONNECTIONS" \
            --warm-up 2s --duration "${HTTP_SECONDS}s" --json "$WORK/http.json" 2>&1 </dev/null | tee -a "$log"
        code=$?
        get /metrics >"$WORK/metrics.txt"
        if ((SECONDS < until - 12)); then
            timeout -k 2 12 "$CONVOY" bench "http://127.0.0.1:$PORT/classify" --photo "${photos[@]}" --connections 1 \
                --warm-up 500ms --duration 4s --json "$WORK/http_one.json" 2>&1 </dev/null | tee -a "$log"
        fi
    else
        echo "the server did not become ready" | tee -a "$log"
    fi
    kill "$server" 2>/dev/null
    for _ in {1..40}; do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    CHILDREN=()
    tail -n 15 "$WORK/serve.log" | tee -a "$log"
    return "$code"
}

# run_part PART SECONDS LOG
run_part() {
    local part=$1 seconds=$2 log=$3 sanitizer reference=()
    local pytorch=("$PYTHON" "$HERE/pytorch.py" --weights "$WEIGHTS" --arch "$ARCH" --device "$DEVICE" --batches "$BATCHES"
        "${PYTORCH_ARGS[@]}")
    if [[ -s $REFERENCE ]]; then
        reference=(--reference "$REFERENCE")
    fi
    case $part in
    reference)
        limited "$seconds" "$log" "${pytorch[@]}" --modes '' --limit "$((seconds - 2))" --dump "$REFERENCE"
        ;;
    pytorch)
        limited "$seconds" "$log" "${pytorch[@]}" --modes eager,graph,fused --limit "$((seconds - 2))" \
            --json "$WORK/pytorch.json"
        ;;
    compile)
        limited "$seconds" "$log" "${pytorch[@]}" --modes compile --limit "$((seconds - 3))" --compile-seconds "$seconds" \
            --json "$WORK/compile.json"
        ;;
    http)
        serve_and_load "$seconds" "$log"
        ;;
    memcheck | racecheck)
        sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
        # What takes how long under it is nobody's choice.
        cp "$CHOICES" "$TEMP/choices-$part" 2>/dev/null
        limited "$seconds" "$log" "${WITH_LIBRARIES[@]}" "$sanitizer" --tool "$part" --error-exitcode 1 --print-limit 20 \
            "$BENCH" check --small --weights "$WEIGHTS" --json "$TEMP/$part.json" --choices "$TEMP/choices-$part" "${BENCH_ARGS[@]}"
        ;;
    *)
        limited "$seconds" "$log" "${WITH_LIBRARIES[@]}" "$BENCH" "$part" --weights "$WEIGHTS" --json "$WORK/$part.json" \
            --batches "$BATCHES" --choices "$CHOICES" "${reference[@]}" "${BENCH_ARGS[@]}"
        ;;
    esac
}

needs_bench() {
    [[ " ${BENCHES[*]} memcheck racecheck " == *" $1 "* ]]
}

# part NAME : runs it in the time there is, and notes what became of it.
part() {
    local name=$1 seconds begun code
    seconds=$((BUDGET - SECONDS - 5 - ${SPARE[$name]:-0}))
    if ((seconds > LIMIT[$name])); then
        seconds=${LIMIT[$name]}
    fi
    if needs_bench "$name" && [[ ! -x $BENCH ]]; then
        STATE[$name]="not run: no bench binary"
    elif ((seconds < ${LEAST[$name]:-10})); then
        STATE[$name]="not run: no time left"
    else
        printf '\n== %s: at most %s s, %s s of %s used\n' "$name" "$seconds" "$SECONDS" "$BUDGET"
        begun=$SECONDS
        : >"$WORK/$name.log"
        run_part "$name" "$seconds" "$WORK/$name.log"
        code=$?
        TOOK[$name]=$((SECONDS - begun))
        case $code in
        0) STATE[$name]="ok" ;;
        124 | 137) STATE[$name]="cut off after ${TOOK[$name]} s" ;;
        *) STATE[$name]="failed, exit $code" ;;
        esac
    fi
    if [[ ${STATE[$name]} != ok ]]; then
        FAILED=1
    fi
    echo "== $name: ${STATE[$name]}"
    note
}

libraries
WITH_LIBRARIES=(env "LD_LIBRARY_PATH=$LIBRARIES${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
machine | tee "$WORK/machine.txt"
if [[ -z $WEIGHTS ]]; then
    timeout -k 2 60 "$CONVOY" weights random "$ARCH" --seed "$SEED" --out "$TEMP/weights.safetensors" &&
        WEIGHTS=$TEMP/weights.safetensors
fi
if [[ ! -s $WEIGHTS ]]; then
    echo "there are no weights: nothing can run"
    note
    exit 1
fi
echo "weights      $WEIGHTS" | tee -a "$WORK/machine.txt"
note
if [[ " ${CHOSEN[*]} " == *" http "* || " ${CHOSEN[*]} " == *" decode "* || " ${CHOSEN[*]} " == *" all "* ]]; then
    photos | tee -a "$WORK/machine.txt"
    note
fi
for name in "${CHOSEN[@]}"; do
    part "$name"
done
printf '\n%s s of %s used; %s/report.md:\n\n' "$SECONDS" "$BUDGET" "$OUT"
cat "$OUT/report.md"
exit "$FAILED"
