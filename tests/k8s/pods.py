"""What every pod must be: nobody's root, no part of its host, bounded, pinned, and probed where the server answers.

Pure: objects in, problems out. A problem is one line that begins with the object and the field.
"""

from dataclasses import dataclass, field

CONTROLLERS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
SUFFIXES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3}


@dataclass
class Pod:
    """One pod template, wherever it stands."""

    owner: str
    controller: dict
    labels: dict
    spec: dict
    # The field of the owner that the spec is.
    at: str = "spec.template.spec"
    containers: list = field(init=False)

    def __post_init__(self):
        at = f"{self.owner}: {self.at}"
        named = [(key, each) for key in ("containers", "initContainers") for each in self.spec.get(key) or []]
        self.containers = [(f"{at}.{key}[{each.get('name')}]", each) for key, each in named]

    def servers(self) -> list:
        """The containers that serve: those of convoy that are told to."""
        return [(where, each) for where, each in self.containers if "serve" in (each.get("args") or [])[:1]]


def name_of(thing: dict) -> str:
    """Kind and name, as kubectl writes them."""
    return f"{thing.get('kind')}/{thing.get('metadata', {}).get('name')}"


def pods(things: list[dict]) -> list[Pod]:
    """Every pod that these objects would make."""
    found = []
    for thing in things:
        spec = thing.get("spec") or {}
        if thing.get("kind") in CONTROLLERS:
            template = spec.get("template") or {}
            labels = (template.get("metadata") or {}).get("labels") or {}
            found.append(Pod(name_of(thing), thing, labels, template.get("spec") or {}))
        elif thing.get("kind") == "Pod":
            found.append(Pod(name_of(thing), thing, thing["metadata"].get("labels") or {}, spec, "spec"))
        elif thing.get("kind") == "InferenceService":
            found.append(kserve_pod(thing, things))
    return found


def kserve_pod(service: dict, things: list[dict]) -> Pod:
    """What KServe makes of a predictor and the runtime that it names: the predictor's fields over the runtime's."""
    predictor = service["spec"]["predictor"]
    wanted = (predictor.get("model") or {}).get("runtime")
    runtimes = [each for each in things if each.get("kind") == "ServingRuntime" and each["metadata"]["name"] == wanted]
    spec = dict(runtimes[0]["spec"]) if runtimes else {}
    spec.update({key: value for key, value in predictor.items() if key not in ("model", "labels")})
    return Pod(name_of(service), service, predictor.get("labels") or {}, spec, "spec.predictor")


def quantity(text) -> float:
    """A quantity of Kubernetes as a number."""
    text = str(text)
    for suffix, factor in SUFFIXES.items():
        if text.endswith(suffix):
            return float(text[: -len(suffix)]) * factor
    return float(text)


def problems(pod: Pod) -> list[str]:
    """Everything that is wrong with a pod as such."""
    found = [*of_host(pod), *of_account(pod)]
    for where, container in pod.containers:
        found += of_security(where, container, pod.spec.get("securityContext") or {})
        found += of_resources(where, container.get("resources") or {})
        found += of_image(where, container.get("image", ""))
        found += of_mounts(where, container, pod)
    for where, container in pod.servers():
        found += of_probes(where, container)
    return found


def of_host(pod: Pod) -> list[str]:
    """Nothing of the node is the pod's."""
    at = f"{pod.owner}: {pod.at}"
    found = [f"{at}.{each}: true" for each in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(each)]
    for volume in pod.spec.get("volumes") or []:
        if "hostPath" in volume:
            found.append(f"{at}.volumes[{volume['name']}].hostPath: {volume['hostPath'].get('path')}")
    for where, container in pod.containers:
        taken = [port["hostPort"] for port in container.get("ports") or [] if "hostPort" in port]
        found += [f"{where}.ports: hostPort {port}" for port in taken]
    return found


def of_account(pod: Pod) -> list[str]:
    """No token of Kubernetes in the pod, and no variables named by its Services."""
    at = f"{pod.owner}: {pod.at}"
    found = []
    if pod.spec.get("automountServiceAccountToken") is not False:
        found.append(f"{at}.automountServiceAccountToken: it must be false")
    if pod.servers() and pod.spec.get("enableServiceLinks") is not False:
        found.append(f"{at}.enableServiceLinks: it must be false, or Services set CONVOY_ variables")
    for volume in pod.spec.get("volumes") or []:
        sources = (volume.get("projected") or {}).get("sources") or []
        if any("serviceAccountToken" in source for source in sources):
            found.append(f"{at}.volumes[{volume['name']}].projected: a service account's token")
    return found


def of_security(where: str, container: dict, of_pod: dict) -> list[str]:
    """The restricted Pod Security Standard, and a root filesystem that cannot be written."""
    own = container.get("securityContext") or {}
    both = {**of_pod, **own}
    found = []
    if own.get("privileged"):
        found.append(f"{where}.securityContext.privileged: true")
    if own.get("allowPrivilegeEscalation") is not False:
        found.append(f"{where}.securityContext.allowPrivilegeEscalation: it must be false")
    if both.get("runAsNonRoot") is not True:
        found.append(f"{where}.securityContext.runAsNonRoot: it must be true, here or for the pod")
    if 0 in (own.get("runAsUser"), of_pod.get("runAsUser")):
        found.append(f"{where}.securityContext.runAsUser: 0 is root")
    if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append(f"{where}.securityContext.seccompProfile: it must be RuntimeDefault or Localhost, here or above")
    if own.get("readOnlyRootFilesystem") is not True:
        found.append(f"{where}.securityContext.readOnlyRootFilesystem: it must be true")
    capabilities = own.get("capabilities") or {}
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        found.append(f"{where}.securityContext.capabilities: all must be dropped and none added")
    return found


def of_resources(where: str, resources: dict) -> list[str]:
    """Bounded, and asked for within the bounds."""
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    found = []
    for each in ("cpu", "memory"):
        if each not in limits:
            found.append(f"{where}.resources.limits.{each}: there is none")
        if each not in requests:
            found.append(f"{where}.resources.requests.{each}: there is none")
        elif each in limits and quantity(requests[each]) > quantity(limits[each]):
            found.append(f"{where}.resources.requests.{each}: {requests[each]} is more than the limit")
    return found


def of_image(where: str, image: str) -> list[str]:
    """A version that somebody chose."""
    name, _, digest = image.partition("@")
    tag = name.rsplit("/", 1)[-1].partition(":")[2]
    if digest.startswith("sha256:") or (tag and tag != "latest"):
        return []
    return [f"{where}.image: {image!r} has no tag that stays what it is"]


def of_mounts(where: str, container: dict, pod: Pod) -> list[str]:
    """Every mount is of a volume that is there."""
    known = {volume["name"] for volume in pod.spec.get("volumes") or []}
    mounts = container.get("volumeMounts") or []
    return [f"{where}.volumeMounts: no volume {each['name']}" for each in mounts if each["name"] not in known]


def of_probes(where: str, container: dict) -> list[str]:
    """All three probes, on ports that the container names, and a start that liveness waits for."""
    ports = {port.get("name") for port in container.get("ports") or []}
    found = []
    for each in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(each)
        if probe is None:
            found.append(f"{where}.{each}: there is none")
        elif (port := (probe.get("httpGet") or {}).get("port")) not in ports:
            found.append(f"{where}.{each}.httpGet.port: no port is named {port!r}")
    return found


def probe_paths(things: list[dict]) -> set[tuple[str, str]]:
    """Where probes knock, with who does."""
    found = set()
    for pod in pods(things):
        for where, container in pod.servers():
            for each in ("startupProbe", "readinessProbe", "livenessProbe"):
                if path := ((container.get(each) or {}).get("httpGet") or {}).get("path"):
                    found.add((f"{where}.{each}.httpGet.path", path))
    return found
