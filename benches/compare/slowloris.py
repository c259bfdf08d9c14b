"""Normal load on a server with and without a thousand clients that only take up room.

    python3 benches/compare/slowloris.py target/release/convoy --faq-model weights/faq.safetensors --weights FILE

Starts the binary, runs rounds of `convoy bench` (open loop, Poisson arrivals) against /faq and /classify, every other one
beside the attackers, and prints the 99th percentiles and their ratio. All the while a client of its own asks questions whose
answers it knows. Attackers run when nobody else wants the processors (SCHED_IDLE), because they would not be on the server's
machine; how much of what was due they sent all the same is printed. Whoever is cut off comes again after a second. Needs nothing but
Python.
"""

import argparse
import collections
import heapq
import http.client
import json
import os
import random
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

# Seconds between two bytes of those that send some. The tools that are known for it wait longer: slowhttptest 10.
DRIP = 1.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# A POST to /faq in HPACK without its tables, headers ended, body not.
OPENED = bytes([0x83, 0x86, 0x41, 1, 120, 0x04, 4]) + b"/faq"
QUESTIONS = ["how to sort an array", "remove one item from a list", "how do i make a deep copy of an object", "close a modal"]


def post(path, media_type):
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {media_type}\r\ncontent-length: 100000\r\n\r\n".encode()


def http2_streams(count):
    frame = lambda stream: len(OPENED).to_bytes(3, "big") + bytes([1, 4]) + stream.to_bytes(4, "big") + OPENED
    return PREFACE + b"".join(frame(2 * index + 1) for index in range(count))


# What each kind of attacker sends at once, and what it then sends byte by byte, if anything.
KINDS = {
    "silent": (b"", None),
    "head": (b"GET /livez HTTP/1.1\r\nx-a: ", b"a"),
    "faq body": (post("/faq", "application/json"), b" "),
    "classify body": (post("/classify", "image/jpeg"), b"\xff"),
    "score body": (post("/score", "application/json"), b" "),
    "never reading": (b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 20, None),
    "http/2 idle": (PREFACE, None),
    "http/2 streams": (http2_streams(8), None),
    "half a handshake": (bytes([22, 3, 1, 2, 0, 1]), b"\0"),
}


class Attackers:
    """One loop over plain sockets: whatever they cost themselves is missing on the cores that they share with the server."""

    def __init__(self, port, count, kinds):
        self.port, self.kinds, self.opened, self.ended = port, [kinds[index % len(kinds)] for index in range(count)], 0, False
        self.sent, self.late = 0, 0
        self.sockets, self.numbers, self.events = {}, {}, select.epoll()
        # They are on machines of their own and know nothing of each other: without this, all would send in the same millisecond.
        self.due = [(time.monotonic() + random.uniform(0, DRIP), number) for number in range(count)]
        heapq.heapify(self.due)
        signal.signal(signal.SIGTERM, self.end)

    def end(self, *_signal):
        self.ended = True

    def run(self):
        while not self.ended:
            for descriptor, _event in self.events.poll(max(0.0, self.due[0][0] - time.monotonic())):
                self.read(self.numbers[descriptor])
            while self.due[0][0] <= time.monotonic():
                moment, number = heapq.heappop(self.due)
                self.late += time.monotonic() - moment > 0.1
                wait = self.act(number)
                heapq.heappush(self.due, (moment + wait, number))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(self.opened, self.sent, self.late, used.ru_utime + used.ru_stime, flush=True)

    def act(self, number):
        """What is due, and seconds until something is again."""
        connection, drip = self.sockets.get(number), KINDS[self.kinds[number]][1]
        if connection is None:
            return DRIP if self.open(number) else 0.05
        if drip:
            try:
                self.sent += connection.send(drip)
            except BlockingIOError:
                pass
            except OSError:
                self.close(number)
        return DRIP

    def open(self, number):
        kind, connection = self.kinds[number], socket.socket()
        reads = kind != "never reading"
        if not reads:
            # So that the system takes as little as it may of what nobody reads.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            connection.settimeout(0.2)
            connection.connect(("127.0.0.1", self.port))
            connection.setblocking(False)
            connection.send(KINDS[kind][0])
        except BlockingIOError:
            pass
        except OSError:
            connection.close()
            return False
        self.opened += 1
        self.sockets[number], self.numbers[connection.fileno()] = connection, number
        # The end of a connection is told in any case.
        self.events.register(connection, select.EPOLLIN if reads else 0)
        return True

    def read(self, number):
        """Reads nothing into anything."""
        try:
            open_still = self.kinds[number] != "never reading" and self.sockets[number].recv(65536)
        except BlockingIOError:
            return
        except OSError:
            open_still = False
        if not open_still:
            self.close(number)

    def close(self, number):
        """Whoever is cut off comes again when something is due next: a flood of connections would be another attack."""
        connection = self.sockets.pop(number)
        self.events.unregister(connection)
        del self.numbers[connection.fileno()]
        connection.close()


class Server:
    def __init__(self, args):
        command = [args.binary, "serve", "--bind", "127.0.0.1:0", "--ops-bind", "127.0.0.1:0", "--faq-model", args.faq_model]
        command += ["--weights", args.weights] if args.weights else ["--services", "faq"]
        command += args.serve
        environment = {**os.environ, "CONVOY_LOG_FORMAT": "json"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines, addresses = 0, {}
        while "serving operators" not in addresses:
            line = json.loads(self.process.stderr.readline())
            addresses[line["message"]] = line.get("address")
        self.address, self.ops = addresses["serving"], addresses["serving operators"]
        threading.Thread(target=self.drain, daemon=True).start()

    def drain(self):
        for _ in self.process.stderr:
            self.lines += 1

    def metric(self, name):
        connection = http.client.HTTPConnection(self.ops, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return {key: float(value) for key, value in re.findall(rf"^({name}(?:{{[^}}]*}})?) (\S+)$", text, re.M)}

    def busy(self):
        """Seconds of processor time so far."""
        with open(f"/proc/{self.process.pid}/stat") as status:
            return sum(map(int, status.read().rsplit(")")[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


class Checker(threading.Thread):
    """Asks questions whose answers it knows, each on a connection of its own."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.asked, self.wrong = address, 0, []
        self.known = {question: self.ask(question) for question in QUESTIONS}
        self.start()

    def ask(self, question):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        headers = {"content-type": "application/json"}
        connection.request("POST", "/faq", json.dumps({"question": question, "top": 3}), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        return answer.status, body.get("matches", body)

    def run(self):
        while True:
            for question, known in self.known.items():
                try:
                    answer = self.ask(question)
                except OSError as error:
                    answer = repr(error)
                self.asked += 1
                if answer != known:
                    self.wrong.append(answer)
                time.sleep(0.05)


def load(args, server, path, rate):
    command = [args.binary, "bench", f"http://{server.address}{path}", "--rate", str(rate), "--arrivals", "poisson"]
    command += ["--duration", f"{args.seconds}s", "--json", "-"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def measured(args, server):
    """One round of every kind of load at once: its path to its report."""
    runs = {"/faq": load(args, server, "/faq", args.rate)}
    if args.weights:
        runs["/classify"] = load(args, server, "/classify", args.photo_rate)
    reports = {path: json.loads(run.communicate()[0])["run"] for path, run in runs.items()}
    for path, report in reports.items():
        if report["failed"]:
            statuses = {status: tally["count"] for status, tally in report["statuses"].items()}
            print(f"  {path}: {report['failed']} of {report['requests']} failed: {statuses} {report['failures']}")
    return reports


def attackers(args, server):
    port = server.address.rsplit(":", 1)[1]
    command = [sys.executable, __file__, args.binary, "--attack", port, "--attackers", str(args.attackers)]
    command += ["--kinds", ",".join(args.kinds)]
    idle = lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=idle)
    end = time.monotonic() + 60
    # Some kinds are cut off at once and come again a second later.
    while server.metric("convoy_http_connections")["convoy_http_connections"] < 0.7 * args.attackers:
        assert time.monotonic() < end, "the attackers do not get in"
        time.sleep(0.2)
    time.sleep(args.settle)
    return process


def run(args):
    server = Server(args)
    try:
        checker = Checker(server.address)
        figures, answered = {}, collections.defaultdict(lambda: [0.0, 0.0])
        measured(args, server)
        before = server.memory()
        opened, sent, late, most, used = 0, 0, 0, 0, 0.0
        busy = {True: 0.0, False: 0.0}
        for index in range(2 * args.rounds):
            # Pairs in turn begin with and without, so that a drift counts for both.
            beside = index % 4 in (1, 2)
            attack, began = attackers(args, server) if beside else None, time.monotonic()
            already = server.busy()
            reports = measured(args, server)
            busy[beside] += (server.busy() - already) / args.seconds / args.rounds
            most = max(most, server.memory())
            if attack:
                attack.terminate()
                *counts, seconds = attack.communicate()[0].split()
                opened, sent, late = (sum(pair) for pair in zip((opened, sent, late), map(int, counts)))
                used += float(seconds) / (time.monotonic() - began) / args.rounds
                time.sleep(args.settle)
            for path, report in reports.items():
                # Where nobody was answered, no time was short enough.
                latency = report["latency_ms"] or dict.fromkeys(("p50", "p99", "max"), float("inf"))
                answered[path][beside] += report["answered"] / report["requests"] / args.rounds
                figures.setdefault(path, {True: [], False: []})[beside].append(latency)
                name = "with" if beside else "without"
                print(f"{path} {name}: p50 {latency['p50']:.2f} p99 {latency['p99']:.2f} max {latency['max']:.1f} ms", flush=True)
        print(f"\n{args.attackers} attackers of {len(args.kinds)} kinds, {opened} connections in {args.rounds} rounds")
        print(f"they sent {sent} single bytes, acted more than 0.1 s late {late} times, and used {used:.1%} of a core themselves")
        print(f"the server used {busy[False]:.1%} of a core without them, {busy[True]:.1%} with them")
        for path, rounds in figures.items():
            without, beside = answered[path]
            print(f"{path} answered well: {without:.2%} without, {beside:.2%} with")
            for name in ("p50", "p99"):
                without, beside = (statistics.median(one[name] for one in rounds[key]) for key in (False, True))
                print(f"{path} {name}: {without:.2f} ms without, {beside:.2f} ms with, ratio {beside / without:.2f} (medians)")
        print(f"{checker.asked} questions checked, {len(checker.wrong)} wrong: {checker.wrong[:3]}")
        print(f"memory {before:.0f} MiB before, {most:.0f} MiB at most; {server.lines} log lines")
        for key, value in server.metric("convoy_connections_ended_total").items():
            print(key, int(value))
        return not checker.wrong
    finally:
        server.process.terminate()
        server.process.wait()


def idle(args):
    """What a connection costs that does nothing, by how it was opened."""
    for name, begin in {
        "nothing sent": b"",
        "HTTP/1 after a request": b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
        "HTTP/2 opened": PREFACE,
    }.items():
        server = Server(args)
        try:
            server.metric("up")
            time.sleep(1)
            before = server.memory()
            host, port = server.address.rsplit(":", 1)
            sockets = []
            for _ in range(args.attackers):
                connection = socket.create_connection((host, int(port)))
                connection.sendall(begin)
                sockets.append(connection)
            for connection in sockets if begin else ():
                connection.settimeout(10)
                connection.recv(4096)
            time.sleep(1)
            each = (server.memory() - before) * 1024 / args.attackers
            print(f"{name}: {each:.1f} KiB a connection ({args.attackers} open)", flush=True)
            for connection in sockets:
                connection.close()
        finally:
            server.process.terminate()
            server.process.wait()
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary")
    parser.add_argument("--faq-model", default="weights/faq.safetensors")
    parser.add_argument("--weights", help="a classifier; without it only questions are asked")
    parser.add_argument("--attackers", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS), type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=7, help="of each, with and without")
    parser.add_argument("--seconds", type=int, default=8, help="of a round")
    parser.add_argument("--settle", type=float, default=3, help="seconds between attackers' beginning or end and a round")
    parser.add_argument("--rate", type=int, default=300, help="questions a second")
    parser.add_argument("--photo-rate", type=int, default=10, help="photos a second")
    parser.add_argument("--idle", action="store_true", help="only measure what idle connections cost")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="further flags of convoy serve, at the end")
    parser.add_argument("--attack", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    if args.attack:
        Attackers(args.attack, args.attackers, args.kinds).run()
        return 0
    return 0 if (idle if args.idle else run)(args) else 1


if __name__ == "__main__":
    sys.exit(main())
