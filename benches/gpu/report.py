#!/usr/bin/env python3
"""Makes one report of what benches/gpu/run.sh left in a folder: report.md to read, results.json with all numbers.

    report.py PARTS_FOLDER OUT_FOLDER

Every number is read from a part's file. A part that has not run, failed or was cut off is named as such; what it had written
by then counts. parts.tsv says how each part ended: name, state, seconds.
"""

import json
import os
import re
import sys

MODES = ["eager", "graph", "fused", "compile"]
FILES = ["check", "speed", "layers", "preprocess", "decode", "http", "http_one", "pytorch", "compile"]
TITLES = {"http": "HTTP, many connections", "http_one": "HTTP, one connection"}


def read_text(folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def read_json(folder, name):
    """The file's object; None where there is none; an error in words where it is no JSON object."""
    text = read_text(folder, name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        return {"unreadable": f"{name}: {error}"}
    return value if isinstance(value, dict) else {"unreadable": f"{name} holds no JSON object"}


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show(value, digits=None):
    if value is None:
        return "-"
    if not is_number(value):
        return str(value).replace("|", "\\|")
    if digits is not None:
        return f"{value:,.{digits}f}"
    if value == 0 or float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(head, rows):
    """A Markdown table; columns of numbers to the right."""
    right = [all(is_number(row[i]) or row[i] is None or str(row[i])[:1].isdigit() for row in rows) for i in range(len(head))]
    lines = [head, ["---:" if r else "---" for r in right], *([show(value) for value in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def entries(part, key):
    """The rows of a part, without those that are no objects."""
    rows = (part or {}).get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def number(row, key):
    return row.get(key) if is_number(row.get(key)) else None


def ratio(a, b):
    return a / b if a is not None and b else None


def torch_speed(results):
    """(mode, batch) to its row, of both files PyTorch's parts write."""
    rows = entries(results.get("pytorch"), "speed") + entries(results.get("compile"), "speed")
    return {(row.get("mode"), row.get("batch")): row for row in rows}


def times(value):
    return None if value is None else f"{value:.2f}x"


def on_device(row):
    return str(row.get("what", "kernels")).startswith("kernels")


def speed(results):
    ours, theirs = entries(results.get("speed"), "speed"), torch_speed(results)
    modes = [mode for mode in MODES if any(key[0] == mode for key in theirs)]
    # Only what PyTorch is measured with stands beside it: one session, input on the device.
    alone = {row.get("batch"): row for row in ours if row.get("sessions", 1) == 1 and on_device(row)}
    batches = sorted({b for b in [*alone, *(key[1] for key in theirs)] if is_number(b)})
    if not batches:
        return ["No speed was measured.", ""]

    def lines(key):
        for batch in batches:
            mine = number(alone.get(batch, {}), key)
            others = [number(theirs.get((mode, batch), {}), key) for mode in modes]
            yield [batch, mine, *others]

    head = ["batch", "convoy", *(f"PyTorch {mode}" for mode in modes)]
    rates = []
    for row in lines("images_per_s"):
        best = max((value for value in row[2:] if value is not None), default=None)
        rates.append([*row, times(ratio(row[1], best))])
    out = ["Images a second, input on the device:", "", *table([*head, "convoy over the best of PyTorch"], rates)]
    out += ["Milliseconds a batch:", "", *table(head, list(lines("ms")))]
    labels = {mode: next(row.get("label", "") for key, row in theirs.items() if key[0] == mode) for mode in modes}
    out += [f"- {mode}: {label}" for mode, label in labels.items()] + [""] * bool(labels)
    if more := [row for row in ours if alone.get(row.get("batch")) is not row]:
        more.sort(key=lambda row: str(row.get("what")))
        keys = ("what", "batch", "sessions", "images_per_s", "ms")
        rows = [[row.get(key) for key in keys] for row in more]
        head = ["what", "batch", "sessions", "images/s", "ms a batch"]
        out += ["convoy otherwise, with sessions side by side and from memory:", "", *table(head, rows)]
    return out


def accuracy(results):
    keys = ("images", "relative_error", "relative_error_between_images", "top1_agreement")
    rows = []
    check = results.get("check") or {}
    if isinstance(check.get("pytorch"), dict):
        rows.append(["convoy", *(check["pytorch"].get(key) for key in keys)])
    if is_number(check.get("relative_error")):
        rows.append(["convoy, against its CPU engine, other pictures", *(check.get(key) for key in keys)])
    for row in entries(results.get("pytorch"), "accuracy") + entries(results.get("compile"), "accuracy"):
        rows.append([f"PyTorch {row.get('mode')}", *(row.get(key) for key in keys)])
    if not rows:
        return ["No accuracy was measured.", ""]
    head = ["", "images", "relative L2 error of logits", "of their deviation from the mean image", "same first class"]
    return ["Half precision against PyTorch's float32 without TF32:", "", *table(head, rows)]


def layers(results):
    rows = entries(results.get("layers"), "layers")
    out = []
    for batch in sorted({row["batch"] for row in rows if is_number(row.get("batch"))}):
        lines, spent, ideal = [], 0.0, 0.0
        chosen = [row for row in rows if row.get("batch") == batch]
        for row in chosen:
            us, roofline, count = number(row, "us"), number(row, "roofline_us"), number(row, "count") or 1
            if us is not None and roofline is not None:
                spent, ideal = spent + us * count, ideal + roofline * count
        for row in chosen:
            us, roofline, count = number(row, "us"), number(row, "roofline_us"), number(row, "count") or 1
            share = ratio(us * count if us is not None else None, spent)
            percent = ratio(roofline, us)
            lines.append([
                row.get("name"),
                count,
                us,
                roofline,
                None if percent is None else f"{100 * percent:.0f} %",
                None if share is None else f"{100 * share:.1f} %",
                row.get("kernel"),
            ])
        out += [f"Batch {batch}, each layer as often as the network has it:", ""]
        out += table(["layer", "count", "us", "roofline us", "of roofline", "share of time", "kernel"], lines)
        if spent:
            out += [f"Together {spent / 1e3:.3f} ms, roofline {ideal / 1e3:.3f} ms: {100 * ideal / spent:.0f} % of it.", ""]
    return out or ["No layers were measured.", ""]


def plain(results, part, unit):
    rows = [[row.get("what"), number(row, unit)] for row in entries(results.get(part), part)]
    return table(["what", unit], rows) if rows else [f"{part} was not measured.", ""]


def http(results):
    rows = []
    for part in ("http", "http_one"):
        run = (results.get(part) or {}).get("run")
        if isinstance(run, dict):
            latency = run.get("latency_ms") or {}
            rows.append([
                TITLES[part],
                run.get("connections"),
                run.get("seconds"),
                run.get("requests"),
                run.get("failed"),
                run.get("answered_rate"),
                *(latency.get(key) for key in ("p50", "p90", "p99", "max")),
            ])
    head = ["", "connections", "seconds", "requests", "failed", "photos/s", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    if not rows:
        return ["HTTP was not measured.", ""]
    return ["JPEGs posted to /classify by a load generator on the same machine, decoding included:", "", *table(head, rows)]


def sanitizer(folder):
    out = []
    for tool in ("memcheck", "racecheck"):
        found = re.findall(r"^=+ ((?:ERROR|RACECHECK) SUMMARY: .*)$", read_text(folder, f"{tool}.log") or "", re.MULTILINE)
        out.append(f"- {tool}: {'; '.join(found) if found else 'no summary'}")
    return [*out, ""]


def states(folder):
    lines = (read_text(folder, "parts.tsv") or "").splitlines()
    return [(line.split("\t") + ["", ""])[:3] for line in lines if line]


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: report.py PARTS_FOLDER OUT_FOLDER")
    folder, out = sys.argv[1:]
    results = {name: value for name in FILES if (value := read_json(folder, f"{name}.json")) is not None}
    for name in ("http", "http_one"):
        for key in ("curve", "timeline"):
            run = results.get(name, {}).get("run")
            if isinstance(run, dict):
                run.pop(key, None)
    ended = states(folder)
    machine = (read_text(folder, "machine.txt") or "").rstrip()
    text = ["# convoy on a GPU", "", "```", machine or "(the machine was not looked at)", "```", ""]
    text += ["## Parts", "", *table(["part", "state", "seconds"], ended)]
    for name, part in results.items():
        if "unreadable" in part:
            text += [f"- {name}: {part['unreadable']}"]
        for row in entries(part, "failed"):
            text += [f"- {name}: {row.get('mode')}, batch {show(row.get('batch'))}: {row.get('error')}"]
    versions = {name: part["versions"] for name, part in results.items() if isinstance(part.get("versions"), dict)}
    text += ["", *(f"- {name}: " + ", ".join(f"{k} {v}" for k, v in part.items()) for name, part in versions.items()), ""]
    for title, body in (
        ("Accuracy", accuracy(results)),
        ("Speed", speed(results)),
        ("Layers", layers(results)),
        ("Preprocessing", plain(results, "preprocess", "us_per_image")),
        ("Decoding", plain(results, "decode", "images_per_s")),
        ("HTTP", http(results)),
        ("Compute-sanitizer", sanitizer(folder)),
    ):
        text += [f"## {title}", "", *body]
    everything = {
        "machine": machine.splitlines(),
        "parts": [{"part": name, "state": state, "seconds": seconds} for name, state, seconds in ended],
        **results,
    }
    for name, content in (("results.json", json.dumps(everything, indent=1)), ("report.md", "\n".join(text).rstrip())):
        path = os.path.join(out, name)
        with open(path + ".partial", "w", encoding="utf-8") as file:
            file.write(content + "\n")
        os.replace(path + ".partial", path)


if __name__ == "__main__":
    main()
