"""Rolling restarts and killed processes under constant load: several `convoy serve` behind real balancers, with the
times that the manifests give. Every request's fate counts: no answer, a reset, any status but 200 and a wrong answer
are failures, and no client sends a request again.

    .venv/bin/python tests/rollout/rollout.py --binary target/release/convoy --weights FILE --faq-model FILE [BALANCER]...

Ends with an error if a rollout lost a request, or if a killed process took more with it than it had in its hands, where
the balancer goes elsewhere when a connection is refused.
"""

import argparse
import asyncio
import contextlib
import pathlib
import signal
import sys
import tempfile
import time

import balancer
import calls
import load
import manifest
import pods

KINDS = [*balancer.HAPROXY, "nginx"]
ROLLOUT = "balancer|round|phase|seconds|requests|failed|photos p50 / p99 ms|questions p50 / p99 ms".split("|")
KILL = (
    "balancer|kill|in its hands|of those failed|others failed"
    "|last failure s|out of the endpoints s|replacement serves s"
).split("|")
BASE = pathlib.Path(__file__).parents[2] / "k8s/base"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="BALANCER", help=", ".join(KINDS))
    parser.add_argument("--binary", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--faq-model", required=True)
    parser.add_argument("--manifests", default=BASE)
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steady", type=float, default=10.0, help="seconds of load before a rollout")
    parser.add_argument("--photos", type=float, default=2.0, help="a second through each balancer")
    parser.add_argument("--questions", type=float, default=40.0, help="a second through each balancer")
    parser.add_argument("--propagation", type=float, default=1.0, help="seconds of a change of endpoints")
    parser.add_argument("--wire", type=float, default=0.0, help="milliseconds from clients to balancers, each way")
    parser.add_argument("--min-ready", type=float, help="seconds, in place of minReadySeconds, to save time")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"no such balancer: {', '.join(unknown)}")
    options.kinds = options.kinds or KINDS
    return options


class Stage:
    """Pods, balancers in front of them, and load on each."""

    def __init__(self, options, folder):
        self.options = options
        haproxy = balancer.Haproxy(folder, [kind for kind in options.kinds if kind in balancer.HAPROXY])
        self.haproxy = haproxy if haproxy.ports else None
        self.balancers = [haproxy] * bool(haproxy.ports) + [balancer.Nginx(folder)] * ("nginx" in options.kinds)
        command = [options.binary, "serve", "--weights", options.weights, "--faq-model", options.faq_model]
        command += ["--max-batch", "4", "--share-identical", "false"]
        timings = manifest.timings(options.manifests, options.min_ready)
        self.deployment = pods.Deployment(command, timings, self.balancers, options.propagation, folder)
        self.loads = {}

    async def begin(self):
        for one in self.balancers:
            await one.start()
        for pod in [self.deployment.start() for _ in range(self.options.pods)]:
            await pod.serves()
        for kind, port in [port for one in self.balancers for port in one.ports.items()]:
            if self.options.wire:
                port = await balancer.Wire(port, self.options.wire / 1e3).start()
            self.loads[kind] = self.load(kind, port)
            await self.loads[kind].learn(self.deployment.pods[0])
            self.loads[kind].start()
        await asyncio.sleep(1.0)

    def load(self, kind, port):
        photos, questions = self.options.photos, self.options.questions
        if kind == "grpc":
            return calls.Calls(port, questions)
        # nginx ends its clients' idle connections when it reads its configuration again: its race, not the pods'.
        return load.Load(port, photos, questions, keep_alive=kind != "nginx")

    async def settled(self, start, end):
        """Every request that was due then has its fate."""
        while any(fate.ended == 0.0 for one in self.loads.values() for fate in one.between(start, end)):
            await asyncio.sleep(0.05)

    async def end(self):
        for one in self.loads.values():
            await one.stop()
        await self.deployment.stop()
        for one in self.balancers:
            one.stop()


@contextlib.asynccontextmanager
async def staged(options):
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(options, pathlib.Path(folder))
        try:
            await stage.begin()
            yield stage
        finally:
            await stage.end()


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells):
    row(*cells)
    row(*["---"] * len(cells))


def figures(fates):
    """Requests, failures, p50 and p99 of photos and of questions in milliseconds, where there are any."""
    cells = [len(fates), sum(1 for fate in fates if fate.failure)]
    for kind in ("photo", "question"):
        of_kind = [fate for fate in fates if fate.kind == kind]
        took = [f"{load.percentile(of_kind, share):.0f}" for share in (0.5, 0.99) if of_kind]
        cells.append(" / ".join(took) or "-")
    return cells


async def roll(stage, number):
    """One rollout, and the requests it lost."""
    began = time.monotonic()
    await asyncio.sleep(stage.options.steady)
    rolled = time.monotonic()
    await stage.deployment.roll()
    await asyncio.sleep(1.0)
    over = time.monotonic()
    await stage.settled(began, over)
    lost = []
    for kind, one in stage.loads.items():
        for phase, start, end in (("steady", began, rolled), ("rollout", rolled, over)):
            fates = one.between(start, end)
            row(kind, number, phase, f"{end - start:.0f}", *figures(fates))
            lost += [(kind, fate) for fate in fates if fate.failure]
    return lost


async def kill(stage, number):
    """Kills a pod with photos in its hands; the requests that others lost, where balancers go elsewhere."""
    await asyncio.sleep(2.0)
    for one in stage.loads.values():
        one.burst(4 * stage.options.pods)
    await asyncio.sleep(0.02 + stage.options.wire / 1e3)
    victim = stage.deployment.pods.pop(0)
    # It stands still while its requests are counted, so that it ends none meanwhile.
    victim.process.send_signal(signal.SIGSTOP)
    held = await stage.haproxy.held_by(victim) if stage.haproxy else {}
    killed = time.monotonic()
    victim.process.kill()
    while victim.process.poll() is None:
        await asyncio.sleep(0.001)
    # What is sent until its sockets are closed is in its hands.
    in_hand = {kind: one.unanswered(killed) for kind, one in stage.loads.items()}
    fresh = stage.deployment.start()
    await victim.removed.wait()
    routed = time.monotonic() - killed
    await fresh.serves()
    recovered = time.monotonic() - killed
    await asyncio.sleep(2.0)
    await stage.settled(0.0, time.monotonic() - 0.5)
    wrong = []
    for kind, one in stage.loads.items():
        failed = [fate for fate in one.fates if fate.failure and fate.ended >= killed]
        others = [fate for fate in failed if fate.number not in in_hand[kind]]
        last = max((fate.ended for fate in failed), default=killed) - killed
        times = [f"{seconds:.2f}" for seconds in (last, routed, recovered)]
        row(kind, number, held.get(kind, "?"), len(failed) - len(others), len(others), *times)
        wrong += [(kind, fate) for fate in others if kind == "http-again"]
    for one in stage.balancers:
        await one.forget(victim)
    return wrong


async def main(options):
    wrong = []
    async with staged(options) as stage:
        if options.rounds:
            head(*ROLLOUT)
        for number in range(1, options.rounds + 1):
            wrong += await roll(stage, number)
        if options.kills:
            print()
            head(*KILL)
        for number in range(1, options.kills + 1):
            wrong += await kill(stage, number)
    for kind, fate in wrong[:20]:
        took = fate.ended - fate.sent
        print(f"lost: {fate.kind} {fate.number} through {kind}, after {took:.3f} s: {fate.failure}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
