"""What a shipped binary has to say of itself: a bill of materials and the licences of what is inside.

    .venv/bin/python tests/supply/bill.py FOLDER [--licences-only]

writes FOLDER/convoy.cdx.json (CycloneDX 1.6, checked against its schema) and FOLDER/THIRD-PARTY.txt (the licence texts
and copyright lines that the packages bring along, each text once). What builds or tests convoy and is in no binary is left
out. Two runs of one commit write the same bytes. The licences alone need nothing but Python, so that an image's build can
write them.
"""

import argparse
import json
import pathlib
import re
import sys
import tomllib
import uuid

from inventory import ROOT, built_in, metadata

TEXT = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense|readme\.ijg)", re.I)


def checksums():
    """SHA-256 of packages, as Cargo.lock has them."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(p["name"], p["version"]): p["checksum"] for p in lock["package"] if "checksum" in p}


def licence(package):
    """The expression that a package states; an old spelling with a slash means a choice."""
    return re.sub(r"\s*/\s*", " OR ", package["license"])


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def component(package, sums):
    found = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        "licenses": [{"expression": licence(package)}],
        "hashes": [{"alg": "SHA-256", "content": sums[package["name"], package["version"]]}],
    }
    if package["description"]:
        found["description"] = " ".join(package["description"].split())
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def bill(graph):
    """The bill of materials."""
    sums = checksums()
    packages = {package["id"]: package for package in graph["packages"]}
    inside = {package["id"] for package in built_in(graph)}
    members = {id: packages[id] for id in graph["workspace_members"]}
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    components = sorted((component(packages[id], sums) for id in inside), key=lambda one: one["bom-ref"])
    own = [
        {"type": "library", "bom-ref": purl(p), "name": p["name"], "version": p["version"], "purl": purl(p),
         "licenses": [{"expression": licence(p)}]}
        for p in members.values() if p["name"] != "convoy"
    ]  # fmt: skip
    root = next(package for package in members.values() if package["name"] == "convoy")
    known = inside | set(members)
    links = [
        {"ref": purl(packages[id]),
         "dependsOn": sorted({purl(packages[dep["pkg"]]) for dep in nodes[id]["deps"]
                              if dep["pkg"] in known and any(kind["kind"] is None for kind in dep["dep_kinds"])})}
        for id in known
    ]  # fmt: skip
    made = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": purl(root), "name": "convoy", "version": root["version"],
                "purl": purl(root), "licenses": [{"expression": root["license"]}],
            },
        },
        "components": own + components,
        "dependencies": sorted(links, key=lambda link: link["ref"]),
    }  # fmt: skip
    # Named by what is in it, so that the same contents are the same bill.
    name = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(made, sort_keys=True))
    return {"serialNumber": name.urn, **made}


def texts(package):
    """Licence files of a package, those of libraries in C inside of it included."""
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and TEXT.match(path.name)]
    named = package["license_file"] and folder / package["license_file"]
    files += [named] if named and named.is_file() and named not in files else []
    return [path.read_text(errors="replace").strip() for path in files if path.suffix not in (".rs", ".json")]


def third_party(graph):
    """Every licence text once, with the packages that bring it, then those that bring none."""
    by_text, without = {}, []
    for package in sorted(built_in(graph), key=purl):
        name = f"{package['name']} {package['version']} ({licence(package)})"
        found = texts(package)
        for text in found:
            by_text.setdefault(text, []).append(name)
        if not found:
            without.append(f"{name}, by {', '.join(package['authors']) or 'authors it does not name'}")
    parts = ["convoy contains the following packages, under their licences. It is itself under Apache-2.0."]
    parts += ["\n".join(dict.fromkeys(names)) + "\n\n" + text for text, names in by_text.items()]
    if without:
        parts.append("Packages that state their licence and bring no text of it:\n\n" + "\n".join(without))
    return ("\n\n" + "-" * 80 + "\n\n").join(parts) + "\n", len(without)


def write_bill(graph, folder):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    made = json.dumps(bill(graph), indent=1, sort_keys=True) + "\n"
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(made):
        sys.exit(f"the bill breaks CycloneDX's schema: {wrong!r:.2000}")
    (folder / "convoy.cdx.json").write_text(made)
    print(f"bill: {len(json.loads(made)['components'])} components, {len(made)} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--licences-only", action="store_true", help="no bill of materials")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    graph = metadata()
    if not options.licences_only:
        write_bill(graph, options.folder)
    text, without = third_party(graph)
    (options.folder / "THIRD-PARTY.txt").write_text(text)
    print(f"licences: {len(text)} bytes, {without} packages bring no text")


main()
