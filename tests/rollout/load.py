"""Constant load over connections that stay open: photos and questions are sent when they are due, whatever has become
of earlier ones, and every single request has a fate. Nothing is sent twice.

A connection is used again unless an answer said `Connection: close` or the other side has ended it.
"""

import asyncio
import dataclasses
import json
import struct
import time
import zlib

TIMEOUT = 20.0
QUESTIONS = [
    "remove one item from a list",
    "how do i make a deep copy of an object",
    "compare two dates",
    "loop over the keys of an object",
    "why is this undefined in a callback",
    "convert a string to a number",
    "wait for all promises",
    "check whether an array contains a value",
]
PHOTOS = 8


def photo(index):
    """A PNG of 128 x 128 stripes and waves that looks like no other index."""

    def row(y):
        values = (x * (index + 1) + y * c * 3 + (x * y >> (index % 5 + 2)) for x in range(128) for c in (1, 2, 5))
        return b"\0" + bytes(value & 255 for value in values)

    rows = b"".join(row(y) for y in range(128))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 128, 128, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def requests():
    """Every request there is: its kind, and its bytes."""
    for index in range(PHOTOS):
        yield "photo", "/classify?top=3", "application/octet-stream", photo(index)
    for question in QUESTIONS:
        yield "question", "/faq", "application/json", json.dumps({"question": question, "top": 2}).encode()


def told(kind, body):
    """What an answer says, without how long it took."""
    answer = json.loads(body)
    return answer["predictions"] if kind == "photo" else answer["matches"]


@dataclasses.dataclass
class Fate:
    number: int
    kind: str
    due: float
    sent: float = 0.0
    ended: float = 0.0
    failure: str = ""


class Connections:
    """Connections to one address, the youngest first."""

    def __init__(self, port, keep_alive):
        self.port, self.keep_alive, self.idle, self.opened = port, keep_alive, [], 0

    async def take(self):
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof() and not reader.exception():
                return reader, writer
            writer.close()
        self.opened += 1
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, path, media_type, body):
        """The status, headers and body of an answer."""
        reader, writer = await self.take()
        try:
            connection = "keep-alive" if self.keep_alive else "close"
            head = (
                f"POST {path} HTTP/1.1\r\nhost: convoy\r\ncontent-type: {media_type}\r\n"
                f"content-length: {len(body)}\r\nconnection: {connection}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        if self.keep_alive and headers.get("connection", "").lower() != "close":
            self.idle.append((reader, writer))
        else:
            writer.close()
        return status, headers, answer

    def close(self):
        for _, writer in self.idle:
            writer.close()


def parse_head(head):
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value for name, value in headers.items()}


class Load:
    """Photos and questions through one address, at rates a second."""

    def __init__(self, port, photos, questions, keep_alive=True):
        self.connections = Connections(port, keep_alive)
        self.asked = [one for one in requests()]
        self.rates = {"photo": photos, "question": questions}
        self.expected, self.fates, self.running, self.tasks = {}, [], [], set()

    async def learn(self, pod):
        """Asks a pod directly for every answer there is."""
        direct = Connections(pod.port, True)
        for index, (kind, path, media_type, body) in enumerate(self.asked):
            status, _, answer = await direct.ask(path, media_type, body)
            assert status == 200, answer
            self.expected[index] = told(kind, answer)
        direct.close()
        different = {json.dumps(answer) for answer in self.expected.values()}
        assert len(different) == len(self.expected), "every request must have an answer of its own"

    def start(self):
        self.running = [asyncio.create_task(self.run(kind)) for kind in self.rates]

    async def stop(self):
        """Sends no more and waits for the last answers."""
        for task in self.running:
            task.cancel()
        while self.tasks:
            await asyncio.wait(self.tasks)
        self.connections.close()

    async def run(self, kind):
        indices = [index for index, one in enumerate(self.asked) if one[0] == kind]
        start, count = time.monotonic(), 0
        while True:
            due = start + count / self.rates[kind]
            await asyncio.sleep(due - time.monotonic())
            self.send(indices[count % len(indices)], due)
            count += 1

    def send(self, index, due):
        fate = Fate(len(self.fates), self.asked[index][0], due)
        self.fates.append(fate)
        task = asyncio.create_task(self.one(index, fate))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def burst(self, photos):
        """So many photos at once."""
        for index in range(photos):
            self.send(index % PHOTOS, time.monotonic())

    async def one(self, index, fate):
        fate.sent = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                fate.failure = await self.failure(index)
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError) as error:
            fate.failure = f"{type(error).__name__}: {error}"
        fate.ended = time.monotonic()

    async def failure(self, index):
        """Asks once; what is wrong with the answer, or nothing."""
        kind, path, media_type, body = self.asked[index]
        status, _, answer = await self.connections.ask(path, media_type, body)
        if status != 200:
            return f"{status} {answer[:100].decode(errors='replace')}"
        return "" if told(kind, answer) == self.expected[index] else "another request's answer"

    def unanswered(self, since):
        """Numbers of the requests that were sent and had no good answer at `since`."""
        open_then = (fate for fate in self.fates if fate.sent and not 0 < fate.ended < since)
        return {fate.number for fate in open_then if fate.failure or not fate.ended}

    def between(self, start, end):
        """Fates of what was due then."""
        return [fate for fate in self.fates if start <= fate.due < end]


def percentile(fates, share):
    """Milliseconds from due to answered."""
    took = sorted(fate.ended - fate.due for fate in fates if not fate.failure)
    return took[int(len(took) * share)] * 1e3 if took else float("nan")
