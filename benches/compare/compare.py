"""Forward passes of ONNX Runtime, OpenVINO, PyTorch and convoy in turn: same machine, weights file, threads and batch.

    python benches/compare/compare.py WEIGHTS.safetensors [--batch 1 8] [--threads 1 2] [--rounds 9] [--engines ...]

Every engine lives in a process of its own (worker.py, convoy.rs) that prints one JSON line when it is warm, and then, for
each line with a number, runs so many passes and prints how long they took. Rounds visit the engines one after the other,
so that what else the machine does hits all alike. Engines that are not installed are left out. The table gives the median
over the rounds of images a second, and the ratio to ONNX Runtime as the median of the ratios within each round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ENGINES = ["onnxruntime", "openvino", "torch", "convoy"]


def build():
    """Builds convoy's worker and returns its path."""
    command = ["cargo", "bench", "--bench", "compare", "--no-run", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines if line.startswith("{")]
    return next(m["executable"] for m in built if m.get("target", {}).get("name") == "compare" and m.get("executable"))


class Worker:
    def __init__(self, command):
        self.process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


def start(engine, convoy, args, batch, threads):
    command = [convoy] if engine == "convoy" else [sys.executable, os.path.join(HERE, "worker.py"), engine]
    try:
        return Worker([*command, os.path.abspath(args.weights), str(batch), str(threads)])
    except (RuntimeError, OSError) as error:
        print(f"{engine} is left out: {error}", file=sys.stderr)
        return None


def compare(args, convoy, batch, threads):
    workers = {engine: start(engine, convoy, args, batch, threads) for engine in args.engines}
    workers = {engine: worker for engine, worker in workers.items() if worker}
    rates = {engine: [] for engine in workers}
    for _ in range(args.rounds):
        for engine, worker in workers.items():
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
    parser.add_argument("--convoy", metavar="PATH", help="convoy's worker where it is built already")
    args = parser.parse_args()
    convoy = args.convoy or (build() if "convoy" in args.engines else None)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    print(f"{os.path.basename(args.weights)}, {cpu or platform.processor()}, {os.cpu_count()} cores, {args.clock} time")
    print("batch threads  engine       version                images/s      min      max    ratio |logits|  peak MB")
    for batch in args.batch:
        for threads in args.threads:
            compare(args, convoy, batch, threads)


if __name__ == "__main__":
    main()
