"""What the binary says about the manifests: which settings it has, and whether it takes the values that they give.

Runs the real binary: `--help` for the names, and the command itself, in an empty folder, for the values. There no file
that a manifest names exists, so the command ends with a list of problems; any other than a missing file is the
manifest's.
"""

import json
import re
import subprocess
import tempfile

from pods import pods


class Binary:
    """convoy, asked through its command line."""

    def __init__(self, path: str):
        self.path = path
        self.known: dict[tuple, tuple[set, dict]] = {}
        self.said: dict[str, list[str]] = {}

    def knows(self, command: tuple) -> tuple[set[str], dict[str, str | None]]:
        """A subcommand's flags, and its variables with their defaults."""
        if command not in self.known:
            said = subprocess.run([self.path, *command, "--help"], capture_output=True, text=True, check=True).stdout
            flags = set(re.findall(r"^\s+(?:-\w, )?(--[a-z0-9-]+)", said, re.M))
            variables = {}
            for entry in re.split(r"\n(?=\s+(?:-\w, )?--)", said):
                name = re.search(r"\[env: (\w+)=", entry)
                if name:
                    default = re.search(r"\[default: ([^\]]*)\]", entry)
                    variables[name[1]] = default and default[1]
            self.known[command] = flags, variables
        return self.known[command]

    def defaults(self) -> dict[str, str]:
        """The server's settings where nothing is said."""
        return {name: value for name, value in self.knows(("serve",))[1].items() if value is not None}

    def names(self, things: list[dict]) -> list[str]:
        """Flags and variables of the manifests that the binary does not have."""
        found = []
        for where, container in containers(things):
            command = subcommand(container["args"])
            flags, variables = self.knows(command)
            for flag in container["args"]:
                if flag.startswith("--") and flag.partition("=")[0] not in flags:
                    found.append(f"{where}.args: convoy {' '.join(command)} has no {flag}")
            # A variable with a source other than a value is there for others to refer to as $(NAME).
            for each in container.get("env") or []:
                if "valueFrom" not in each and each["name"] not in variables:
                    found.append(f"{where}.env: convoy {' '.join(command)} has no {each['name']}")
        return found

    def values(self, things: list[dict]) -> list[str]:
        """Values that the server refuses."""
        found = []
        for where, container in containers(things):
            if container["args"][0] == "serve":
                found += [f"{where}.env: {line}" for line in self.refusals(container)]
        return found

    def refusals(self, container: dict) -> list[str]:
        """What the server says about these settings, missing files left out; asked once for the same ones."""
        same = json.dumps([container["args"], container.get("env")], sort_keys=True)
        if same not in self.said:
            self.said[same] = self.ask(container)
        return self.said[same]

    def ask(self, container: dict) -> list[str]:
        """Runs the server with these settings, which must end."""
        given = {each["name"]: each["value"] for each in container.get("env") or [] if "value" in each}
        with tempfile.TemporaryDirectory() as folder:
            command = [self.path, *container["args"]]
            done = subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True, timeout=60)
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        problems = [line for line in said if not re.search(r"there is no such file|cannot be used:$|No such file", line)]
        if done.returncode != 64:
            problems.append(f"exit {done.returncode}, where missing files make it 64")
        return problems


def subcommand(args: list[str]) -> tuple:
    """The words that name the subcommand."""
    return tuple(args[:2]) if args[0] == "weights" else tuple(args[:1])


def containers(things: list[dict]):
    """The containers that run convoy: those that name a subcommand of it and no program of their own."""
    for pod in pods(things):
        for where, container in pod.containers:
            if container.get("args") and "command" not in container:
                yield where, container


def largest(things: list[dict], name: str, default: str) -> int:
    """The largest value that any server has for a variable."""
    values = [int(default)]
    for _, container in containers(things):
        values += [int(each["value"]) for each in container.get("env") or [] if each["name"] == name]
    return max(values)
