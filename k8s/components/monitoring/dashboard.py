#!/usr/bin/env python3
"""Writes dashboard.json, the Grafana dashboard of convoy: `python3 dashboard.py > dashboard.json`.

A panel is a title, what it says, and its queries; where it stands follows from the order. The JSON is committed, and a test
holds it to this script.
"""

import json

# Series of the chosen namespace and pods.
PODS = 'namespace=~"$namespace", pod=~"$pod"'
# What clients ask, without probes and scrapes.
ASKED = PODS + ', route!~"readyz|livez|metrics|v2_(live|ready|model_ready)"'
RATE = "$__rate_interval"
WIDTH = 24

GREEN_IS_GOOD = [{"color": "red", "value": None}, {"color": "green", "value": 1}]


def steps(warn, bad):
    return [
        {"color": "green", "value": None},
        {"color": "orange", "value": warn},
        {"color": "red", "value": bad},
    ]


def quantile(q, metric, by, selector=PODS):
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{selector}}}[{RATE}])))"


def rate(metric, by, selector=PODS):
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{RATE}]))"


def panel(kind, title, about, queries, unit, width, height, thresholds=None, options=None, custom=None):
    defaults = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom or {}}
    if thresholds:
        defaults["thresholds"] = {"mode": "absolute", "steps": thresholds}
        defaults["color"] = {"mode": "thresholds"}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend, "editorMode": "code", "range": True}
            for index, (expr, legend) in enumerate(queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options or {},
        "size": (width, height),
    }


def number(title, about, expr, unit, thresholds):
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return panel("stat", title, about, [(expr, "")], unit, 4, 4, thresholds, options)


def graph(title, about, queries, unit, stacked=False, width=8):
    custom = {"fillOpacity": 20 if stacked else 5, "showPoints": "never", "lineWidth": 1}
    if stacked:
        custom["stacking"] = {"mode": "normal"}
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, about, queries, unit, width, 9, None, options, custom)


ROWS = [
    (
        "At a glance",
        [
            number("Ready pods", "Pods that want traffic.", f"sum(convoy_ready{{{PODS}}})", "none", GREEN_IS_GOOD),
            number(
                "Answers a second",
                "Requests that clients sent and got answered, refusals among them.",
                f"sum(rate(convoy_http_requests_total{{{ASKED}}}[{RATE}]))",
                "reqps",
                steps(1e9, 1e9),
            ),
            number(
                "Refused",
                "Share of jobs that got 429 because they could not be answered in time. The alert is at 5 %.",
                f'sum(rate(convoy_jobs_total{{{PODS}, outcome=~"refused_full|refused_late"}}[{RATE}]))'
                f" / sum(rate(convoy_jobs_total{{{PODS}}}[{RATE}]))",
                "percentunit",
                steps(0.01, 0.05),
            ),
            number(
                "Photos, p99",
                "From a request's head to its answer; interpolated within a bucket. The goal is 2 s.",
                f"histogram_quantile(0.99, sum by (le) (rate(convoy_http_request_seconds_bucket"
                f'{{{PODS}, route=~"classify|score|v2_infer"}}[{RATE}])))',
                "s",
                steps(1, 2),
            ),
            number(
                "Questions, p99",
                "From a request's head to its answer; interpolated within a bucket. The goal is 0.1 s.",
                f"histogram_quantile(0.99, sum by (le) (rate(convoy_http_request_seconds_bucket"
                f'{{{PODS}, route="faq"}}[{RATE}])))',
                "s",
                steps(0.05, 0.1),
            ),
            number(
                "Longest drain",
                "Until everything admitted for photos would be done, on the pod with most. The autoscaler looks at this.",
                f'max(convoy_predicted_drain_seconds{{{PODS}, queue="classify"}})',
                "s",
                steps(5, 10),
            ),
        ],
    ),
    (
        "Requests",
        [
            graph(
                "Answers by status",
                "2xx is goodput, 429 is refused, 499 is a client that left first, 504 a deadline that passed.",
                [(rate("convoy_http_requests_total", "status", ASKED), "{{status}}")],
                "reqps",
                stacked=True,
            ),
            graph(
                "Answers by route",
                "Without probes and scrapes.",
                [(rate("convoy_http_requests_total", "route", ASKED), "{{route}}")],
                "reqps",
                stacked=True,
            ),
            graph(
                "gRPC calls by status",
                "All methods.",
                [(rate("convoy_grpc_requests_total", "status"), "{{status}}")],
                "reqps",
                stacked=True,
            ),
            graph(
                "p99 by route",
                "From a request's head to its answer. Interpolated within a bucket: the bounds are in src/metrics.rs.",
                [(quantile(0.99, "convoy_http_request_seconds", "route", ASKED), "{{route}}")],
                "s",
            ),
            graph(
                "p50 by route",
                "The median, as the panel beside.",
                [(quantile(0.5, "convoy_http_request_seconds", "route", ASKED), "{{route}}")],
                "s",
            ),
            graph(
                "gRPC, p50 and p99",
                "From a call's head to its end; streams are as long as their clients want.",
                [
                    (quantile(0.99, "convoy_grpc_request_seconds", "method"), "p99 {{method}}"),
                    (quantile(0.5, "convoy_grpc_request_seconds", "method"), "p50 {{method}}"),
                ],
                "s",
            ),
            graph(
                "Reading and writing, p99",
                "The body's arrival and the answer's departure: slow clients and slow networks show here.",
                [
                    (quantile(0.99, "convoy_read_seconds", "route", ASKED), "read {{route}}"),
                    (quantile(0.99, "convoy_write_seconds", "route", ASKED), "write {{route}}"),
                ],
                "s",
            ),
            graph(
                "Jobs by outcome",
                "ok, failed and panicked ran; expired, late and abandoned were let in and did not run; refused were not let in.",
                [(rate("convoy_jobs_total", "queue, outcome"), "{{queue}} {{outcome}}")],
                "ops",
            ),
            graph(
                "Photos that shared an execution",
                "Identical photos in flight run once.",
                [(f"sum(rate(convoy_shared_photos_total{{{PODS}}}[{RATE}]))", "shared")],
                "ops",
            ),
        ],
    ),
    (
        "Queues and executors",
        [
            graph(
                "Queue against execution, p99",
                "Where the time goes. Queue: executors were busy. Batch wait: an idle one waited for company. Execute: one "
                "batch.",
                [
                    (quantile(0.99, "convoy_queue_seconds", "queue"), "queue {{queue}}"),
                    (quantile(0.99, "convoy_batch_wait_seconds", "queue"), "batch wait {{queue}}"),
                    (quantile(0.99, "convoy_execute_seconds", "queue"), "execute {{queue}}"),
                ],
                "s",
            ),
            graph(
                "Mean batch",
                "Jobs per executed batch. It grows by itself under load.",
                [
                    (
                        f"{rate('convoy_batch_size_sum', 'queue')} / {rate('convoy_batch_size_count', 'queue')}",
                        "{{queue}}",
                    )
                ],
                "none",
            ),
            graph(
                "Predicted drain by pod",
                "Seconds until everything admitted would be done: what the autoscaler scales on.",
                [(f"max by (pod, queue) (convoy_predicted_drain_seconds{{{PODS}}})", "{{pod}} {{queue}}")],
                "s",
            ),
            graph(
                "Busy executors",
                "Share of time that executors work. At 1 a queue builds up.",
                [(f"avg by (queue) (convoy_busy_fraction{{{PODS}}})", "{{queue}}")],
                "percentunit",
            ),
            graph(
                "Seats taken and jobs waiting",
                "A seat is held from the head to the answer; waiting are those that only lack an executor.",
                [
                    (f"sum by (queue) (convoy_queue_depth{{{PODS}}})", "taken {{queue}}"),
                    (f"sum by (queue) (convoy_queue_waiting{{{PODS}}})", "waiting {{queue}}"),
                ],
                "none",
            ),
            graph(
                "Oldest running batch",
                "How long the batch that has run longest has run. A device that hangs draws a straight line upwards.",
                [(f"max by (pod, queue) (convoy_batch_age_seconds{{{PODS}}})", "{{pod}} {{queue}}")],
                "s",
            ),
            graph(
                "What a batch is expected to take",
                "The cost table that everything is decided by, refreshed by every batch.",
                [(f"avg by (queue, size) (convoy_batch_cost_seconds{{{PODS}}})", "{{queue}} {{size}}")],
                "s",
                width=24,
            ),
        ],
    ),
    (
        "Processes",
        [
            graph("Ready", "1 while a pod wants traffic.", [(f"max by (pod) (convoy_ready{{{PODS}}})", "{{pod}}")], "none"),
            graph(
                "Connections",
                "Open now, on all ports.",
                [(f"sum by (pod) (convoy_http_connections{{{PODS}}})", "{{pod}}")],
                "none",
            ),
            graph(
                "Processor",
                "Cores in use.",
                [(f'sum by (pod) (rate(process_cpu_seconds_total{{job="convoy", {PODS}}}[{RATE}]))', "{{pod}}")],
                "none",
            ),
            graph(
                "Memory",
                "Resident, and what the pod may have.",
                [
                    (f'max by (pod) (process_resident_memory_bytes{{job="convoy", {PODS}}})', "{{pod}}"),
                    (f"max by (pod) (convoy_memory_limit_bytes{{{PODS}}} > 0)", "limit {{pod}}"),
                ],
                "bytes",
            ),
            graph(
                "File descriptors",
                "Open, and how many may be.",
                [
                    (f'max by (pod) (process_open_fds{{job="convoy", {PODS}}})', "{{pod}}"),
                    (f'max(process_max_fds{{job="convoy", {PODS}}})', "limit"),
                ],
                "none",
            ),
            graph(
                "Age",
                "Since the process started: a fall to zero is a restart.",
                [(f'time() - max by (pod) (process_start_time_seconds{{job="convoy", {PODS}}})', "{{pod}}")],
                "s",
            ),
            graph(
                "Traces",
                "Recorded requests that the collector has, that it did not take, and that found the queue full.",
                [(rate("convoy_traces_total", "outcome"), "{{outcome}}")],
                "ops",
                width=12,
            ),
            graph(
                "Versions",
                "Pods by version and photo model: two lines during a rollout.",
                [(f"count by (version, photos) (convoy_info{{{PODS}}})", "{{version}} {{photos}}")],
                "none",
                width=12,
            ),
        ],
    ),
]


def placed():
    """The panels of all rows, each beside or below the one before."""
    made, top = [], 0
    for title, panels in ROWS:
        made.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": grid(0, top, WIDTH, 1)})
        top, left, tallest = top + 1, 0, 0
        for described in panels:
            one = dict(described)
            width, height = one.pop("size")
            if left + width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            one["gridPos"] = grid(left, top, width, height)
            left, tallest = left + width, max(tallest, height)
            made.append(one)
        top += tallest
    for number_of, one in enumerate(made, start=1):
        one["id"] = number_of
    return made


def grid(x, y, w, h):
    return {"x": x, "y": y, "w": w, "h": h}


def variable(name, query):
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


DASHBOARD = {
    "uid": "convoy",
    "title": "convoy",
    "description": "Photos and questions: what is asked, what it waits for, and how the processes are. docs/observability.md",
    "tags": ["convoy"],
    "schemaVersion": 39,
    "editable": True,
    "graphTooltip": 1,
    "refresh": "30s",
    "time": {"from": "now-1h", "to": "now"},
    "timezone": "browser",
    "templating": {
        "list": [
            {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}},
            variable("namespace", "label_values(convoy_info, namespace)"),
            variable("pod", 'label_values(convoy_info{namespace=~"$namespace"}, pod)'),
        ]
    },
    "annotations": {"list": []},
    "panels": placed(),
}

if __name__ == "__main__":
    print(json.dumps(DASHBOARD, indent=1))
