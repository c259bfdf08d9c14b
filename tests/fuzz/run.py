#!/usr/bin/env python3
"""Runs the fuzz targets with libFuzzer and prints what came of it; exits 1 if anything did.

    python3 tests/fuzz/run.py [--runs N | --seconds S] [--sanitizer address] [TARGET ...]
    python3 tests/fuzz/run.py --minimise [TARGET ...]     # from what runs have found to the corpora in the repository

The programs are built with the pinned toolchain: LLVM's coverage pass is reached with stable flags, so neither nightly
nor cargo-fuzz is needed (a C++ compiler is, for libFuzzer itself). AddressSanitizer wants a nightly toolchain
(--toolchain) and clang, which builds the C libraries with it, too.

What a run finds is kept in target/fuzz/corpus and used by the next; inputs that fail lie in target/fuzz/failures.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "fuzz"

COVERAGE = (
    "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    " -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
    " -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-stack-depth"
    " -Cllvm-args=-simplifycfg-branch-fold-threshold=0 --cfg fuzzing"
)

# Longest input, MiB that the process may take, MiB that one allocation may take. The bound on memory is the target's own:
# what its limits let it take at most, and 200 MiB for libFuzzer, its corpus and the program.
LIMITS = {
    "access": (4096, 256, 16),
    "config": (1024, 256, 16),
    "encoder": (4096, 384, 64),
    "faq_clean": (4096, 256, 16),
    "faq_corpus": (2048, 512, 64),
    # 64 MiB of working memory for the 2^24 texts that a model may name.
    "faq_model": (12288, 640, 80),
    "grpc": (4096, 256, 16),
    "heads": (2048, 256, 16),
    "http": (4096, 384, 32),
    # 12 bytes for each of 65,536 pixels and 16 MiB for a decoder.
    "image": (8192, 256, 32),
    # The same for 50,000,000.
    "image_default": (4096, 900, 450),
    "manifest": (2048, 256, 16),
    "pth": (4096, 256, 16),
    "safetensors": (24576, 256, 16),
    "score": (4096, 256, 16),
    "v2": (4096, 256, 32),
}

# Seconds of CPU time after which an input counts as one that hangs; a picture of 50 million pixels takes most of one.
HANG = {"image_default": 5}

# Files and bytes of a target's corpus in the repository, and bytes of its largest file.
KEPT_FILES, KEPT, KEPT_FILE = 32, 16 << 10, 3 << 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--runs", type=int, help="executions of each target")
    parser.add_argument("--seconds", type=int, help="seconds for each target")
    parser.add_argument("--sanitizer", choices=["none", "address"], default="none")
    parser.add_argument("--toolchain", default="nightly", help="for a sanitizer")
    parser.add_argument("--minimise", action="store_true", help="write tests/fuzz/corpus")
    parser.add_argument("--no-build", action="store_true", help="run what was built before")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(LIMITS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(LIMITS)}")
    targets = options.targets or list(LIMITS)
    programs = build(options)
    # The targets' own files, too: a process that libFuzzer ends removes none.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        os.environ["TMPDIR"] = scratch
        if options.minimise:
            for target in targets:
                minimise(programs, target)
            return
        print(f"{'target':14} {'executions':>11} {'exec/s':>7} {'peak MiB':>8} {'bound':>6} {'slowest s':>9}"
              f" {'corpus':>6} {'edges':>6} {'failures':>8}", flush=True)
        sys.exit(1 if sum([fuzz(programs, target, options) for target in targets]) else 0)


def build(options):
    """The folder of the programs."""
    cargo, host = ["cargo"], subprocess.check_output(["rustc", "-vV"], cwd=ROOT, text=True)
    host = re.search(r"host: (\S+)", host)[1]
    env = dict(os.environ, RUSTFLAGS=COVERAGE, CARGO_TARGET_DIR=str(WORK / options.sanitizer))
    if options.sanitizer == "address":
        cargo = ["cargo", f"+{options.toolchain}"]
        env["RUSTFLAGS"] += " -Zsanitizer=address"
        # C code is only looked after where clang has built it; the flags must not reach what runs on the build's host.
        suffix = host.replace("-", "_")
        env |= {f"CC_{suffix}": "clang", f"CXX_{suffix}": "clang++", f"CFLAGS_{suffix}": "-fsanitize=address"}
    if not options.no_build:
        subprocess.run([*cargo, "build", "--locked", "--target", host], cwd=HERE, env=env, check=True)
    return WORK / options.sanitizer / host / "debug"


def command(programs, target, *more):
    longest, memory, allocation = LIMITS[target]
    if "address" in programs.parts:
        memory, allocation = 4 * memory, 2 * allocation
    dictionary = HERE / "dictionaries" / f"{target}.dict"
    return [
        programs / target, f"-max_len={longest}", f"-rss_limit_mb={memory}", f"-malloc_limit_mb={allocation}",
        f"-timeout={HANG.get(target, 1)}", *([f"-dict={dictionary}"] if dictionary.exists() else []), *more,
    ]


def fuzz(programs, target, options):
    """Runs a target and prints its line; how many inputs failed."""
    corpus, failures = WORK / "corpus" / target, WORK / "failures" / target
    for folder in (corpus, failures):
        folder.mkdir(parents=True, exist_ok=True)
    kept = HERE / "corpus" / target
    log = WORK / f"{target}.log"
    done, seen = 0, set(failures.iterdir())
    while True:
        bound = []
        if options.runs:
            bound = [f"-runs={options.runs - done}"]
        elif options.seconds:
            bound = [f"-max_total_time={options.seconds}"]
        arguments = command(programs, target, *bound, "-print_final_stats=1", f"-artifact_prefix={failures}/", corpus,
                            *([kept] if kept.is_dir() else []))
        with open(log, "w") as out:
            env = dict(os.environ, CONVOY_FUZZ_SEEDS=str(corpus))
            code = subprocess.run(arguments, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=ROOT).returncode
        text = log.read_text(errors="replace")
        executed = int(stat(text, "number_of_executed_units") or 0)
        done += executed
        new = set(failures.iterdir()) - seen
        for slow in [path for path in new if path.name.startswith(("timeout-", "slow-unit-"))]:
            # The clock on the wall also counts what others take of the machine.
            if code == 0 or not hangs(programs, target, slow):
                slow.unlink()
                new.discard(slow)
        # After a stall of the machine the rest of the executions is still due.
        if code == 0 or new or not executed or not options.runs or done >= options.runs:
            break
    found = max(len(new), 0 if executed else 1)
    corpus_size, edges = last(text, r"corp: (\d+)"), last(text, r"cov: (\d+)")
    print(f"{target:14} {done:>11,} {stat(text, 'average_exec_per_sec') or '?':>7} {stat(text, 'peak_rss_mb') or '?':>8}"
          f" {LIMITS[target][1]:>6} {stat(text, 'slowest_unit_time_sec') or '?':>9} {corpus_size:>6} {edges:>6}"
          f" {found:>8}", flush=True)
    if found:
        print("\n".join(f"    {path}" for path in new) or f"    see {log}", flush=True)
    return found


def hangs(programs, target, path):
    """Whether one input alone takes that much CPU time; the least of three."""
    def cpu():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command(programs, target, "-timeout=60", path), stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return min(cpu() for _ in range(3)) > HANG.get(target, 1)


def stat(text, name):
    found = re.findall(rf"stat::{name}:\s*(\d+)", text)
    return found[-1] if found else None


def last(text, pattern):
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def minimise(programs, target):
    """Of the fewest files that reach all that the corpus reaches, a sample of every size, as far as there is room."""
    kept = HERE / "corpus" / target
    with tempfile.TemporaryDirectory() as merged:
        subprocess.run(command(programs, target, "-merge=1", merged, WORK / "corpus" / target,
                               *([kept] if kept.is_dir() else [])),
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, cwd=ROOT)
        files = sorted(Path(merged).iterdir(), key=lambda path: (path.stat().st_size, path.name))
        small = [path for path in files if path.stat().st_size <= KEPT_FILE]
        sample = small[::max(1, -(-len(small) // KEPT_FILES))]
        # A crasher of old keeps its name, which says what it was.
        for path in kept.glob("*") if kept.is_dir() else []:
            if re.fullmatch(r"[0-9a-f]{40}", path.name):
                path.unlink()
        kept.mkdir(parents=True, exist_ok=True)
        room, count = KEPT, 0
        for path in sample:
            if path.stat().st_size <= room:
                shutil.copy(path, kept / path.name)
                room -= path.stat().st_size
                count += 1
    print(f"{target:14} {count} of {len(files)} files, {KEPT - room} bytes")


if __name__ == "__main__":
    main()
