#!/usr/bin/env bash
# Builds an image, pushes it to the private registry with a list of what is in it (SBOM) and of how it was built
# (provenance), signs it with a key that never leaves the Key Vault, and prints the digest that deploy.sh takes.
#
#   image.sh          the image for CPU nodes, convoy
#   image.sh cuda     the image for GPU nodes, convoy-cuda, which overlays/gpu runs
#
# Needs az (signed in), docker with buildx, syft and cosign.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
need az docker syft cosign
case ${1:-cpu} in
cpu) name=convoy file=Dockerfile ;;
cuda) name=convoy-cuda file=Dockerfile.cuda ;;
*) echo "$1 is neither cpu nor cuda" >&2 && exit 64 ;;
esac

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -1)
image=$REGISTRY.azurecr.io/$name
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

say "build and push $image:$version"
az acr login --name "$REGISTRY"
docker buildx build --file "$here/../../$file" --tag "$image:$version" \
    --build-arg "REVISION=$(git -C "$here" rev-parse HEAD)" --build-arg "VERSION=$version" \
    --sbom=true --provenance=mode=max --metadata-file "$built/metadata.json" --push "$here/../.."
digest=$(sed -n 's/.*"containerimage.digest": "\(sha256:[0-9a-f]*\)".*/\1/p' "$built/metadata.json" | head -1)
[ -n "$digest" ] || { echo "buildx did not say the digest: see $built/metadata.json" >&2; exit 1; }

# The image's own SBOM lists Debian's packages; the crates inside the binary are those of Cargo.lock, and NVIDIA's
# libraries those of docker/cuda.txt.
say "what is in it"
syft scan "dir:$here/../.." --select-catalogers rust --output "spdx-json=$built/crates.spdx.json"

if missing keyvault key show --vault-name "$VAULT" --name image-signing; then
    say "signing key"
    az keyvault key create --vault-name "$VAULT" --name image-signing --kty EC --curve P-256 --output none
fi
say "sign"
key=azurekms://$VAULT.vault.azure.net/image-signing
cosign sign --yes --key "$key" "$image@$digest"
cosign attest --yes --key "$key" --type spdxjson --predicate "$built/crates.spdx.json" "$image@$digest"
cosign verify --key "$key" "$image@$digest" >/dev/null

if [ "$name" = convoy ]; then
    say "done: next, deploy.sh $digest"
else
    say "done: next, the digest of $name in your overlay (README.md, Whole GPUs)"
fi
echo "$digest"
