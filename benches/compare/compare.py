"""Forward passes of ONNX Runtime, OpenVINO, PyTorch and convoy in turn: same machine, weights file, threads and batch.

    python benches/compare/compare.py WEIGHTS.safetensors [--batch 1 8] [--threads 1 2] [--rounds 9] [--engines ...]

What the others need is installed with pip into .cache/compare at the first run (requirements.txt; some gigabytes).

Every engine lives in a process of its own (worker.py, convoy.rs) that prints one JSON line when it is warm, and then, for
each line with a number, runs so many passes and prints how long they took. Rounds visit the engines one after the other,
so that what else the machine does hits all alike; all run at the niceness that convoy gives its threads. The table gives
the median over the rounds of images a second, and the ratio to ONNX Runtime as the median of the ratios within each round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
VENV = os.path.join(ROOT, ".cache", "compare")
ENGINES = ["onnxruntime", "openvino", "torch", "convoy"]


def set_up():
    """Goes on in an environment that has what requirements.txt lists, made where there is none."""
    if os.path.realpath(sys.prefix) == os.path.realpath(VENV):
        return
    python, ready = os.path.join(VENV, "bin", "python"), os.path.join(VENV, "ready")
    if not os.path.exists(ready):
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", os.path.join(HERE, "requirements.txt")], check=True)
        open(ready, "w").close()
    os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])


def build():
    """Builds convoy's worker and returns its path."""
    command = ["cargo", "bench", "--bench", "compare", "--no-run", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines if line.startswith("{")]
    return next(m["executable"] for m in built if m.get("target", {}).get("name") == "compare" and m.get("executable"))


class Worker:
    def __init__(self, command):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(["nice", *command], cwd=HERE, stdin=pipe, stdout=pipe, text=True)
        self.hello = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self, passes):
        self.process.stdin.write(f"{passes}\n")
        self.process.stdin.flush()
        return self.read()

    def peak(self):
        """Largest resident memory so far, in MB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1000

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def await_quiet(limit):
    """Waits until nine tenths of the machine have been idle for a moment, or so many seconds have passed."""

    def clocks():
        with open("/proc/stat") as stat:
            values = [int(value) for value in stat.readline().split()[1:9]]
        return values[3] + values[4], sum(values)

    end = time.monotonic() + limit
    while time.monotonic() < end:
        idle, total = clocks()
        time.sleep(0.25)
        later = clocks()
        if later[0] - idle >= 0.9 * (later[1] - total):
            return


def start(engine, convoy, args, model, batch, threads):
    weights, numbers = os.path.abspath(args.weights), [str(batch), str(threads)]
    others = [sys.executable, "-W", "ignore", os.path.join(HERE, "worker.py"), engine, weights, model]
    command = [convoy, weights] if engine == "convoy" else others
    try:
        return Worker([*command, *numbers])
    except (RuntimeError, OSError) as error:
        print(f"{engine} is left out: {error}", file=sys.stderr)
        return None


def compare(args, convoy, model, batch, threads):
    workers = {engine: start(engine, convoy, args, model, batch, threads) for engine in args.engines}
    workers = {engine: worker for engine, worker in workers.items() if worker}
    rates = {engine: [] for engine in workers}
    for _ in range(args.rounds):
        for engine, worker in workers.items():
            await_quiet(args.quiet)
            rates[engine].append(batch * args.passes / worker.run(args.passes)[args.clock])
    first = next(iter(workers))
    for engine, worker in workers.items():
        ratios = [rate / base for rate, base in zip(rates[engine], rates[first])]
        difference = max(abs(a - b) for a, b in zip(worker.hello["logits"], workers[first].hello["logits"]))
        print(
            f"{batch:>5} {threads:>7}  {engine:<12} {worker.hello['version']:<22}"
            f" {statistics.median(rates[engine]):>8.2f} {min(rates[engine]):>8.2f} {max(rates[engine]):>8.2f}"
            f" {statistics.median(ratios):>8.2f} {difference:>9.1e} {worker.peak():>8.0f}",
            flush=True,
        )
        worker.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--passes", type=int, default=1, help="forward passes of an engine in one round")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu on a machine that is busy")
    parser.add_argument("--quiet", type=float, default=0, help="seconds to wait for an idle machine before each turn")
    parser.add_argument("--convoy", metavar="PATH", help="convoy's worker where it is built already")
    args = parser.parse_args()
    set_up()
    import network

    convoy = os.path.abspath(args.convoy) if args.convoy else build() if "convoy" in args.engines else None
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    print(f"{os.path.basename(args.weights)}, {cpu or platform.processor()}, {os.cpu_count()} cores, {args.clock} time")
    print("batch threads  engine       version                images/s      min      max    ratio |logits|  peak MB")
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.onnx")
        network.write_onnx(network.Folded(args.weights), model)
        for batch in args.batch:
            for threads in args.threads:
                compare(args, convoy, model, batch, threads)


if __name__ == "__main__":
    main()
