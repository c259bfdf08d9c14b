#!/usr/bin/env python3
"""What one pod takes: seconds from exec to /readyz, resident memory idle and under load, rate, CPUs.

    measure.py CONVOY --weights FILE --faq-model FILE [--services photos,faq] [--connections 32] [--duration 10s]

Starts the real server on a free port, several times for the start alone, and loads it with `convoy bench`. The figures
are Linux's own (/proc): resident memory as it stands and at its peak, processor time of the process.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import time
import urllib.error
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """One convoy process, from its start to its end."""

    def __init__(self, given: argparse.Namespace):
        flags = ["--bind", "127.0.0.1:0", "--services", given.services, "--lame-duck-ms", "0", *given.flag]
        files = ["--weights", given.weights] if given.weights else []
        files += ["--faq-model", given.faq_model] if given.faq_model else []
        began = time.monotonic()
        self.process = subprocess.Popen([given.convoy, "serve", *flags, *files], stderr=subprocess.PIPE, text=True)
        self.address = self.await_address()
        self.await_ready()
        self.start_s = time.monotonic() - began
        self.start_cpu_s = self.cpu_s()

    def await_address(self) -> str:
        """The address in the log, which is written when the port opens."""
        for line in self.process.stderr:
            if found := re.search(r"127\.0\.0\.1:\d+", line):
                return "http://" + found[0]
        raise SystemExit("the server ended before its port was open")

    def await_ready(self) -> None:
        """Until /readyz answers 200."""
        while True:
            try:
                return urllib.request.urlopen(self.address + "/readyz", timeout=5).close()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.005)

    def memory_mib(self, field: str) -> float:
        """VmRSS (as it stands) or VmHWM (at its peak)."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

    def cpu_s(self) -> float:
        """Processor time so far, of all threads."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def stop(self) -> float:
        """Ends it by SIGTERM; how long that took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()
        return time.monotonic() - began


def load(convoy: str, server: Server, path: str, given: argparse.Namespace) -> str:
    """A closed loop on one path; a line about it."""
    cpu, began = server.cpu_s(), time.monotonic()
    command = [convoy, "bench", server.address + path, "--connections", str(given.connections)]
    said = subprocess.run([*command, "--duration", given.duration], capture_output=True, text=True, check=True).stdout
    cpus = (server.cpu_s() - cpu) / (time.monotonic() - began)
    rate = re.search(r"^rate\s+(.*)$", said, re.M)[1]
    peak = server.memory_mib("VmHWM")
    return f"{path}, {given.connections} connections: {rate}; {cpus:.2f} CPUs; {peak:.0f} MiB at the peak"


def main() -> None:
    """Prints one line a figure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("convoy")
    arguments.add_argument("--weights")
    arguments.add_argument("--faq-model")
    arguments.add_argument("--services", default="photos,faq")
    arguments.add_argument("--connections", type=int, default=32)
    arguments.add_argument("--duration", default="10s")
    arguments.add_argument("--starts", type=int, default=5)
    arguments.add_argument("--flag", action="append", default=[], help="a further flag of the server")
    given = arguments.parse_args()
    starts = []
    for _ in range(given.starts):
        server = Server(given)
        starts.append((server.start_s, server.start_cpu_s))
        server.stop()
    server = Server(given)
    (shortest, _), (longest, _) = min(starts), max(starts)
    middle, cpu = (statistics.median(each) for each in zip(*starts))
    spread = f"({shortest:.2f} to {longest:.2f} in {given.starts})"
    print(f"exec to /readyz 200: median {middle:.2f} s {spread}, {cpu:.2f} s of CPU")
    idle, peak = server.memory_mib("VmRSS"), server.memory_mib("VmHWM")
    print(f"resident, idle: {idle:.0f} MiB (peak of the start {peak:.0f} MiB)")
    for path in [p for p, s in (("/classify", "photos"), ("/faq", "faq")) if s in given.services]:
        print(load(given.convoy, server, path, given))
    print(f"SIGTERM to exit, nothing in hand, lame duck 0: {server.stop():.2f} s")


if __name__ == "__main__":
    main()
