#!/usr/bin/env python3
"""Faults that need more than a test may ask for: a clock that jumps (libfaketime), too little memory (prlimit), a disk that
is full (a tmpfs, root). Prints one line of a table for each.

    python3 tests/faults/outside.py --binary target/release/convoy --weights W.safetensors --faq-model F.safetensors clock memory disk
"""
import argparse
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib

QUESTION = json.dumps({"question": "how do I sort an array", "top": 1}).encode()


class Server:
    """A `convoy serve` and everything that it says."""

    def __init__(self, options, *arguments, wrapper=(), env=None):
        command = [*wrapper, options.binary, "serve", "--bind", "127.0.0.1:0", "--lame-duck-ms", "0", *arguments]
        environment = {**os.environ, **(env or {}), "CONVOY_LOG_FORMAT": "json"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log, self.address = [], None
        while self.address is None:
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit("".join(self.log) + "the server ended before it served")
            self.log.append(line)
            found = re.search(r'"message":"serving","address":"([^"]+)"', line)
            self.address = found and found[1]
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def post(self, path, body, **headers):
        """Status and body; (0, why) where there is no answer."""
        request = urllib.request.Request(f"http://{self.address}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, str(error)

    def ask(self, **headers):
        return self.post("/faq", QUESTION, **{"content-type": "application/json", **headers})

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def right(answer):
    return answer["matches"][0]["id"] if answer.get("matches") else None


def clock(options):
    """Hours forward and back under load; a key ends when its wall clock says so, nothing else moves."""
    library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    with tempfile.TemporaryDirectory() as folder:
        stamp, keys = pathlib.Path(folder, "stamp"), pathlib.Path(folder, "keys.toml")
        stamp.write_text("+0")
        new = [options.binary, "keys", "new"]
        key, brief = (subprocess.run([*new, name, *more, "--scope", "score", "--scope", "metrics", "--file", keys],
                                     capture_output=True, text=True, check=True).stdout.strip()
                      for name, more in (("lasting", []), ("brief", ["--expires", "1d"])))
        env = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1",
               "DONT_FAKE_MONOTONIC": "1"}
        server = Server(options, "--services", "faq", "--faq-model", options.faq_model, "--keys", str(keys), env=env)
        bearer = {"authorization": f"Bearer {key}"}
        expected, wrong, asked, stop = right(server.ask(**bearer)[1]), [], [0], threading.Event()

        def load():
            while not stop.is_set():
                started = time.monotonic()
                status, answer = server.ask(**bearer, **{"x-convoy-deadline-ms": "2000"})
                asked[0] += 1
                if status != 200 or right(answer) != expected or time.monotonic() - started > 2:
                    wrong.append((status, answer))

        threads = [threading.Thread(target=load) for _ in range(4)]
        [thread.start() for thread in threads]
        seen = []
        for offset in ("+0", "+2h", "-2h", "+10y", "-30y", "+3d", "+0"):
            stamp.write_text(offset)
            time.sleep(1)
            status, _ = server.ask(authorization=f"Bearer {brief}")
            seen.append(f"{offset} {status}")
        stop.set()
        [thread.join() for thread in threads]
        loud = [line for line in server.log if '"ERROR"' in line or '"WARN"' in line]
        print(f"| clock jumps under load | {asked[0]} questions, {len(wrong)} not answered rightly in time {wrong[:1]} "
              f"| a key of one day: {', '.join(seen)} | {len(loud)} warnings | exit {server.end()} |")


def huge(side):
    """A PNG of one colour, `side` pixels square: large in memory, small on the wire."""
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    row = b"\0" + b"\x7f" * (side * 3)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def memory(options):
    """Address space runs out under the largest photos that the limits let in."""
    photo, small = huge(7000), huge(300)
    for spare in (40, 120, 2000):
        server = Server(options, "--services", "photos", "--weights", options.weights, "--max-batch", "2")
        pid = server.process.pid
        before = server.post("/classify", small)[0]
        used = int(re.search(r"VmSize:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) << 10
        subprocess.run(["prlimit", "--pid", str(pid), f"--as={used + (spare << 20)}"], check=True)
        answers = [server.post("/classify", photo) for _ in range(3)]
        status = [status for status, _ in answers]
        after = server.post("/classify", small)[0]
        ended = server.process.poll()
        said = [line.strip() for line in server.log if "memory" in line or "panic" in line][:2]
        print(f"| {spare} MiB of address space left, photos of 147 MB | before {before}, then {status}, a small one {after} "
              f"| {'lives' if ended is None else f'ended with {ended}'} | {answers[0][1]} {said} |")
        if ended is None:
            server.end()


def disk(options):
    """A tmpfs of one MiB under commands that write more."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        try:
            target = pathlib.Path(folder, "out.safetensors")
            data = pathlib.Path(__file__).resolve().parents[2] / "weights/faq"
            for command in (["weights", "convert", options.weights, target],
                            ["weights", "random", "resnet18", "--out", target],
                            ["faq", "train", "--questions", data / "questions.tsv", "--duplicates",
                             data / "duplicates.tsv", "--answers", data / "answers.tsv", "--out", target]):
                target.write_text("what was there")
                filler = pathlib.Path(folder, "filler")
                filler.write_bytes(b"x" * (900 << 10))
                ran = subprocess.run([options.binary, *map(str, command)], capture_output=True, text=True)
                kept = target.read_text() == "what was there"
                beside = sorted(path.name for path in pathlib.Path(folder).iterdir() if path not in (target, filler))
                last = ran.stderr.strip().splitlines()[-1:]
                print(f"| {' '.join(map(str, command[:2]))} | exit {ran.returncode} | kept: {kept}, beside it: {beside} | {last} |")
        finally:
            subprocess.run(["umount", folder], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/convoy")
    parser.add_argument("--weights", default="weights/resnet152.safetensors")
    parser.add_argument("--faq-model", default="weights/faq.safetensors")
    parser.add_argument("faults", nargs="+", choices=["clock", "memory", "disk"])
    options = parser.parse_args()
    for fault in options.faults:
        {"clock": clock, "memory": memory, "disk": disk}[fault](options)


if __name__ == "__main__":
    main()
