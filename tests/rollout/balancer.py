"""Debian's HAProxy and nginx in front of the pods, told of endpoints the way a proxy in a cluster is; and a wire that
takes its time.

What a balancer does is its kind. `http` sends every request once, over connections to pods that stay open;
`http-again` opens one for each request and goes elsewhere when it is refused; `tcp` spreads connections, which then
belong to a pod, as a Service does, and so does `grpc`; `nginx` sends every request once, like `http`.
"""

import asyncio
import contextlib
import pathlib
import shutil
import signal
import socket
import subprocess

HAPROXY = {
    "http": "mode http\n  retries 0\n  no option redispatch\n  http-reuse always",
    "http-again": "mode http\n  retries 1\n  option redispatch 1\n  http-reuse never",
    "tcp": "mode tcp\n  retries 0\n  no option redispatch",
    "grpc": "mode tcp\n  retries 0\n  no option redispatch",
}
SLOTS = 16


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def installed(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not found:
        raise SystemExit(f"{name} is missing: install the Debian package {name}; as root, `make balancer` does")
    return found


class Haproxy:
    """One process with a backend and a port for each kind; endpoints change through its socket."""

    def __init__(self, folder, kinds):
        self.folder, self.socket, self.slots = pathlib.Path(folder), pathlib.Path(folder) / "haproxy.sock", {}
        self.ports, self.process = {kind: free_port() for kind in kinds}, None

    async def start(self):
        config = self.folder / "haproxy.cfg"
        head = f"global\n  stats socket {self.socket} mode 600 level admin\n"
        head += "defaults\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n"
        config.write_text(head + "".join(self.sections(kind) for kind in self.ports))
        self.process = subprocess.Popen([installed("haproxy"), "-db", "-q", "-f", config])
        while not self.socket.exists():
            assert self.process.poll() is None, "haproxy ended at once"
            await asyncio.sleep(0.05)

    def sections(self, kind):
        mode = "tcp" if kind in ("tcp", "grpc") else "http"
        return (
            f"frontend in-{kind}\n  mode {mode}\n  bind 127.0.0.1:{self.ports[kind]}\n  default_backend {kind}\n"
            f"backend {kind}\n  {HAPROXY[kind]}\n  balance roundrobin\n"
            f"  server-template pod 1-{SLOTS} 127.0.0.1:9 disabled\n"
        )

    async def command(self, text):
        reader, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(text.encode() + b"\n")
        answer = (await reader.read()).decode().strip()
        writer.close()
        return answer

    async def set(self, pod, what):
        for kind in self.ports:
            await self.command(f"set server {kind}/pod{self.slots[pod]} {what}")

    async def add(self, pod):
        self.slots[pod] = min(set(range(1, SLOTS + 1)) - set(self.slots.values()))
        for kind in self.ports:
            port = pod.grpc if kind == "grpc" else pod.port
            await self.command(f"set server {kind}/pod{self.slots[pod]} addr 127.0.0.1 port {port}")
        await self.set(pod, "state ready")

    async def remove(self, pod):
        """No new connection or request goes there."""
        await self.set(pod, "state drain")

    async def forget(self, pod):
        """Its process has ended."""
        await self.set(pod, "state maint")
        del self.slots[pod]

    async def held_by(self, pod):
        """Requests that a pod has from each backend."""
        lines = (await self.command("show stat")).splitlines()
        names = lines[0].lstrip("# ").split(",")
        rows = [dict(zip(names, line.split(","))) for line in lines[1:]]
        return {row["pxname"]: int(row["scur"]) for row in rows if row["svname"] == f"pod{self.slots[pod]}"}

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()


class Nginx:
    """Endpoints are written into the configuration, which is then read again."""

    def __init__(self, folder):
        self.folder, self.ports, self.pods = pathlib.Path(folder), {"nginx": free_port()}, []
        self.process = None

    def write(self):
        servers = "".join(f"server 127.0.0.1:{pod.port} max_fails=0; " for pod in self.pods)
        config = self.folder / "nginx.conf"
        config.write_text(f"""
daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log {self.folder}/nginx.log warn;
events {{}}
http {{
  access_log off; client_max_body_size 32m; client_body_buffer_size 1m;
  client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
  upstream pods {{ {servers or "server 127.0.0.1:9; "} keepalive 64; }}
  server {{
    listen 127.0.0.1:{self.ports["nginx"]};
    location / {{
      proxy_pass http://pods; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
    }}
  }}
}}
""")
        return config

    async def start(self):
        self.process = subprocess.Popen([installed("nginx"), "-c", self.write()])
        while not (self.folder / "nginx.pid").exists():
            assert self.process.poll() is None, "nginx ended at once"
            await asyncio.sleep(0.05)

    async def reload(self):
        self.write()
        self.process.send_signal(signal.SIGHUP)

    async def add(self, pod):
        self.pods.append(pod)
        await self.reload()

    async def remove(self, pod):
        self.pods.remove(pod)
        await self.reload()

    async def forget(self, pod):
        """It is gone from the configuration already."""

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()


class Wire:
    """A way to `port` on which everything takes `delay` seconds, in both directions."""

    def __init__(self, port, delay):
        self.far, self.delay = port, delay

    async def start(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def carry(self, reader, writer):
        await asyncio.sleep(self.delay)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.far)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self.pump(reader, far_writer), self.pump(far_reader, writer))

    async def pump(self, reader, writer):
        later = asyncio.get_running_loop().call_later
        try:
            while data := await reader.read(65536):
                later(self.delay, writer.write, data)
        except OSError:
            pass
        later(self.delay, writer.close)
