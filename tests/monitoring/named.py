"""Checks that every metric which rules, dashboard and scalers ask for is there: `named.py METRICS [FILE...]`.

METRICS is the text of /metrics. FILEs are YAML or JSON; without any, all of k8s/ is read. Queries are parsed as PromQL: the
metric must exist, its labels must, and so must the values that they are compared with. What Prometheus adds by itself
(`up`, the labels of a target) and what recording rules make is known. Without FILEs, the documentation must name every
metric of the server's own.
"""

import json
import pathlib
import re
import sys

import promql_parser as promql
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs/observability.md"
# What scraping adds: the target's labels, with the value of `job` that the monitors give.
TARGET = {"job", "instance", "namespace", "pod", "container", "endpoint", "service", "node"}
JOB = "convoy"
# Series that Prometheus makes of scraping itself.
SYNTHETIC = {"up"}
OURS = re.compile(r"\b(?:convoy|process|nv_inference)_[a-z0-9_]+\b")
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def samples(text):
    """Labels of every sample, by metric."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels = SAMPLE.match(line).groups()
            found.setdefault(name, []).append(dict(LABEL.findall(labels or "")))
    return found


def documents(path):
    text = path.read_text()
    return [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))


def strings(node, where=""):
    """Every string in a document with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, f"{where}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from strings(value, f"{where}[{index}]")
    elif isinstance(node, str):
        yield where, node


def queries(document):
    """PromQL: `expr` of rules and panels, `query` of scalers, the text before the comma in Grafana's label_values."""
    for where, text in strings(document):
        key = where.rsplit(".", 1)[-1]
        if key == "expr" or (key == "query" and OURS.search(text)):
            variable = re.fullmatch(r"label_values\((.*), *([a-z_]+)\)", text)
            yield where, f"count by ({variable[2]}) ({variable[1]})" if variable else text


def branches(regex):
    """The alternatives of a regular expression, with groups of alternatives multiplied out."""
    depth, parts = 0, [""]
    for char in regex:
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    for part in parts:
        group = re.search(r"\(([^()]*\|[^()]*)\)(?![?*+{])", part)
        if not group:
            yield part
            continue
        for choice in group[1].split("|"):
            yield from branches(part[: group.start()] + choice + part[group.end() :])


class Checker:
    def __init__(self, known, recorded):
        self.known, self.recorded = known, recorded

    def query(self, text):
        """What is wrong with a query."""
        # Grafana puts these in; nothing is known of their values.
        plain = re.sub(r"\$__(rate_)?interval|\$__range", "5m", text)
        try:
            tree = promql.parse(plain)
        except ValueError as error:
            return [f"cannot be read: {error}"]
        problems, selectors, grouped = [], [], []

        def visit(node):
            if isinstance(node, promql.VectorSelector):
                selectors.append(node)
            if isinstance(node, promql.AggregateExpr) and node.modifier:
                grouped.extend(node.modifier.labels)
            if isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
                grouped.extend(node.modifier.matching.labels)

        promql.walk(tree, visit)
        for selector in selectors:
            problems += self.selector(selector)
        names = sorted({selector.name for selector in selectors})
        if not any(name in self.recorded for name in names):
            there = {label for name in names for sample in self.known.get(name, []) for label in sample}
            for label in sorted(set(grouped) - there - TARGET):
                problems.append(f"{', '.join(names)} has no label {label}")
        return problems

    def selector(self, selector):
        name = selector.name
        if name in SYNTHETIC or name in self.recorded:
            return []
        if name not in self.known:
            return [f"no metric {name}"]
        problems = []
        for matcher in selector.matchers.matchers:
            values = {sample[matcher.name] for sample in self.known[name] if matcher.name in sample}
            if matcher.name == "job":
                values = {JOB}
            elif matcher.name in TARGET or "$" in matcher.value:
                continue
            if not values:
                problems.append(f"{name} has no label {matcher.name}")
                continue
            for wanted in self.wanted(matcher):
                if not any(re.fullmatch(wanted, value) for value in values):
                    problems.append(f'no {name} with {matcher.name}="{wanted}", but {", ".join(sorted(values))}')
        return problems

    @staticmethod
    def wanted(matcher):
        if matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe):
            return list(branches(matcher.value))
        return [re.escape(matcher.value)]


def main():
    known = samples(pathlib.Path(sys.argv[1]).read_text())
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    problems, paths = [], [pathlib.Path(path) for path in sys.argv[2:]]
    if not paths:
        documented = set(OURS.findall(DOCS.read_text()))
        own = {name for name in bases if name.startswith(("convoy_", "process_"))}
        problems = [f"{DOCS.name}: nothing about {name}" for name in sorted(own - documented)]
        paths = sorted(p for p in (ROOT / "k8s").rglob("*") if p.suffix in {".yaml", ".yml", ".json"})
    read = [(path, document) for path in paths for document in documents(path) if document]
    everything = [(path, where, text) for path, document in read for where, text in strings(document)]
    recorded = {text for _, where, text in everything if where.endswith(".record")}
    checker = Checker(known, recorded)
    count = 0
    for path, document in read:
        for where, query in queries(document):
            count += 1
            problems += [f"{path.name}{where}: {problem}\n    {query.strip()}" for problem in checker.query(query)]
    # Whatever else speaks of a metric, such as an autoscaler's `metric.name`: at least the name must be right.
    for path, where, text in everything:
        for name in set(OURS.findall(text)) - bases - known.keys():
            problems.append(f"{path.name}{where}: no metric {name}")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{count} queries: ok")


if __name__ == "__main__":
    main()
