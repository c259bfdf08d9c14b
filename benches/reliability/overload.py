#!/usr/bin/env python3
"""Photos and questions at 1 to 20 times what the server can do, sustained and in bursts, both at once.

    overload.py CONVOY --weights FILE --faq-model FILE [--faq-embeddings FOLDER] [--photo FILE ...] [--rounds 3]

Capacity is what the server does for closed loops of both kinds at once; it is measured before every load, in the same
round, because a shared machine is never equally fast for long. Goodput is what is answered within the deadline under the
load, over that capacity. The server has a core of its own and the clients another (--cores), because clients that take
the server's time would measure themselves. With --io-apart only its pools have that core and the threads that speak HTTP
are on the clients': a machine whose operator leaves a core to I/O. Memory is Linux's own figure. A further client compares
answers by content.

The embedding model makes twenty times a capacity of questions a rate that one core of clients can send.
"""

import argparse
import os
import pathlib
import re
import statistics
import time

from server import Honest, Load, Server, Watch

PATHS = {"photos": "/classify", "questions": "/faq"}


class Bench:
    """The server under load."""

    def __init__(self, given: argparse.Namespace, server: Server):
        self.given, self.server = given, server
        _, self.cores = given.cores.split("/")
        self.deadline = ["--deadline-ms", str(given.deadline_ms), "--timeout", f"{3 * given.deadline_ms}ms"]
        self.payload = {
            "photos": ["--photo", *given.photo] if given.photo else [],
            "questions": ["--questions", given.questions] if given.questions else [],
        }

    def start(self, kind: str, flags: list[str]) -> Load:
        """Load of one kind."""
        return Load(self.server, PATHS[kind], [*self.payload[kind], *flags], self.cores)

    def both(self, flags: dict[str, list[str]]) -> dict[str, dict]:
        """Loads of both kinds at once. That of photos is started first, because it draws them before it sends any."""
        before, fewest = self.seen()
        photos = self.start("photos", flags["photos"])
        while True:
            answers, connections = self.seen()
            fewest = min(fewest, connections)
            if answers != before or connections > fewest + 8 or photos.process.poll() is not None:
                break
            time.sleep(0.02)
        return {"questions": self.start("questions", flags["questions"]).report(), "photos": photos.report()}

    def seen(self) -> tuple[list[str], float]:
        """What changes when photos come: their answers, not counting clients of the load before who left (499), and
        connections, of which those from before may go meanwhile."""
        text = self.server.metrics()
        answers = sorted(re.findall(r'^convoy_http_requests_total{route="classify",status="(?!499).*$', text, re.M))
        return answers, float(re.search(r"^convoy_http_connections (\S+)$", text, re.M)[1])

    def capacity(self) -> dict[str, float]:
        """Answers a second to closed loops of both kinds at once."""
        flags = ["--connections", str(self.given.clients), "--duration", f"{self.given.seconds}s", "--warm-up", "2s"]
        return {kind: report["answered_rate"] for kind, report in self.both(dict.fromkeys(PATHS, flags)).items()}

    def overload(self, factor: float, capacity: dict[str, float], seconds: float, warm_up: float) -> dict[str, dict]:
        """Both kinds at `factor` times their capacity."""
        span = ["--duration", f"{seconds}s", "--warm-up", f"{warm_up}s", "--connections", "2000", *self.deadline]
        rate = lambda kind: ["--rate", str(factor * capacity[kind]), "--arrivals", "poisson", *span]
        return self.both({kind: rate(kind) for kind in PATHS})


def set_apart(server: Server, pools: str, io: str) -> None:
    """Pins the threads of the pools to some cores and all others to other ones."""
    for task in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
        pooled = (task / "comm").read_text().startswith(("faq-", "classify-", "decode-"))
        os.sched_setaffinity(int(task.name), {int(core) for core in (pools if pooled else io).split(",")})


def quantile(report: dict, of: str, which: str) -> float:
    """A latency in milliseconds; 0 where there was nothing to measure."""
    return report[of][which] if report[of] else 0.0


def sustained(bench: Bench, factor: float) -> dict:
    """One round of one load: capacity, then the load."""
    capacity = bench.capacity()
    before = bench.server.memory_mib()
    watch = Watch(bench.server)
    reports = bench.overload(factor, capacity, bench.given.seconds, 2)
    samples = [memory for _, memory, _, _ in watch.stop()]
    return {"capacity": capacity, "reports": reports, "before": before, "peak": max(samples), "after": samples[-1]}


def burst(bench: Bench, factor: float) -> dict:
    """A second of `factor` times the capacity, five times, with half the capacity between: the questions of the calm."""
    capacity = bench.capacity()
    watch = Watch(bench.server)
    calm = bench.start("questions", ["--rate", str(0.3 * capacity["questions"]), "--duration", "20s", *bench.deadline])
    reports = []
    for _ in range(5):
        time.sleep(2.5)
        reports.append(bench.overload(factor, capacity, 1, 0))
    samples = [memory for _, memory, _, _ in watch.stop()]
    return {"capacity": capacity, "reports": reports, "calm": calm.report(), "samples": samples}


def tell_sustained(factor: float, rounds: list[dict]) -> None:
    """Two table rows."""
    for kind in PATHS:
        reports = [each["reports"][kind] for each in rounds]
        goodput = [each["reports"][kind]["answered_rate"] / each["capacity"][kind] for each in rounds]
        asked = sum(report["requests"] for report in reports)
        refused = sum(tally["count"] for report in reports for code, tally in report["statuses"].items() if code == "429")
        others = {code: tally["count"] for report in reports for code, tally in report["statuses"].items() if code not in ("200", "429")}
        failures = {why: tally["count"] for report in reports for why, tally in report["failures"].items()}
        median = lambda of, which: statistics.median(quantile(report, of, which) for report in reports)
        print(
            f"| {factor:g}x {kind} | {statistics.median(each['capacity'][kind] for each in rounds):.1f}/s "
            f"| {asked} | {refused} | {100 * statistics.median(goodput):.0f} % "
            f"({' '.join(f'{100 * share:.0f}' for share in goodput)}) "
            f"| {median('latency_ms', 'p99'):.0f} ms | {median('refusals_ms', 'p50'):.2f} / {median('refusals_ms', 'p99'):.2f} ms "
            f"| {others or ''} {failures or ''} |",
            flush=True,
        )
    before, peak = (statistics.median(each[which] for each in rounds) for which in ("before", "peak"))
    print(f"|   memory | {before:.1f} MiB before, {peak:.1f} at the peak |", flush=True)


def main() -> None:
    """Prints a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("convoy")
    arguments.add_argument("--weights", required=True)
    arguments.add_argument("--faq-model", required=True)
    arguments.add_argument("--faq-embeddings")
    arguments.add_argument("--photo", nargs="+", default=[])
    arguments.add_argument("--questions", metavar="FILE", help="what the load asks, one question a line")
    arguments.add_argument("--question", nargs="+", default=["how do i remove one item from an array"])
    arguments.add_argument("--factor", type=float, nargs="+", default=[1, 2, 5, 10, 20])
    arguments.add_argument("--burst", type=float, nargs="*", default=[20])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=8)
    arguments.add_argument("--clients", type=int, default=32)
    arguments.add_argument("--deadline-ms", type=int, default=2000)
    arguments.add_argument("--cores", default="0/1", help="the server's and the clients', as taskset takes them")
    arguments.add_argument("--flag", action="append", default=[], help="a further flag of the server")
    arguments.add_argument("--io-apart", action="store_true", help="the server's I/O on the clients' cores")
    given = arguments.parse_args()
    flags = ["--weights", given.weights, "--faq-model", given.faq_model, *given.flag]
    flags += ["--faq-embeddings", given.faq_embeddings] if given.faq_embeddings else []
    pools, clients = given.cores.split("/")
    with Server(given.convoy, flags, f"{pools},{clients}" if given.io_apart else pools) as server:
        if given.io_apart:
            set_apart(server, pools, clients)
        bench = Bench(given, server)
        bench.capacity()
        honest = Honest(server, [pathlib.Path(each) for each in given.photo[:2]], given.question)
        print("| load | capacity | asked | refused | goodput (rounds) | answered p99 | refused p50 / p99 | others |")
        print("|---|---|---|---|---|---|---|---|")
        # Loads in turn, so that a slow minute hits all of them.
        rounds = [{factor: sustained(bench, factor) for factor in given.factor} for _ in range(given.rounds)]
        for factor in given.factor:
            tell_sustained(factor, [each[factor] for each in rounds])
        for factor in given.burst:
            told = burst(bench, factor)
            for kind in PATHS:
                reports = [each[kind] for each in told["reports"]]
                answered = sum(report["answered"] for report in reports)
                print(
                    f"bursts of 1 s at {factor:g}x, {kind}: {sum(r['requests'] for r in reports)} asked, {answered} answered, "
                    f"answered p99 {max(quantile(r, 'latency_ms', 'p99') for r in reports):.0f} ms, "
                    f"refused p99 {max(quantile(r, 'refusals_ms', 'p99') for r in reports):.2f} ms"
                )
            calm = told["calm"]
            print(
                f"questions at 0.3x beside the bursts: {calm['answered']} of {calm['requests']} answered, "
                f"p99 {quantile(calm, 'latency_ms', 'p99'):.0f} ms; memory {told['samples'][0]:.1f} to {max(told['samples']):.1f} MiB"
            )
        print(honest.stop())
        print(f"memory at the very peak: {server.memory_mib('VmHWM'):.1f} MiB, now {server.memory_mib():.1f} MiB")


if __name__ == "__main__":
    main()
