#!/usr/bin/env bash
# Expands the shared weight packs into safetensors files for the tests: expand_weights.sh PACKS OUT PYTHON
set -euo pipefail
packs=$1 out=$2 python=$3
mkdir -p "$out"

expand() { # name, command writing to its last argument
    local file="$out/$1.safetensors"
    [ -s "$file" ] && return
    shift
    "$@" "$file.partial" >/dev/null
    mv "$file.partial" "$file"
}

expand resnet18 "$python" "$packs/expand_pack.py" "$packs/pack-resnet18.safetensors" resnet18
expand resnet50 "$python" "$packs/expand_pack.py" "$packs/pack-resnet50.safetensors" resnet50
expand resnet152-grown "$python" "$packs/expand_pack.py" "$packs/pack-resnet50.safetensors" resnet152
expand resnet152-seed0 "$python" "$packs/gen_resnet152.py" --center "$packs/resnet152-seed0-center.json" --out
