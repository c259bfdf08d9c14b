"""What is checked: every overlay as it stands, and every component on an overlay that it fits.

Rendering is kubectl's own; this file names the combinations and reads what comes out.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import yaml

# Where a component is tried; overlays/cpu where nothing is said.
HOSTS = {"managed-prometheus": "gpu"}
# Components that change what another one brings, which is listed before them.
AFTER = {"monitoring/servicemonitor": "monitoring"}


def combinations(root: Path) -> dict[str, dict]:
    """Every rendering by name, as a kustomization with paths relative to `root`."""
    found = {}
    for folder in sorted((root / "overlays").iterdir()):
        found[f"overlays/{folder.name}"] = {"resources": [f"overlays/{folder.name}"]}
    for file in sorted((root / "components").rglob("kustomization.yaml")):
        folder = file.parent.relative_to(root / "components")
        host = HOSTS.get(str(folder), "cpu")
        kind = {"Component": "components"}.get(yaml.safe_load(file.read_text())["kind"], "resources")
        kustomization = {"resources": [f"overlays/{host}"], "namespace": "convoy"}
        listed = [f"components/{each}" for each in (AFTER.get(str(folder)), folder) if each]
        kustomization[kind] = [*kustomization.get(kind, []), *listed]
        found[f"components/{folder} on overlays/{host}"] = kustomization
    return found


def render(kubectl: str, root: Path, kustomization: dict) -> list[dict]:
    """The objects that a kustomization makes. Raises RuntimeError with kustomize's own words."""
    with tempfile.TemporaryDirectory() as folder:
        # Kustomize resolves symbolic links before it makes paths relative, so this does too.
        here = Path(folder).resolve()
        moved = dict(kustomization)
        for field in ("resources", "components"):
            if field in moved:
                moved[field] = [os.path.relpath(root / path, here) for path in moved[field]]
        (here / "kustomization.yaml").write_text(yaml.safe_dump(moved))
        done = subprocess.run([kubectl, "kustomize", str(here)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return [each for each in yaml.safe_load_all(done.stdout) if each]
