"""Checks the alert rules with Prometheus' own tool: `rules.py PROMTOOL`.

The file of rules is the operator's resource; its `spec` is what Prometheus reads. Then every alert must be in the unit
tests at least once firing, must have a section in the documentation, and the dashboard must be what its script writes.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s/components/monitoring"
UNIT_TESTS = ROOT / "tests/monitoring/rules_test.yaml"
DOCS = ROOT / "docs/observability.md"


def promtool(tool, *arguments):
    ran = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60)
    if ran.returncode:
        sys.exit(f"promtool {' '.join(map(str, arguments))}:\n{ran.stdout}{ran.stderr}")


def anchors(markdown):
    """What links to headings look like: lower case, spaces as dashes, nothing else."""
    headings = [line.lstrip("#").strip() for line in markdown.splitlines() if line.startswith("#")]
    return {"".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_") for heading in headings}


def main():
    tool = sys.argv[1]
    spec = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
        (folder / "tests.yaml").write_text(UNIT_TESTS.read_text())
        promtool(tool, "check", "rules", folder / "rules.yaml")
        promtool(tool, "test", "rules", folder / "tests.yaml")

    alerts = [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    tests = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    fired = {case["alertname"] for case in cases if case.get("exp_alerts")}
    explained = anchors(DOCS.read_text())
    problems = []
    for rule in alerts:
        name, notes = rule["alert"], rule.get("annotations", {})
        if name not in fired:
            problems.append(f"{name}: no unit test in which it fires")
        missing = {"summary", "description", "runbook"} - notes.keys()
        if missing or "severity" not in rule.get("labels", {}) or "for" not in rule:
            problems.append(f"{name}: lacks {sorted(missing) or 'severity or for'}")
        page, _, anchor = notes.get("runbook", "").partition("#")
        if page != "docs/observability.md" or anchor not in explained:
            problems.append(f"{name}: runbook {notes.get('runbook')} leads nowhere")
    written = subprocess.run([sys.executable, MONITORING / "dashboard.py"], capture_output=True, text=True, check=True)
    if json.loads(written.stdout) != json.loads((MONITORING / "dashboard.json").read_text()):
        problems.append("dashboard.json is not what dashboard.py writes: run it again")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(alerts)} alerts: ok")


main()
