"""A real server as a child process, what Linux says of it, and `convoy bench` against it.

Shared by the scripts of this folder. What load they put on it, and what they make of the figures, is theirs.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """One `convoy serve`, from its start to its end; a context."""

    def __init__(self, convoy: str, flags: list[str], cores: str | None = None):
        self.convoy = convoy
        pin = ["taskset", "-c", cores] if cores else []
        command = [*pin, convoy, "serve", "--bind", "127.0.0.1:0", "--lame-duck-ms", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.address = self._await_address()
        threading.Thread(target=self._read_log, daemon=True).start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_failure) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def _await_address(self) -> str:
        for line in self.process.stderr:
            self.log.append(line)
            if (found := re.search(r"127\.0\.0\.1:\d+", line)) and "serving" in line:
                return "http://" + found[0]
        raise SystemExit("the server ended before its port was open:\n" + "".join(self.log))

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr)

    def memory_mib(self, field: str = "VmRSS") -> float:
        """VmRSS (resident as it stands) or VmHWM (at its peak), in MiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """Threads."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def cpu_s(self) -> float:
        """Processor time so far, of all threads."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def metrics(self) -> str:
        """What /metrics says."""
        with urllib.request.urlopen(self.address + "/metrics", timeout=30) as answer:
            return answer.read().decode()


class Load:
    """One `convoy bench` under way."""

    def __init__(self, server: Server, path: str, flags: list[str], cores: str | None = None):
        pin = ["taskset", "-c", cores] if cores else []
        command = [*pin, server.convoy, "bench", server.address + path, "--json", "-", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def report(self) -> dict:
        """Waits for the end; the run's figures."""
        said, complaint = self.process.communicate()
        if not said:
            raise SystemExit(f"convoy bench: {complaint}")
        return json.loads(said)["run"]


def stand_back() -> None:
    """Lets the load and the server go before the calling thread: whoever looks on must not be what is measured."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Watch:
    """Samples a server's memory, descriptors and threads until told to stop; each goes to a file at once, if there is one."""

    def __init__(self, server: Server, every_s: float = 0.2, file: str | None = None):
        self._file = open(file, "w", buffering=1) if file else None
        self.samples: list[tuple[float, float, int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(server, every_s), daemon=True)
        self._thread.start()

    def _run(self, server: Server, every_s: float) -> None:
        stand_back()
        began = time.monotonic()
        while not self._stop.wait(every_s):
            now = time.monotonic() - began
            sample = now, server.memory_mib(), server.descriptors(), server.threads()
            self.samples.append(sample)
            if self._file:
                print(*(f"{figure:.2f}" for figure in sample), sep="\t", file=self._file)

    def stop(self) -> list[tuple[float, float, int, int]]:
        """Seconds since the start, resident MiB, descriptors, threads."""
        self._stop.set()
        self._thread.join()
        return self.samples


class Honest:
    """A client that asks the same few things all the time and compares each answer with the first, by content."""

    def __init__(self, server: Server, photos: list[pathlib.Path], questions: list[str], every_s: float = 0.2):
        self.server = server
        self.right = self.refused = self.failed = 0
        self.wrong: list[str] = []
        asks = [("/classify", "application/octet-stream", photo.read_bytes()) for photo in photos]
        asks += [("/faq", "application/json", json.dumps({"question": text}).encode()) for text in questions]
        self.known = [(ask, self._content(*self._ask(ask))) for ask in asks]
        if not all(content for _, content in self.known):
            raise SystemExit("the server does not answer before there is any load")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(every_s,), daemon=True)
        self._thread.start()

    def _ask(self, ask: tuple[str, str, bytes]) -> tuple[int, bytes]:
        path, kind, body = ask
        request = urllib.request.Request(self.server.address + path, body, {"content-type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, b""

    @staticmethod
    def _content(status: int, body: bytes) -> str | None:
        if status != 200:
            return None
        answer = json.loads(body)
        answer.pop("milliseconds")
        for each in answer.get("predictions", []):
            # Batches of other sizes may differ in the last bits of a sum.
            each["probability"] = round(each["probability"], 3)
        return json.dumps(answer)

    def _run(self, every_s: float) -> None:
        stand_back()
        turn = 0
        while not self._stop.wait(every_s):
            ask, expected = self.known[turn % len(self.known)]
            turn += 1
            try:
                status, body = self._ask(ask)
            except OSError:
                self.failed += 1
                continue
            if status == 429:
                self.refused += 1
            elif status != 200:
                self.failed += 1
            elif self._content(status, body) == expected:
                self.right += 1
            else:
                self.wrong.append(f"{ask[0]}: {body.decode()}, not {expected}")

    def stop(self) -> str:
        """A line about it; wrong answers end the script."""
        self._stop.set()
        self._thread.join()
        if self.wrong:
            raise SystemExit("wrong answers:\n" + "\n".join(self.wrong[:5]))
        return f"{self.right} answers compared by content, 0 wrong; {self.refused} refused, {self.failed} failed"
