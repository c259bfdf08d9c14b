#!/usr/bin/env bash
# Builds the release twice, from copies of this commit in different folders with registries in different places, and compares
# the bytes. What it sets is the recipe: --remap-path-prefix for Rust, -ffile-prefix-map for C, the commit's time as
# SOURCE_DATE_EPOCH; the compilers are those of rust-toolchain.toml and of the machine.
#
#   bash tests/supply/reproducible.sh                      the binary
#   bash tests/supply/reproducible.sh ring zstd-sys ...    only the libraries of these dependencies, or of this member
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0
what=(--bin convoy)
if [ $# -gt 0 ]; then
    what=("${@/#/-p}")
fi

build() { # NAME
    local place=$scratch/$1
    local home=$place/cargo
    local map="-ffile-prefix-map=$place=/build"
    mkdir -p "$place/source" "$home"
    git archive HEAD | tar -x -C "$place/source"
    ln -s "${CARGO_HOME:-$HOME/.cargo}/registry" "$home/registry"
    (cd "$place/source" &&
        CARGO_HOME=$home CARGO_TARGET_DIR=$place/target CFLAGS=$map CXXFLAGS=$map \
            RUSTFLAGS="--remap-path-prefix=$place=/build" \
            cargo build --quiet --release --locked --offline "${what[@]}")
    (cd "$place/target/release" &&
        find . \( -name convoy -o -name '*.rlib' -o -name '*.a' \) -type f -print0 | sort -z | xargs -0 sha256sum) \
        >"$scratch/$1.sums"
    if grep -rlF --include=convoy --include='*.a' "$place" "$place/target/release" | head -5; then
        echo "these name the folder that they were built in" >&2
    fi
}

build one
build another-place
diff "$scratch/one.sums" "$scratch/another-place.sums"
echo "reproducible: $(wc -l <"$scratch/one.sums") files, the same bytes"
