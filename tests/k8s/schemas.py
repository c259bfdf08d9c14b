"""Whether an object is what its kind's schema allows; a field that the schema does not know is an error.

Schemas come from packages: Kubernetes' own from `kubernetes-validate`, KEDA's, cert-manager's and the Prometheus
operator's from models that are generated from their resource definitions (`cloudcoil-models-*`), KServe's from its own
models. Of two groups no package has them: their schemas lie in schemas/, cover the fields that k8s/ uses and name
where they come from.
"""

import functools
import importlib
import json
import re
from pathlib import Path

import importlib_resources
import jsonschema
import pydantic
import referencing

# The oldest Kubernetes that the manifests are for, and the newest that is known.
KUBERNETES = ("1.32", "1.37")
MODELS = {
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    # Azure's managed Prometheus reads the same monitors under a group of its own.
    "azmonitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
RENAMED = {"azmonitoring.coreos.com/v1": "monitoring.coreos.com/v1"}
KSERVE = {"serving.kserve.io/v1alpha1": "V1alpha1", "serving.kserve.io/v1beta1": "V1beta1"}
OWN = Path(__file__).with_name("schemas")


def problems(thing: dict) -> list[str]:
    """What is wrong with an object, one line each: field, then what about it."""
    group = thing.get("apiVersion", "")
    if group in MODELS:
        return by_model(thing, MODELS[group])
    if group in KSERVE:
        return by_kserve(thing)
    own = OWN / f"{thing.get('kind', '').lower()}.json"
    if own.is_file():
        return by_schema(thing, json.loads(own.read_text()), None, "")
    return [line for version in KUBERNETES for line in by_kubernetes(thing, version)]


def by_kubernetes(thing: dict, version: str) -> list[str]:
    """By Kubernetes' own schemas of one version."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", thing.get("apiVersion", ""))
    name = f"{thing.get('kind', '').lower()}-{group}.json"
    try:
        schema = kubernetes_file(version, name)
    except FileNotFoundError:
        return [f"apiVersion: Kubernetes {version} has no {thing.get('kind')} in {thing.get('apiVersion')}"]
    return by_schema(thing, schema, definitions(version), f" (Kubernetes {version})")


@functools.cache
def kubernetes_file(version: str, name: str) -> dict:
    """One file of the strict schemas."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    return json.loads(importlib_resources.files("kubernetes_validate").joinpath(folder, name).read_text())


@functools.cache
def definitions(version: str) -> referencing.Registry:
    """What the schemas of a version refer to."""
    shared = referencing.Resource.from_contents(kubernetes_file(version, "_definitions.json"))
    return shared @ referencing.Registry()


def by_schema(thing: dict, schema: dict, registry: referencing.Registry | None, where: str) -> list[str]:
    """By a JSON schema."""
    kinds = jsonschema.validators.Draft202012Validator
    validator = kinds(schema) if registry is None else kinds(schema, registry=registry)
    errors = sorted(validator.iter_errors(thing), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{dotted(error.absolute_path)}: {error.message[:200]}{where}" for error in errors]


def by_model(thing: dict, module: str) -> list[str]:
    """By a pydantic model of the kind's definition."""
    model = getattr(importlib.import_module(module), thing.get("kind", ""), None)
    if model is None:
        return [f"kind: {thing.get('apiVersion')} has no {thing.get('kind')}"]
    group = thing["apiVersion"]
    try:
        model.model_validate({**thing, "apiVersion": RENAMED.get(group, group)}, strict=True, extra="forbid")
    except pydantic.ValidationError as error:
        return [f"{dotted(each['loc'])}: {each['msg']}" for each in error.errors()]
    return []


def by_kserve(thing: dict) -> list[str]:
    """By KServe's own Python models, which know every field and its type."""
    name = KSERVE[thing["apiVersion"]] + thing.get("kind", "")
    if model_named(name) is None:
        return [f"kind: {thing['apiVersion']} has no {thing.get('kind')}"]
    return list(fits(thing, name, ()))


@functools.cache
def model_named(name: str):
    """A model of KServe's, or of the Kubernetes client that its fields refer to."""
    # KServe names the Kubernetes types that have a namesake by their full path.
    plain = re.sub(r"^K8sIoApi[A-Z][a-z]+V1", "V1", name)
    for module in ("kserve.models", "kubernetes.client.models"):
        found = getattr(importlib.import_module(module), plain, None)
        if found is not None:
            return found
    return None


PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "ResourceQuantity": (str, int, float)}


def fits(value, kind: str, path: tuple):
    """What keeps `value` from being a `kind`, in the notation of generated models."""
    listed, mapped = re.fullmatch(r"list\[(.*)\]", kind), re.fullmatch(r"dict\(str, (.*)\)", kind)
    if listed or mapped:
        wanted = list if listed else dict
        if not isinstance(value, wanted):
            yield f"{dotted(path)}: {value!r} is no {wanted.__name__}"
            return
        for key, each in enumerate(value) if listed else value.items():
            yield from fits(each, (listed or mapped)[1], (*path, key))
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{dotted(path)}: {value!r} is no {kind}"
    elif model := model_named(kind):
        yield from fits_model(value, model, path)


def fits_model(value, model, path: tuple):
    """The same for a type with fields."""
    if not isinstance(value, dict):
        yield f"{dotted(path)}: {value!r} is no {model.__name__}"
        return
    fields = {json_name: name for name, json_name in model.attribute_map.items()}
    for key, each in value.items():
        if key not in fields:
            yield f"{dotted((*path, key))}: unknown field of {model.__name__}"
        else:
            yield from fits(each, model.openapi_types[fields[key]], (*path, key))


def dotted(path) -> str:
    """A path as people write it: spec.containers[0].image."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(the object)"
