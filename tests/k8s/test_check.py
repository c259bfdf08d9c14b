"""The checker finds what it is for: each case breaks a good rendering in one place and names the line that must appear.

    KUBECTL=... CONVOY=... SERVER=http://... python -m unittest discover tests/k8s
"""

import copy
import os
import unittest
from pathlib import Path

import check
import pods
import render
import settings

AT = "Deployment/convoy: spec.template.spec.containers"
K8S = Path(__file__).parents[2] / "k8s"


def rendered(*components: str, overlay: str = "cpu") -> list[dict]:
    """An overlay with components, as the repository has them."""
    kustomization = {"resources": [f"overlays/{overlay}"], "namespace": "convoy"}
    if components:
        kustomization["components"] = [f"components/{each}" for each in components]
    return render.render(os.environ["KUBECTL"], K8S, kustomization)


def thing(things: list[dict], kind: str, name: str | None = None) -> dict:
    """The first object of a kind, or the one with this name."""
    return next(each for each in things if each["kind"] == kind and name in (None, each["metadata"]["name"]))


def spec(things: list[dict]) -> dict:
    """The Deployment's pods."""
    return thing(things, "Deployment")["spec"]["template"]["spec"]


def server(things: list[dict]) -> dict:
    """The container that serves."""
    return spec(things)["containers"][0]


def setting(things: list[dict], name: str, value: str) -> None:
    """Gives the server a setting, in place of the one it has."""
    env = [each for each in server(things)["env"] if each["name"] != name]
    server(things)["env"] = [*env, {"name": name, "value": value}]


def another(things: list[dict], kind: str, name: str, **changes) -> None:
    """Adds a copy of an object under another name."""
    twin = copy.deepcopy(thing(things, kind))
    twin["metadata"]["name"] = name
    twin["spec"].update(changes)
    things.append(twin)


def budget(things: list[dict], **changes) -> dict:
    """The budget's spec with another bound."""
    return {"selector": thing(things, "PodDisruptionBudget")["spec"]["selector"], **changes}


def scaled_twice(things: list[dict]) -> None:
    """A ScaledObject on what the HPA scales."""
    triggers = [{"type": "cpu", "metadata": {"value": "70"}}]
    spec = {"scaleTargetRef": {"name": "convoy"}, "minReplicaCount": 1, "maxReplicaCount": 3, "triggers": triggers}
    things.append({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "two"}, "spec": spec})


# What is broken, how, and what must be said of it.
POD_CASES = {
    "unknown field": (lambda t: spec(t).update(restartPolice="Always"), "spec.template.spec: Additional properties"),
    "wrong type": (lambda t: spec(t).update(terminationGracePeriodSeconds="x"), "terminationGracePeriodSeconds: 'x'"),
    "unknown kind": (lambda t: thing(t, "Service").update(kind="Servise"), "apiVersion: Kubernetes 1.32 has no Servise"),
    "privileged": (lambda t: server(t)["securityContext"].update(privileged=True), "securityContext.privileged"),
    "escalation": (lambda t: server(t)["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilegeEscalation"),
    "root by omission": (lambda t: spec(t)["securityContext"].pop("runAsNonRoot"), "runAsNonRoot: it must be true"),
    "root by number": (lambda t: spec(t)["securityContext"].update(runAsUser=0), "runAsUser: 0 is root"),
    "no seccomp": (lambda t: spec(t)["securityContext"].pop("seccompProfile"), "seccompProfile: it must be"),
    "writable root": (lambda t: server(t)["securityContext"].pop("readOnlyRootFilesystem"), "readOnlyRootFilesystem"),
    "capability": (lambda t: server(t)["securityContext"]["capabilities"].update(add=["SYS_NICE"]), "none added"),
    "latest": (lambda t: server(t).update(image="example.azurecr.io/convoy:latest"), "has no tag"),
    "no tag, but a port": (lambda t: server(t).update(image="example.azurecr.io:443/convoy"), "has no tag"),
    "no CPU limit": (lambda t: server(t)["resources"]["limits"].pop("cpu"), "resources.limits.cpu: there is none"),
    "no memory limit": (
        lambda t: spec(t)["initContainers"][0]["resources"]["limits"].pop("memory"),
        "initContainers[weights].resources.limits.memory: there is none",
    ),
    "request over limit": (lambda t: server(t)["resources"]["requests"].update(memory="300Gi"), "more than the limit"),
    "host path": (
        lambda t: spec(t)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        "volumes[h].hostPath: /",
    ),
    "host network": (lambda t: spec(t).update(hostNetwork=True), "hostNetwork: true"),
    "host port": (lambda t: server(t)["ports"][0].update(hostPort=80), "hostPort 80"),
    "token mounted": (lambda t: spec(t).update(automountServiceAccountToken=True), "automountServiceAccountToken"),
    "service variables": (lambda t: spec(t).pop("enableServiceLinks"), "enableServiceLinks"),
    "volume that is not there": (lambda t: spec(t).update(volumes=[]), "volumeMounts: no volume models"),
    "no startup probe": (lambda t: server(t).pop("startupProbe"), "startupProbe: there is none"),
    "probe on no port": (lambda t: server(t)["livenessProbe"]["httpGet"].update(port="opps"), "no port is named 'opps'"),
}
WIRING_CASES = {
    "service without pods": (lambda t: thing(t, "Service")["spec"]["selector"].update(a="b"), "selector matches no pod"),
    "service on no port": (lambda t: thing(t, "Service")["spec"]["ports"][0].update(targetPort="web"), "named 'web'"),
    "service to the ops port": (lambda t: thing(t, "Service")["spec"]["ports"][0].update(targetPort="ops"), "ops is not"),
    "policy for nobody": (
        lambda t: thing(t, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].update(a="b"),
        "podSelector matches no pod",
    ),
    "policy one way": (lambda t: thing(t, "NetworkPolicy")["spec"].update(policyTypes=["Ingress"]), "both ways"),
    "no account": (lambda t: t.remove(thing(t, "ServiceAccount")), "serviceAccountName: no convoy"),
    "scaled twice, HPA": (lambda t: another(t, "HorizontalPodAutoscaler", "two"), "scales convoy already"),
    "scaled twice, KEDA": (scaled_twice, "HorizontalPodAutoscaler/convoy scales convoy already"),
    "replicas and a scaler": (lambda t: thing(t, "Deployment")["spec"].update(replicas=3), "spec.replicas"),
    "scaler of nothing": (
        lambda t: thing(t, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"].update(name="convey"),
        "scaleTargetRef: no convey",
    ),
    "scaler of no container": (
        lambda t: thing(t, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["containerResource"].update(container="c"),
        "spec.metrics: no container c",
    ),
    "budget of zero": (lambda t: thing(t, "PodDisruptionBudget")["spec"].update(maxUnavailable=0), "ever be evicted"),
    "budget of all": (
        lambda t: thing(t, "PodDisruptionBudget").update(spec=budget(t, minAvailable=2)),
        "ever be evicted",
    ),
    "two budgets": (lambda t: another(t, "PodDisruptionBudget", "two"), "guards Deployment/convoy already"),
    "no budget": (lambda t: t.remove(thing(t, "PodDisruptionBudget")), "no PodDisruptionBudget"),
    "rollout that takes first": (
        lambda t: thing(t, "Deployment")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        "maxUnavailable must be 0",
    ),
    "killed while draining": (lambda t: spec(t).update(terminationGracePeriodSeconds=300), "300 s end a drain"),
    "port that is not bound": (lambda t: server(t)["ports"][1].update(containerPort=8002), "8002 is not bound"),
    "preStop forgotten": (
        lambda t: server(t).update(lifecycle={"preStop": {"sleep": {"seconds": 20}}}),
        "320 s end a drain of 328 s",
    ),
    "grace below the deadline": (lambda t: setting(t, "CONVOY_GRACE_MS", "25000"), "a rollout cuts requests off"),
    "a secret": (
        lambda t: t.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        "secrets are not part of manifests",
    ),
}
WAY_IN_CASES = {
    "ingress to nowhere": ("ingress", lambda t: t.remove(thing(t, "Service")), "lead to convoy:http, which no Service is"),
    "ingress without TLS": ("ingress", lambda t: thing(t, "Ingress")["spec"].pop("tls"), "spec.tls: there is none"),
    "small bodies": ("ingress", lambda t: setting(t, "CONVOY_MAX_BODY_MIB", "33"), "proxy-body-size: 33m"),
    "short patience": ("ingress", lambda t: setting(t, "CONVOY_MAX_DEADLINE_MS", "330000"), "proxy-read-timeout"),
    "route to nowhere": ("gateway", lambda t: t.remove(thing(t, "Service")), "lead to convoy:80, which no Service is"),
    "route without TLS": (
        "gateway",
        lambda t: thing(t, "HTTPRoute", "convoy")["spec"]["parentRefs"][0].update(sectionName="http"),
        "requests without TLS reach a Service",
    ),
    "impatient route": (
        "gateway",
        lambda t: thing(t, "HTTPRoute", "convoy")["spec"]["rules"][0]["timeouts"].update(request="30s"),
        "timeouts.request: 30s",
    ),
    "gateway's unknown field": (
        "gateway",
        lambda t: thing(t, "Gateway")["spec"]["listeners"][0].update(hostnames=["x"]),
        "spec.listeners[0]: Additional properties",
    ),
    "issuer's unknown field": (
        "gateway",
        lambda t: thing(t, "Issuer")["spec"]["acme"].update(mail="x"),
        "spec.acme.mail: Extra inputs",
    ),
    "vault's unknown field": (
        "keyvault",
        lambda t: thing(t, "SecretProviderClass")["spec"]["parameters"].update(vault="x"),
        "spec.parameters: Additional properties",
    ),
}
SETTING_CASES = {
    "unknown variable": (lambda t: setting(t, "CONVOY_GRACE", "1"), "convoy serve has no CONVOY_GRACE"),
    "unknown flag": (lambda t: server(t)["args"].append("--accelerator=gpu"), "convoy serve has no --accelerator=gpu"),
    "unknown flag of the fetch": (lambda t: spec(t)["initContainers"][0]["args"].append("--quick"), "has no --quick"),
    "refused value": (lambda t: setting(t, "CONVOY_MAX_BODY_MIB", "4096"), "--max-body-mib is 4096"),
    "unreadable value": (lambda t: setting(t, "CONVOY_SERVICES", "photos,faqs"), "invalid value 'faqs'"),
}


class Broken(unittest.TestCase):
    """One case a break."""

    @classmethod
    def setUpClass(cls):
        cls.binary = settings.Binary(os.environ["CONVOY"])
        cls.good = {each: rendered(each) for each in ("ingress", "gateway", "keyvault")}
        cls.before = {}
        cls.gpu, cls.kserve = rendered(overlay="gpu"), rendered(overlay="kserve")

    def said_of(self, good: list[dict], breaks) -> str:
        """What the checker says of a broken copy, beyond what it says of the good one."""
        things = copy.deepcopy(good)
        breaks(things)
        if id(good) not in self.before:
            self.before[id(good)] = set(check.problems(good, self.binary))
        return "\n".join(line for line in check.problems(things, self.binary) if line not in self.before[id(good)])

    def run_cases(self, cases: dict, good: list[dict]):
        """Every case on the same rendering."""
        for name, (breaks, line) in cases.items():
            with self.subTest(name):
                self.assertIn(line, self.said_of(good, breaks))

    def test_pods(self):
        self.run_cases(POD_CASES, self.good["ingress"])

    def test_wiring(self):
        self.run_cases(WIRING_CASES, self.good["ingress"])

    def test_settings(self):
        self.run_cases(SETTING_CASES, self.good["ingress"])

    def test_ways_in(self):
        for name, (component, breaks, line) in WAY_IN_CASES.items():
            with self.subTest(name):
                self.assertIn(line, self.said_of(self.good[component], breaks))

    def test_keda(self):
        scaled = lambda t: thing(t, "ScaledObject")["spec"]  # noqa: E731
        cases = {
            "unknown field": (lambda t: scaled(t).update(minReplicas=1), "spec.minReplicas: Extra"),
            "wrong type": (lambda t: scaled(t).update(pollingInterval="15"), "spec.pollingInterval"),
            "to zero": (lambda t: scaled(t).update(minReplicaCount=0), "from 0 pods is no range"),
            "target's old name": (
                lambda t: scaled(t)["scaleTargetRef"].update(name="convoy"),
                "scaleTargetRef: no convoy",
            ),
        }
        self.run_cases(cases, self.gpu)

    def test_kserve(self):
        predictor = lambda t: thing(t, "InferenceService")["spec"]["predictor"]  # noqa: E731
        runtime = lambda t: thing(t, "ServingRuntime")["spec"]["containers"][0]  # noqa: E731
        cases = {
            "unknown field": (lambda t: predictor(t)["model"].update(formt="x"), "predictor.model.formt: unknown field"),
            "wrong type": (lambda t: predictor(t).update(minReplicas="2"), "spec.predictor.minReplicas: '2' is no int"),
            "field of a container": (lambda t: runtime(t).update(arg=["x"]), "spec.containers[0].arg: unknown field"),
            "root": (lambda t: runtime(t)["securityContext"].update(runAsUser=0), "runAsUser: 0 is root"),
            "killed draining": (lambda t: predictor(t).update(terminationGracePeriodSeconds=30), "30 s end a drain"),
        }
        self.run_cases(cases, self.kserve)

    def test_probes_of_other_paths(self):
        things = copy.deepcopy(self.good["ingress"])
        self.assertEqual(check.unanswered(pods.probe_paths(things), os.environ["SERVER"]), [])
        server(things)["livenessProbe"]["httpGet"]["path"] = "/health"
        said = check.unanswered(pods.probe_paths(things), os.environ["SERVER"])
        self.assertEqual(said, [f"{AT}[convoy].livenessProbe.httpGet.path: /health answers 404"])


if __name__ == "__main__":
    unittest.main()
