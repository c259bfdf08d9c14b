"""Holds /openapi.json against the server that gives it, with schemathesis; run by tests/openapi.rs.

openapi.py URL ADMIN MODEL : URL is asked everything, ADMIN (started with --admin) what operators ask. Exits 0 when no answer
differs from the document, no example does from its schema, and nothing fails.
"""

import copy
import pathlib
import subprocess
import sys
import tempfile

import jsonschema_rs
import requests

HERE = pathlib.Path(__file__).parent


def contents(document):
    """Every media type's content in the document that has an example, and where it is."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            bodies = {"body": operation.get("requestBody", {}), **operation["responses"]}
            for name, body in bodies.items():
                for media, content in body.get("content", {}).items():
                    yield f"{method} {path} {name} {media}", content


def strict(document):
    """The document's components, whose objects have no members but those that are described."""
    components = copy.deepcopy(document["components"])
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return components


def check(document, schema, value, where):
    # One schema with the document's own beside it, so that references lead where they do in the document.
    validator = jsonschema_rs.Draft202012Validator({"components": strict(document), "allOf": [schema]})
    errors = [str(error) for error in validator.iter_errors(value)]
    assert not errors, (where, errors)


def examples_fit(document):
    with_example = [(where, content) for where, content in contents(document) if "example" in content]
    assert len(with_example) > 20, len(with_example)
    for where, content in with_example:
        check(document, content["schema"], content["example"], where)


def answers_fit(url, document, model):
    """Examples of requests can be sent as they stand, and everything of either model can be had, all as described."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if method == "post" and not body:
                continue
            for name in ("faq", model) if "{model}" in path and method == "get" else ("faq",):
                filled = url + path.replace("{model}", name).replace("{version}", "1")
                answer = requests.request(method, filled, json=body and body["example"])
                assert answer.status_code == 200, (filled, answer.text)
                described = operation["responses"]["200"]["content"].get(answer.headers["content-type"])
                if answer.headers["content-type"] == "application/json":
                    check(document, described["schema"], answer.json(), filled)


def schemathesis(url, *options):
    with tempfile.TemporaryDirectory() as folder:
        command = [
            pathlib.Path(sys.executable).parent / "schemathesis",
            "--config-file",
            HERE / "schemathesis.toml",
            "run",
            url + "/openapi.json",
            "--no-color",
            "--warnings",
            "off",
            *options,
        ]
        done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    summary = [line.strip() for line in done.stdout.splitlines() if "generated" in line]
    print(*summary, sep="\n", file=sys.stderr)


def main():
    url, admin, model = sys.argv[1:]
    document = requests.get(url + "/openapi.json").json()
    examples_fit(document)
    answers_fit(url, document, model)
    schemathesis(url)
    schemathesis(admin, "--include-path-regex", "^/(admin|v2/repository)/", "--phases", "examples,coverage")
    print("openapi: ok")


if __name__ == "__main__":
    main()
