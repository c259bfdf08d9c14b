"""Clients that mean harm, one request each: what a soak mixes into honest load.

Every kind is a function of a connected socket. What the server answers is read and thrown away; whether it goes on
answering the others is the soak's to see.
"""

import random
import socket
import struct
import threading
import urllib.parse
import zlib


def head(path: str, length: int, kind: str = "application/octet-stream") -> bytes:
    """A POST's head."""
    return f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n".encode()


def reset(link: socket.socket) -> None:
    """Closes with a reset, not an end."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def garbage(link: socket.socket, chance: random.Random) -> None:
    """No HTTP at all."""
    link.sendall(chance.randbytes(chance.randrange(1, 20_000)))
    link.recv(1000)


def half_head(link: socket.socket, chance: random.Random) -> None:
    """A head that ends in the middle."""
    whole = head("/classify", 100)
    link.sendall(whole[: chance.randrange(1, len(whole))])
    reset(link)


def half_body(link: socket.socket, chance: random.Random) -> None:
    """A reset in the middle of a photo."""
    link.sendall(head("/classify", 1 << 20) + chance.randbytes(chance.randrange(1, 1 << 20)))
    reset(link)


def announced(link: socket.socket, _chance: random.Random) -> None:
    """A body larger than any limit, announced."""
    link.sendall(head("/classify", 1 << 40) + bytes(1000))
    link.recv(1000)


def no_photo(link: socket.socket, chance: random.Random) -> None:
    """A JPEG's first bytes, then noise."""
    body = b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0" + chance.randbytes(chance.randrange(1, 50_000))
    link.sendall(head("/classify", len(body)) + body)
    link.recv(1000)


def bomb(link: socket.socket, _chance: random.Random) -> None:
    """A PNG of a few kilobytes that says it is 40 million pixels, and is."""
    body = BOMB
    link.sendall(head("/classify", len(body)) + body)
    link.recv(1000)


def nested(link: socket.socket, chance: random.Random) -> None:
    """JSON, deeper than anybody needs."""
    depth = chance.randrange(10, 100_000)
    body = b'{"input":' + b"[" * depth
    link.sendall(head("/score", len(body), "application/json") + body)
    link.recv(1000)


def text(link: socket.socket, chance: random.Random) -> None:
    """A question of a hundred kilobytes without a word in it."""
    body = b'{"question":"' + bytes(chance.choices(b"<>&;ab \t{}()", k=100_000)) + b'"}'
    link.sendall(head("/faq", len(body), "application/json") + body)
    link.recv(1000)


def silent(link: socket.socket, _chance: random.Random) -> None:
    """Half a body, then nothing until the server has had enough."""
    link.sendall(head("/classify", 10_000) + bytes(5_000))
    link.settimeout(5)
    link.recv(1000)


KINDS = [garbage, half_head, half_body, announced, no_photo, nested, text, silent, bomb]


def chunk(name: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of_zeros(width: int, height: int) -> bytes:
    """An RGB8 picture that compresses a thousandfold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BOMB = png_of_zeros(8000, 5000)


class Hostile:
    """A thread a client, so many requests a second in all."""

    def __init__(self, address: str, rate: float, seed: int = 1, bomb_share: float = 0.02):
        url = urllib.parse.urlsplit(address)
        self.host, self.port = url.hostname, url.port
        self.rate, self.chance, self.bomb_share = rate, random.Random(seed), bomb_share
        self.sent = dict.fromkeys((kind.__name__ for kind in KINDS), 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.chance.expovariate(self.rate)):
            kind = bomb if self.chance.random() < self.bomb_share else self.chance.choice(KINDS[:-1])
            threading.Thread(target=self._attack, args=(kind, random.Random(self.chance.random())), daemon=True).start()

    def _attack(self, kind, chance: random.Random) -> None:
        self.sent[kind.__name__] += 1
        try:
            with socket.create_connection((self.host, self.port), timeout=20) as link:
                kind(link, chance)
        except OSError:
            pass

    def stop(self) -> dict[str, int]:
        """How many of each kind were sent."""
        self._stop.set()
        self._thread.join()
        return self.sent
