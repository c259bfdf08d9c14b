"""Pods as processes on this machine, and what a kubelet and the endpoint controller do for them: probes with the
manifests' intervals and thresholds, endpoints that reach the balancers a moment later, surge, preStop, SIGTERM, and
SIGKILL when the grace period is over.
"""

import asyncio
import os
import subprocess
import time

from balancer import free_port

# Seconds that a pod may take to its first request.
START = 60.0


class Pod:
    def __init__(self, name, command, timings, folder):
        self.name, self.port, self.grpc, ops = name, free_port(), free_port(), free_port()
        self.probed = ops if timings.port == "ops" else self.port
        environment = os.environ | timings.environment
        if timings.port == "ops":
            environment["CONVOY_OPS_BIND"] = f"127.0.0.1:{ops}"
        self.log = open(folder / f"{name}.log", "wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{self.port}", "--grpc-bind", f"127.0.0.1:{self.grpc}"],
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        self.is_endpoint = asyncio.Event()
        self.removed = asyncio.Event()
        self.took_to_end = None

    async def serves(self):
        """Waits until it is an endpoint."""
        try:
            async with asyncio.timeout(START):
                await self.is_endpoint.wait()
        except TimeoutError:
            said = open(self.log.name, errors="replace").read()[-2000:]
            raise SystemExit(f"{self.name} is not ready on port {self.probed} after {START:.0f} s:\n{said}") from None

    async def probe(self, path):
        """Whether `GET path` answers 200 within a second."""
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.probed)
                writer.write(f"GET {path} HTTP/1.1\r\nhost: convoy\r\nconnection: close\r\n\r\n".encode())
                status = await reader.readline()
                writer.close()
                return b" 200 " in status
        except (OSError, TimeoutError):
            return False


class Deployment:
    """Pods of one kind behind some balancers."""

    def __init__(self, command, timings, balancers, propagation, folder):
        self.command, self.timings, self.balancers = command, timings, balancers
        self.propagation, self.folder = propagation, folder
        self.pods, self.count, self.tasks = [], 0, []

    def start(self):
        """A pod that becomes an endpoint when its probes say so."""
        self.count += 1
        pod = Pod(f"pod-{self.count}", self.command, self.timings, self.folder)
        self.pods.append(pod)
        self.tasks.append(asyncio.create_task(self.watch(pod)))
        return pod

    async def watch(self, pod):
        """The kubelet's probes, and the endpoints that follow from them."""
        ready, row = False, 0
        while not pod.removed.is_set():
            passed = await pod.probe(self.timings.path)
            row = row + 1 if passed != ready else 0
            if row >= (self.timings.failures if ready else self.timings.successes):
                ready, row = not ready, 0
                self.tasks.append(asyncio.create_task(self.publish(pod, ready)))
                if not ready:
                    return
            await asyncio.sleep(self.timings.period)

    async def publish(self, pod, ready):
        """A change of endpoints is on its way for a moment."""
        await asyncio.sleep(self.propagation)
        for balancer in self.balancers:
            await (balancer.add(pod) if ready else balancer.remove(pod))
        (pod.is_endpoint if ready else pod.removed).set()

    async def end(self, pod):
        """What becomes of a pod that is deleted."""
        await asyncio.sleep(self.timings.pre_stop)
        asked = time.monotonic()
        pod.process.terminate()
        while pod.process.poll() is None:
            if time.monotonic() - asked > self.timings.grace - self.timings.pre_stop:
                pod.process.kill()
            await asyncio.sleep(0.05)
        pod.took_to_end = time.monotonic() - asked
        assert pod.process.returncode == 0, f"{pod.name} ended with {pod.process.returncode}: see {pod.log.name}"
        await pod.removed.wait()
        for balancer in self.balancers:
            await balancer.forget(pod)

    async def roll(self):
        """Replaces every pod, with no fewer ready ones than before at any time."""
        waiting, ends = list(self.pods), []
        self.pods = []
        while waiting:
            batch, waiting = waiting[: self.timings.surge], waiting[self.timings.surge :]
            fresh = [self.start() for _ in batch]
            for pod in fresh:
                await pod.serves()
            await asyncio.sleep(self.timings.min_ready)
            ends += [asyncio.create_task(self.end(pod)) for pod in batch]
        await asyncio.gather(*ends)

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        for pod in self.pods:
            pod.process.kill()
            pod.process.wait()
