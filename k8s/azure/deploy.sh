#!/usr/bin/env bash
# Puts convoy on the cluster: deploy.sh DIGEST. Writes your own overlay, k8s/overlays/site, from settings.env (keep it in
# a repository of yours), shows what would change, applies it and waits until the new pods serve. To roll back, run it
# with the digest before. Needs az, kubectl and a keys.toml in the Key Vault:
#
#   convoy keys new CLIENT --file keys.toml
#   az keyvault secret set --vault-name VAULT --name convoy-keys --file keys.toml --output none && rm keys.toml
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
need az kubectl
digest=${1:?deploy.sh DIGEST, as image.sh prints it}
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "$digest is no digest" >&2; exit 64; }

if missing keyvault secret show --vault-name "$VAULT" --name convoy-keys; then
    echo "the Key Vault $VAULT has no secret convoy-keys: no pod would start. The head of this script says how to make it" >&2
    exit 1
fi
tenant=$(value account show --query tenantId)
client=$(value identity show --resource-group "$group" --name "$identity" --query clientId)
keda=$(value identity show --resource-group "$group" --name "$identity-keda" --query clientId)
prometheus=$(value monitor account show --resource-group "$group" --name "$metrics" \
    --query metrics.prometheusQueryEndpoint)

site=$here/../overlays/site
mkdir -p "$site"
cat >"$site/kustomization.yaml" <<END
# Made by k8s/azure/deploy.sh from settings.env.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../aks
images:
  - name: example.azurecr.io/convoy
    newName: $REGISTRY.azurecr.io/convoy
    digest: $digest
patches:
  - target: {kind: Gateway}
    patch: |
      - {op: replace, path: /spec/listeners/0/hostname, value: $HOST}
      - {op: replace, path: /spec/listeners/1/hostname, value: $HOST}
  - target: {kind: HTTPRoute}
    patch: |
      - {op: replace, path: /spec/hostnames/0, value: $HOST}
  - target: {kind: Issuer, name: convoy}
    patch: |
      - {op: replace, path: /spec/acme/email, value: $EMAIL}
  - target: {kind: SecretProviderClass}
    patch: |
      - {op: replace, path: /spec/parameters/keyvaultName, value: $VAULT}
      - {op: replace, path: /spec/parameters/tenantID, value: $tenant}
      - {op: replace, path: /spec/parameters/clientID, value: $client}
  - target: {kind: TriggerAuthentication}
    patch: |
      - {op: replace, path: /spec/podIdentity/identityId, value: $keda}
  - target: {kind: ScaledObject}
    patch: |
      - {op: replace, path: /spec/triggers/0/metadata/serverAddress, value: "$prometheus"}
      - {op: replace, path: /spec/triggers/1/metadata/serverAddress, value: "$prometheus"}
END

say "namespace"
kubectl apply -k "$here/../namespace"
say "what changes"
kubectl diff -k "$site" || [ $? = 1 ]
say "apply"
kubectl apply -k "$site"
for pool in convoy convoy-faq; do
    kubectl -n "$namespace" rollout status "deployment/$pool" --timeout 15m
done
say "address for the DNS entry of $HOST"
kubectl -n "$namespace" get gateway convoy --output 'jsonpath={.status.addresses[0].value}{"\n"}'
