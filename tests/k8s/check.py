"""Renders every overlay and component of k8s/ and checks what comes out; prints problems by rendering, object and field.

    check.py K8S --kubectl KUBECTL --convoy BINARY [--server URL]

With --server, a running convoy's address, probes must find their paths there.
"""

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pods
import render
import schemas
import settings
import wiring


def problems(things: list[dict], binary: settings.Binary) -> list[str]:
    """Everything that is wrong with one rendering."""
    found = [f"{pods.name_of(thing)}: {line}" for thing in things for line in schemas.problems(thing)]
    if found:
        # What is not even well-formed cannot be looked at further.
        return found
    for pod in pods.pods(things):
        found += pods.problems(pod)
    defaults = binary.defaults()
    found += wiring.problems(things, defaults)
    longest = settings.largest(things, "CONVOY_MAX_DEADLINE_MS", defaults["CONVOY_MAX_DEADLINE_MS"])
    body = settings.largest(things, "CONVOY_MAX_BODY_MIB", defaults["CONVOY_MAX_BODY_MIB"])
    found += wiring.way_in_limits(things, longest / 1000, body)
    return found + binary.names(things) + binary.values(things)


def unanswered(paths: set[tuple[str, str]], server: str) -> list[str]:
    """Probes whose path the server does not know."""
    found = []
    for where, path in sorted(paths):
        try:
            urllib.request.urlopen(server + path, timeout=10).close()
        except urllib.error.HTTPError as error:
            found.append(f"{where}: {path} answers {error.code}")
    return found


def main() -> int:
    """The exit code: 0 where nothing is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("k8s", type=Path)
    arguments.add_argument("--kubectl", required=True)
    arguments.add_argument("--convoy", required=True)
    arguments.add_argument("--server")
    given = arguments.parse_args()
    binary, wrong, objects = settings.Binary(given.convoy), 0, 0
    combinations = render.combinations(given.k8s)
    for name, kustomization in combinations.items():
        try:
            things = render.render(given.kubectl, given.k8s, kustomization)
            found = problems(things, binary)
            found += unanswered(pods.probe_paths(things), given.server) if given.server else []
        except RuntimeError as error:
            things, found = [], [str(error)]
        objects += len(things)
        wrong += len(found)
        print("\n".join([f"{name}: {len(things)} objects, {len(found)} problems", *(f"  {line}" for line in found)]))
    print(f"{len(combinations)} renderings, {objects} objects, {wrong} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
