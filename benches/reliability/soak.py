#!/usr/bin/env python3
"""Hours of mixed load with one hostile request in a hundred: does memory grow, do descriptors leak, does latency drift?

    soak.py CONVOY --weights FILE --faq-model FILE [--photo FILE ...] [--minutes 20] [--load 0.5] [--plot FILE]

Photos and questions come at `--load` times what the server does for closed loops of both at once, measured first. Memory
is resident memory (VmRSS) each second; after the warm-up its slope is Sen's (the median of the slopes of all pairs) over
means of ten seconds, with the 95 % interval of Kendall's statistic: a slope whose interval holds zero cannot be told from
none. Latency drift is the last quarter's against the first after the warm-up. A client compares answers by content all
the time. Needs scipy and matplotlib (requirements.txt).
"""

import argparse
import pathlib
import statistics

from scipy.stats import theilslopes

from hostile import Hostile
from server import Honest, Load, Server, Watch

BLOCK_S = 10


def blocks(samples: list[tuple[float, float, int, int]], which: int, after_s: float) -> tuple[list[float], list[float]]:
    """Means over ten seconds: minutes, values."""
    grouped: dict[int, list[float]] = {}
    for sample in samples:
        if sample[0] >= after_s:
            grouped.setdefault(int(sample[0] // BLOCK_S), []).append(sample[which])
    return [block * BLOCK_S / 60 for block in grouped], [statistics.fmean(each) for each in grouped.values()]


def slope(samples: list[tuple[float, float, int, int]], which: int, after_s: float) -> tuple[float, float, float]:
    """Sen's slope a minute, and its 95 % interval."""
    minutes, values = blocks(samples, which, after_s)
    found = theilslopes(values, minutes, alpha=0.95)
    return found.slope, found.low_slope, found.high_slope


def drift(report: dict, after_s: float) -> str:
    """Median over moments of p50 and p99 of the first and the last quarter after the warm-up, and the ratios."""
    moments = [each for each in report["timeline"] if each["second"] >= after_s and each["p50"] is not None]
    quarter = len(moments) // 4
    first, last = moments[:quarter], moments[-quarter:]
    told = []
    for which in ("p50", "p99"):
        early, late = (statistics.median(each[which] for each in part) for part in (first, last))
        told.append(f"{which} {early:.2f} to {late:.2f} ms (x {late / early:.2f})")
    return ", ".join(told)


def plot(path: str, samples: list[tuple[float, float, int, int]], reports: dict[str, dict], warm_up_s: float) -> None:
    """Memory, descriptors and latency over the run."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (memory, files, latency) = pyplot.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    minutes = [sample[0] / 60 for sample in samples]
    memory.plot(minutes, [sample[1] for sample in samples], lw=0.8)
    memory.set_ylabel("resident, MiB")
    memory.set_ylim(bottom=0)
    files.plot(minutes, [sample[2] for sample in samples], lw=0.8, label="descriptors")
    files.plot(minutes, [sample[3] for sample in samples], lw=0.8, label="threads")
    files.set_ylim(bottom=0)
    files.legend(loc="upper right")
    for kind, report in reports.items():
        moments = [each for each in report["timeline"] if each["p99"] is not None]
        latency.plot([each["second"] / 60 for each in moments], [each["p99"] for each in moments], lw=0.8, label=f"{kind}, p99")
    latency.set_yscale("log")
    latency.set_ylabel("ms")
    latency.set_xlabel("minutes")
    latency.legend(loc="upper right")
    for each in (memory, files, latency):
        each.axvline(warm_up_s / 60, color="0.7", lw=0.8)
        each.grid(alpha=0.3)
    figure.savefig(path)


def main() -> None:
    """Prints the figures; ends with 1 when memory grows, a descriptor leaks or an answer is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("convoy")
    arguments.add_argument("--weights", required=True)
    arguments.add_argument("--faq-model", required=True)
    arguments.add_argument("--photo", nargs="+", default=[])
    arguments.add_argument("--question", nargs="+", default=["how do i remove one item from an array"])
    arguments.add_argument("--minutes", type=float, default=20)
    arguments.add_argument("--load", type=float, default=0.5)
    arguments.add_argument("--warm-up", type=float, default=0.25, help="share of the run that does not count")
    arguments.add_argument("--plot")
    arguments.add_argument("--samples", metavar="FILE", help="where each second's figures go: second, MiB, descriptors, threads")
    arguments.add_argument("--flag", action="append", default=[], help="a further flag of the server")
    given = arguments.parse_args()
    flags = ["--weights", given.weights, "--faq-model", given.faq_model, *given.flag]
    payload = {"/classify": ["--photo", *given.photo] if given.photo else [], "/faq": []}
    with Server(given.convoy, flags) as server:
        closed = [Load(server, path, [*sent, "--duration", "6s", "--connections", "16"]) for path, sent in payload.items()]
        rates = dict(zip(payload, (given.load * load.report()["answered_rate"] for load in closed)))
        print("load: " + ", ".join(f"{path} {rate:.1f}/s" for path, rate in rates.items()), flush=True)
        idle = server.descriptors()
        honest = Honest(server, [pathlib.Path(each) for each in given.photo[:2]], given.question)
        hostile = Hostile(server.address, 0.01 * sum(rates.values()))
        watch = Watch(server, 1.0, given.samples)
        # So few that their number stands still: it would hide a leak of descriptors.
        span = ["--connections", "64", "--arrivals", "poisson", "--warm-up", "0s", "--duration", f"{60 * given.minutes:.0f}s"]
        loads = {path: Load(server, path, [*sent, *span, "--rate", str(rates[path])]) for path, sent in payload.items()}
        reports = {path: load.report() for path, load in loads.items()}
        samples = watch.stop()
        print(f"hostile: {sum((sent := hostile.stop()).values())} ({', '.join(f'{kind} {count}' for kind, count in sent.items())})")
        print(f"honest: {honest.stop()}")
        warm_up_s = 60 * given.minutes * given.warm_up
        for path, report in reports.items():
            print(f"{path}: {report['answered']} of {report['requests']} answered; {drift(report, warm_up_s)}")
        middle, low, high = slope(samples, 1, warm_up_s)
        after = [sample for sample in samples if sample[0] >= warm_up_s]
        print(
            f"resident memory after the warm-up: {min(each[1] for each in after):.1f} to {max(each[1] for each in after):.1f} MiB, "
            f"slope {1024 * middle:+.1f} KiB a minute (95 %: {1024 * low:+.1f} to {1024 * high:+.1f})"
        )
        fd_middle, fd_low, fd_high = slope(samples, 2, warm_up_s)
        print(
            f"descriptors: {idle} idle before, {min(each[2] for each in after)} to {max(each[2] for each in after)}, "
            f"slope {fd_middle:+.3f} a minute (95 %: {fd_low:+.3f} to {fd_high:+.3f}); threads {samples[0][3]} to {samples[-1][3]}"
        )
        if given.plot:
            plot(given.plot, samples, reports, warm_up_s)
    raise SystemExit(int(low > 0 or fd_low > 0))


if __name__ == "__main__":
    main()
