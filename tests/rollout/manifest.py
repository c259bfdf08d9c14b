"""What the manifests say about time: the probes, the drain and the surge of the Deployment that runs `convoy serve`.

Reads the files of a kustomize folder as they are; patches of overlays are not applied.
"""

import dataclasses
import pathlib

import yaml


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds and counts, with Kubernetes' defaults where a manifest says nothing."""

    period: float
    failures: int
    successes: int
    path: str
    port: str
    min_ready: float
    surge: int
    pre_stop: float
    grace: float
    environment: dict


def documents(folder):
    for file in sorted(pathlib.Path(folder).glob("*.yaml")):
        yield from (one for one in yaml.safe_load_all(file.read_text()) if isinstance(one, dict))


def server(folder):
    """The Deployment and the container whose readiness is probed."""
    for document in documents(folder):
        if document.get("kind") != "Deployment":
            continue
        for container in document["spec"]["template"]["spec"]["containers"]:
            if "readinessProbe" in container:
                return document["spec"], container
    raise SystemExit(f"{folder}: no Deployment with a readinessProbe")


def pre_stop(container):
    """Seconds that a preStop hook sleeps."""
    hook = container.get("lifecycle", {}).get("preStop", {})
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    command = hook.get("exec", {}).get("command", [])
    return float(command[-1]) if "sleep" in command else 0.0


def surge(spec):
    """Pods above the wanted number; a percentage counts as one here, where there are few."""
    wanted = spec.get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 1)
    return wanted if isinstance(wanted, int) else 1


def timings(folder, min_ready=None):
    """The times of the manifests in `folder`, with another minReadySeconds where one is given."""
    spec, container = server(folder)
    probe = container["readinessProbe"]
    environment = {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}
    return Timings(
        period=float(probe.get("periodSeconds", 10)),
        failures=int(probe.get("failureThreshold", 3)),
        successes=int(probe.get("successThreshold", 1)),
        path=probe["httpGet"]["path"],
        port=str(probe["httpGet"]["port"]),
        min_ready=float(spec.get("minReadySeconds", 0) if min_ready is None else min_ready),
        surge=surge(spec),
        pre_stop=pre_stop(container),
        grace=float(spec["template"]["spec"].get("terminationGracePeriodSeconds", 30)),
        environment={
            name: value for name, value in environment.items() if name in ("CONVOY_LAME_DUCK_MS", "CONVOY_GRACE_MS")
        },
    )
