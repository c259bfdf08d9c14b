"""What is in the dependencies and in `kernels`: facts read off the sources for docs/supply/dependencies.md and
docs/supply/unsafe.md, whose reasons are written by hand.

    python3 tests/supply/inventory.py            # writes the facts into the pages, keeping the reasons
    python3 tests/supply/inventory.py --check    # complains where pages and sources differ
    python3 tests/supply/inventory.py --unsafe   # every crate in the binary by its lines with `unsafe`

`unsafe` counts lines of code outside comments that open an unsafe block or say that a function, trait or implementation
is unsafe, macros and tests of the crate included, in every .rs file of its src folder. It is a measure of how much there
is to read, not of how much runs: what features and other platforms leave out is counted too.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs/supply"
UNSAFE = re.compile(r"\bunsafe\s*(\{|fn\b|impl\b|trait\b|extern\b|\()")
BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.S)
NATIVE = {".c", ".cc", ".cpp", ".s", ".asm"}
KINDS = {None: "", "dev": "tests", "build": "build"}


def metadata():
    """The graph as it is built on this machine's platform."""
    host = re.search(r"host: (\S+)", subprocess.check_output(["cargo", "-vV"], text=True)).group(1)
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    return json.loads(subprocess.check_output(command, cwd=ROOT))


def unsafe_lines(package):
    """Lines of code with `unsafe`, by file."""
    counts = {}
    for file in sorted((pathlib.Path(package["manifest_path"]).parent / "src").rglob("*.rs")):
        text = BLOCK_COMMENT.sub("", file.read_text(errors="replace"))
        lines = [line.split("//")[0] for line in text.splitlines()]
        counts[file] = sum(1 for line in lines if UNSAFE.search(line))
    return counts


def contents(package):
    """One cell: unsafe code, what runs while it is built, what is not Rust."""
    folder = pathlib.Path(package["manifest_path"]).parent
    count = sum(unsafe_lines(package).values())
    said = [f"{count} unsafe" if count else "no unsafe"]
    kinds = {kind for target in package["targets"] for kind in target["kind"]}
    said += ["macros"] if "proc-macro" in kinds else []
    said += ["build script"] if "custom-build" in kinds else []
    native = sum(1 for file in folder.rglob("*") if file.suffix.lower() in NATIVE)
    said += [f"{native} files of C or assembler"] if native and "custom-build" in kinds else []
    return ", ".join(said)


def keeper(package):
    """Whose repository it is."""
    found = re.search(r"https?://[^/]+/([^/]+)/", (package["repository"] or "") + "/")
    return found.group(1) if found else "not said"


def direct(graph):
    """Direct dependencies of the workspace's crates by name, with what they are there for."""
    members = set(graph["workspace_members"])
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    packages = {package["id"]: package for package in graph["packages"]}
    found = {}
    for member in members:
        for dep in nodes[member]["deps"]:
            if dep["pkg"] not in members:
                kinds = {kind["kind"] for kind in dep["dep_kinds"]}
                package = packages[dep["pkg"]]
                found.setdefault(package["name"], (package, set()))[1].update(kinds)
    return found


def built_in(graph):
    """Everything that ends up in the binary: reached from convoy by dependencies that are neither built nor tested with."""
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    packages = {package["id"]: package for package in graph["packages"]}
    proc_macro = {
        id for id, package in packages.items() if any("proc-macro" in target["kind"] for target in package["targets"])
    }
    waiting = [id for id in graph["workspace_members"] if packages[id]["name"] == "convoy"]
    seen = set()
    while waiting:
        id = waiting.pop()
        if id in seen or id in proc_macro:
            continue
        seen.add(id)
        waiting += [
            dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])
        ]
    return [packages[id] for id in seen if id not in graph["workspace_members"]]


def kernels():
    """Files of our own with unsafe code: its blocks, and what they declare unsafe."""
    sources = ROOT / "kernels/src"
    found = {}
    for file in sorted(sources.rglob("*.rs")):
        code = "\n".join(line.split("//")[0] for line in file.read_text().splitlines())
        blocks = len(re.findall(r"\bunsafe\s*\{", code))
        declared = len(re.findall(r"\bunsafe\s+(?:fn\s+\w|impl\b|trait\b)", code))
        if blocks or declared:
            found[str(file.relative_to(sources))] = [str(blocks), str(declared)]
    return found


class Page:
    """A table in a Markdown file: a name in backquotes, facts, then reasons."""

    def __init__(self, path, facts):
        self.path, self.facts = path, facts
        self.text = path.read_text()
        lines = self.text.splitlines()
        self.at = next(index for index, line in enumerate(lines) if line.startswith("|---")) + 1
        self.reasons = len(lines[self.at - 1].strip("|").split("|")) - 1 - len(next(iter(facts.values())))
        cells = (line.strip().strip("|").split(" | ") for line in lines if line.startswith("| `"))
        self.there = {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}

    def reason(self, name):
        """The hand-written cells of a row."""
        return self.there.get(name, [])[-self.reasons :] or ["missing"] * self.reasons

    def problems(self):
        """Where the page is not what the sources are."""
        for name in self.there:
            if name not in self.facts:
                yield f"{self.path.name}: {name} is on the page and not in the sources"
        for name, facts in self.facts.items():
            if name not in self.there:
                yield f"{self.path.name}: {name} is not on the page"
            elif self.there[name] != facts + self.reason(name):
                yield f"{self.path.name}: {name}: the page says {self.there[name][: len(facts)]}, the sources {facts}"
            if any(reason in ("", "missing") for reason in self.reason(name)):
                yield f"{self.path.name}: {name}: a reason is missing"

    def write(self):
        """Takes the facts over, in the order of the names."""
        lines = [line for line in self.text.splitlines() if not line.startswith("| `")]
        table = [[f"`{name}`", *facts, *self.reason(name)] for name, facts in sorted(self.facts.items())]
        lines[self.at : self.at] = ["| " + " | ".join(cells) + " |" for cells in table]
        self.path.write_text("\n".join(lines) + "\n")


def dependency(package, kinds):
    """The facts of a direct dependency."""
    use = " ".join(sorted(filter(None, (KINDS[kind] for kind in kinds if None not in kinds))))
    return [package["version"], use or "binary", contents(package), keeper(package)]


def ranking(graph):
    """What is in the binary, the most unsafe first."""
    counts = [(sum(unsafe_lines(package).values()), f"{package['name']} {package['version']}") for package in built_in(graph)]
    without = sum(1 for count, _ in counts if not count)
    yield f"{len(counts)} crates in the binary, {without} without unsafe, {sum(count for count, _ in counts)} lines with it"
    yield from (f"{count:6} {name}" for count, name in sorted(counts, reverse=True))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--unsafe", action="store_true")
    options = parser.parse_args()
    graph = metadata()
    if options.unsafe:
        print("\n".join(ranking(graph)))
        return
    dependencies = {name: dependency(package, kinds) for name, (package, kinds) in direct(graph).items()}
    pages = [Page(DOCS / "dependencies.md", dependencies), Page(DOCS / "unsafe.md", kernels())]
    if options.check:
        problems = [problem for page in pages for problem in page.problems()]
        if problems:
            sys.exit("\n".join(problems) + "\nlook at what changed, then run python3 tests/supply/inventory.py")
        print(f"dependencies: ok, {len(dependencies)}; unsafe: ok, {len(kernels())} files")
        return
    for page in pages:
        page.write()


if __name__ == "__main__":
    main()
