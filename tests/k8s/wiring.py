"""Whether the objects of one rendering fit each other: names, ports, selectors, autoscalers, budgets, times.

Pure: objects in, problems out. What the server does where a manifest says nothing is passed in.
"""

from pods import Pod, name_of, pods


def problems(things: list[dict], defaults: dict[str, str]) -> list[str]:
    """Everything that does not fit. `defaults` are the server's settings where a manifest says nothing."""
    all_pods = pods(things)
    found = []
    for thing in things:
        kind = thing.get("kind")
        if kind == "Service":
            found += of_service(thing, all_pods)
        elif kind == "NetworkPolicy":
            found += of_network(thing, all_pods)
        elif kind in ("Ingress", "HTTPRoute"):
            found += of_way_in(thing, things)
        elif kind == "Secret":
            found.append(f"{name_of(thing)}: secrets are not part of manifests")
    found += of_accounts(all_pods, things)
    found += of_autoscalers(things, all_pods)
    found += of_budgets(things, all_pods)
    for pod in all_pods:
        found += of_rollout(pod) + of_times(pod, defaults) + of_ports(pod, defaults)
    return found


def selected(selector: dict, all_pods: list[Pod]) -> list[Pod]:
    """The pods with all these labels."""
    return [pod for pod in all_pods if selector.items() <= pod.labels.items()]


def named_ports(chosen: list[Pod]) -> set[str]:
    """The names of all their ports."""
    return {port.get("name") for pod in chosen for _, each in pod.containers for port in each.get("ports") or []}


def of_service(service: dict, all_pods: list[Pod]) -> list[str]:
    """It leads to pods, on ports that they name, and not to the port for probes."""
    chosen = selected(service["spec"].get("selector") or {}, all_pods)
    if not service["spec"].get("selector") or not chosen:
        return [f"{name_of(service)}: spec.selector matches no pod"]
    targets = [(port.get("name"), port.get("targetPort")) for port in service["spec"]["ports"]]
    at = f"{name_of(service)}: spec.ports"
    known = named_ports(chosen)
    found = [f"{at}[{name}].targetPort: no port is named {to!r}" for name, to in targets if to not in known]
    if service["spec"].get("clusterIP") == "None":
        # A headless Service has no address: it lists pods for scrapers.
        return found
    return found + [f"{at}[{name}].targetPort: ops is not for clients" for name, to in targets if to == "ops"]


def of_network(policy: dict, all_pods: list[Pod]) -> list[str]:
    """It guards pods, both ways, and names ports that they have."""
    spec = policy["spec"]
    chosen = selected((spec.get("podSelector") or {}).get("matchLabels") or {}, all_pods)
    if not chosen:
        return [f"{name_of(policy)}: spec.podSelector matches no pod"]
    ports = [port.get("port") for rule in spec.get("ingress") or [] for port in rule.get("ports") or []]
    # Rules for a pool of its own may name ports that only other pools have.
    known = named_ports(chosen)
    found = []
    if not known & set(ports):
        found.append(f"{name_of(policy)}: spec.ingress names none of the pods' ports: {sorted(map(str, known))}")
    if sorted(spec.get("policyTypes") or []) != ["Egress", "Ingress"]:
        found.append(f"{name_of(policy)}: spec.policyTypes: it must be both ways")
    return found


def backends(thing: dict):
    """Every Service that a way in leads to, with the port."""
    for rule in thing["spec"].get("rules") or []:
        for path in (rule.get("http") or {}).get("paths") or []:
            port = path["backend"]["service"]["port"]
            yield path["backend"]["service"]["name"], port.get("name", port.get("number"))
        for backend in rule.get("backendRefs") or []:
            yield backend["name"], backend["port"]


def of_way_in(thing: dict, things: list[dict]) -> list[str]:
    """It leads to Services that are there, over TLS; what is not TLS is only redirected."""
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in things if each.get("kind") == "Service"}
    found = []
    for name, port in backends(thing):
        if not any(port in (each.get("name"), each["port"]) for each in services.get(name, [])):
            found.append(f"{name_of(thing)}: spec.rules lead to {name}:{port}, which no Service is")
    if thing["kind"] == "Ingress":
        if not thing["spec"].get("tls"):
            found.append(f"{name_of(thing)}: spec.tls: there is none")
        return found
    gateways = {each["metadata"]["name"]: each["spec"]["listeners"] for each in things if each.get("kind") == "Gateway"}
    for parent in thing["spec"]["parentRefs"]:
        section, all_listeners = parent.get("sectionName"), gateways.get(parent["name"], [])
        listeners = [each for each in all_listeners if section in (None, each["name"])]
        if not listeners:
            found.append(f"{name_of(thing)}: spec.parentRefs: no listener {section} of {parent['name']}")
        if any(each["protocol"] == "HTTP" for each in listeners) and list(backends(thing)):
            found.append(f"{name_of(thing)}: spec.parentRefs: requests without TLS reach a Service")
    return found


def of_accounts(all_pods: list[Pod], things: list[dict]) -> list[str]:
    """Every account that a pod names is there."""
    known = {each["metadata"]["name"] for each in things if each.get("kind") == "ServiceAccount"}
    asked = [(pod, pod.spec.get("serviceAccountName", "default")) for pod in all_pods if pod.servers()]
    return [f"{pod.owner}: {pod.at}.serviceAccountName: no {name}" for pod, name in asked if name not in known]


def least_pods(pod: Pod, things: list[dict]) -> int:
    """How many of these pods there are when there are fewest."""
    name, spec = pod.controller["metadata"]["name"], pod.controller["spec"]
    for each in things:
        if (each.get("spec") or {}).get("scaleTargetRef", {}).get("name") == name:
            return each["spec"].get("minReplicas", each["spec"].get("minReplicaCount", 1))
    return spec.get("replicas", (spec.get("predictor") or {}).get("minReplicas", 1))


def of_autoscalers(things: list[dict], all_pods: list[Pod]) -> list[str]:
    """Each has a target that is there, and has it alone."""
    targets = {pod.controller["metadata"]["name"]: pod for pod in all_pods}
    found, owned = [], {}
    for thing in things:
        if thing.get("kind") not in ("HorizontalPodAutoscaler", "ScaledObject"):
            continue
        name = thing["spec"]["scaleTargetRef"]["name"]
        if name not in targets:
            found.append(f"{name_of(thing)}: spec.scaleTargetRef: no {name}")
            continue
        if name in owned:
            found.append(f"{name_of(thing)}: spec.scaleTargetRef: {owned[name]} scales {name} already")
        owned[name] = name_of(thing)
        found += of_autoscaler(thing, targets[name])
    return found


def of_autoscaler(thing: dict, pod: Pod) -> list[str]:
    """It owns the number of pods, within a range, and measures containers that they have."""
    found, spec = [], thing["spec"]
    if "replicas" in pod.controller["spec"]:
        found.append(f"{pod.owner}: spec.replicas: {name_of(thing)} owns the number")
    low = spec.get("minReplicas", spec.get("minReplicaCount", 1))
    if not 1 <= low <= spec.get("maxReplicas", spec.get("maxReplicaCount", 100)):
        found.append(f"{name_of(thing)}: spec: from {low} pods is no range")
    named = {each["name"] for each in pod.spec.get("containers") or []}
    asked = [(metric.get("containerResource") or {}).get("container") for metric in spec.get("metrics") or []]
    return found + [f"{name_of(thing)}: spec.metrics: no container {each}" for each in asked if each and each not in named]


def of_budgets(things: list[dict], all_pods: list[Pod]) -> list[str]:
    """Every budget guards pods and lets one go; no pod has two, which would stop every eviction."""
    found, guarded = [], {}
    for thing in things:
        if thing.get("kind") != "PodDisruptionBudget":
            continue
        spec = thing["spec"]
        chosen = selected((spec.get("selector") or {}).get("matchLabels") or {}, all_pods)
        if not chosen:
            found.append(f"{name_of(thing)}: spec.selector matches no pod")
        for pod in chosen:
            if pod.owner in guarded:
                found.append(f"{name_of(thing)}: spec.selector: {guarded[pod.owner]} guards {pod.owner} already")
            guarded[pod.owner] = name_of(thing)
            low, least = spec.get("minAvailable"), least_pods(pod, things)
            if spec.get("maxUnavailable") in (0, "0", "0%") or low == "100%" or (isinstance(low, int) and low >= least):
                found.append(f"{name_of(thing)}: spec: no pod of {pod.owner} can ever be evicted")
    unguarded = [pod.owner for pod in all_pods if pod.servers() and pod.owner not in guarded]
    return found + [f"{owner}: no PodDisruptionBudget guards it" for owner in unguarded]


def of_rollout(pod: Pod) -> list[str]:
    """A rollout takes no pod away before its successor is ready."""
    spec = pod.controller["spec"]
    strategy = spec.get("strategy") or (spec.get("predictor") or {}).get("deploymentStrategy")
    rolling = (strategy or {}).get("rollingUpdate") or {}
    if pod.servers() and (rolling.get("maxUnavailable") != 0 or rolling.get("maxSurge") in (None, 0, "0%")):
        return [f"{pod.owner}: spec.strategy: maxUnavailable must be 0 and maxSurge more"]
    return []


def of_times(pod: Pod, defaults: dict[str, str]) -> list[str]:
    """Kubernetes waits until the server has drained, and the server until the longest deadline is over."""
    found = []
    for where, container in pod.servers():
        set_here = {each["name"]: each.get("value") for each in container.get("env") or []}
        times = [(name, set_here.get(name, value)) for name, value in defaults.items() if name.endswith("_MS")]
        seconds = {name: int(value) / 1000 for name, value in times}
        stop = ((container.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}
        drain = stop.get("seconds", 0) + seconds["CONVOY_LAME_DUCK_MS"] + seconds["CONVOY_GRACE_MS"]
        waits = pod.spec.get("terminationGracePeriodSeconds", 30)
        if waits < drain + 5:
            found.append(f"{pod.owner}: {pod.at}.terminationGracePeriodSeconds: {waits} s end a drain of {drain:g} s")
        if seconds["CONVOY_GRACE_MS"] < seconds["CONVOY_MAX_DEADLINE_MS"]:
            found.append(f"{where}.env[CONVOY_GRACE_MS]: less than CONVOY_MAX_DEADLINE_MS: a rollout cuts requests off")
    return found


def of_ports(pod: Pod, defaults: dict[str, str]) -> list[str]:
    """The ports that are named are those that the server opens."""
    found = []
    for where, container in pod.servers():
        given = defaults | {each["name"]: each.get("value", "") for each in container.get("env") or []}
        opened = {value.rpartition(":")[2] for name, value in given.items() if name.endswith("_BIND")}
        for port in container.get("ports") or []:
            if str(port["containerPort"]) not in opened:
                found.append(f"{where}.ports[{port.get('name')}]: {port['containerPort']} is not bound by the server")
    return found


def way_in_limits(things: list[dict], longest_s: float, body_mib: int) -> list[str]:
    """No way in gives up before the server does, nor lets less through."""
    found = []
    for thing in things:
        if thing.get("kind") == "Ingress":
            found += ingress_limits(thing, longest_s, body_mib)
        elif thing.get("kind") == "HTTPRoute":
            for rule in thing["spec"]["rules"]:
                asked = (rule.get("timeouts") or {}).get("request", "0s")
                everything = any(match["path"]["value"] == "/" for match in rule.get("matches") or [])
                if everything and float(asked.removesuffix("s")) <= longest_s:
                    found.append(f"{name_of(thing)}: timeouts.request: {asked} is not more than CONVOY_MAX_DEADLINE_MS")
    return found


def ingress_limits(ingress: dict, longest_s: float, body_mib: int) -> list[str]:
    """The same of ingress-nginx's annotations, with its own defaults."""
    notes, prefix = ingress["metadata"].get("annotations") or {}, "nginx.ingress.kubernetes.io/"
    found = []
    size = notes.get(f"{prefix}proxy-body-size", "1m")
    if not size.endswith("m") or int(size[:-1]) <= body_mib:
        found.append(f"{name_of(ingress)}: proxy-body-size: {size} is not more than CONVOY_MAX_BODY_MIB")
    if int(notes.get(f"{prefix}proxy-read-timeout", "60")) <= longest_s:
        found.append(f"{name_of(ingress)}: proxy-read-timeout: not more than CONVOY_MAX_DEADLINE_MS")
    return found
