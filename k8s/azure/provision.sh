#!/usr/bin/env bash
# Makes what convoy runs on in Azure: a registry, a Key Vault, logs and metrics, an AKS cluster with its pools, and an
# identity for the pods. Every step looks first and makes only what is missing, so it can be run again after a failure
# or a change of settings.env. Needs az (signed in to the right subscription), kubectl, kubelogin and helm.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
need az kubectl kubelogin helm

say "resource group $group"
az group create --name "$group" --location "$LOCATION" --output none

if missing monitor log-analytics workspace show --resource-group "$group" --workspace-name "$logs"; then
    say "workspace for logs: $logs"
    az monitor log-analytics workspace create --resource-group "$group" --workspace-name "$logs" --location "$LOCATION" \
        --retention-time 30 --output none
fi
if missing monitor account show --resource-group "$group" --name "$metrics"; then
    say "workspace for metrics: $metrics"
    az monitor account create --resource-group "$group" --name "$metrics" --location "$LOCATION" --output none
fi

# Private by permission: no anonymous pull, no admin account. Premium also has private endpoints and retention.
if missing acr show --resource-group "$group" --name "$REGISTRY"; then
    say "registry $REGISTRY"
    az acr create --resource-group "$group" --name "$REGISTRY" --sku Premium --admin-enabled false \
        --location "$LOCATION" --output none
fi

if missing keyvault show --resource-group "$group" --name "$VAULT"; then
    say "Key Vault $VAULT"
    az keyvault create --resource-group "$group" --name "$VAULT" --location "$LOCATION" \
        --enable-rbac-authorization true --enable-purge-protection true --retention-days 90 --output none
fi

if missing aks show --resource-group "$group" --name "$NAME"; then
    say "cluster $NAME (about ten minutes)"
    ranges=()
    [ -z "${API_RANGES:-}" ] || ranges=(--api-server-authorized-ip-ranges "$API_RANGES")
    # People sign in by Entra ID and have what Azure roles give them; there is no local administrator. Policies are
    # enforced (cilium). Nodes of the system pool take nothing but the system.
    az aks create --resource-group "$group" --name "$NAME" --location "$LOCATION" --tier standard \
        --nodepool-name system --node-vm-size Standard_D2s_v5 --node-count 3 --zones 1 2 3 \
        --nodepool-taints CriticalAddonsOnly=true:NoSchedule \
        --network-plugin azure --network-plugin-mode overlay --network-dataplane cilium --network-policy cilium \
        --enable-managed-identity --enable-oidc-issuer --enable-workload-identity \
        --enable-aad --enable-azure-rbac --aad-admin-group-object-ids "$ADMINS" --disable-local-accounts \
        --attach-acr "$REGISTRY" --no-ssh-key "${ranges[@]}" \
        --enable-addons monitoring,azure-keyvault-secrets-provider \
        --enable-secret-rotation --rotation-poll-interval 2m \
        --workspace-resource-id \
        "$(value monitor log-analytics workspace show --resource-group "$group" --workspace-name "$logs" --query id)" \
        --enable-azure-monitor-metrics \
        --azure-monitor-workspace-resource-id \
        "$(value monitor account show --resource-group "$group" --name "$metrics" --query id)" \
        --enable-keda --enable-image-cleaner \
        --auto-upgrade-channel patch --node-os-upgrade-channel NodeImage \
        --cluster-autoscaler-profile scan-interval=10s scale-down-unneeded-time=10m scale-down-delay-after-add=10m \
        expander=least-waste max-graceful-termination-sec=600 \
        --output none
fi

# Managed gateways by the Gateway API; the managed NGINX of the same add-on is supported through November 2026 only.
say "Gateway API"
az aks update --resource-group "$group" --name "$NAME" --enable-gateway-api --output none
az aks approuting gateway istio enable --resource-group "$group" --name "$NAME" --output none

pool() { # name, further arguments of `az aks nodepool add`
    local name=$1
    shift
    if missing aks nodepool show --resource-group "$group" --cluster-name "$NAME" --name "$name"; then
        say "node pool $name"
        az aks nodepool add --resource-group "$group" --cluster-name "$NAME" --name "$name" --mode User \
            --labels "pool=$name" --enable-cluster-autoscaler --output none "$@"
    fi
}
pool cpu --node-vm-size "$CPU_SIZE" --zones 1 2 3 --node-count 2 --min-count 2 --max-count "$CPU_MAX" --max-surge 33%
# No node until a pod asks for a GPU, and none ten minutes after the last one has gone.
if [ "$GPU" = yes ]; then
    pool gpu --node-vm-size "$GPU_SIZE" --node-count 0 --min-count 0 --max-count "$GPU_MAX" \
        --node-taints sku=gpu:NoSchedule
fi

if missing identity show --resource-group "$group" --name "$identity"; then
    say "identity $identity"
    az identity create --resource-group "$group" --name "$identity" --location "$LOCATION" --output none
fi
issuer=$(value aks show --resource-group "$group" --name "$NAME" --query oidcIssuerProfile.issuerUrl)
for account in convoy convoy-faq convoy-gpu; do
    if missing identity federated-credential show --resource-group "$group" --identity-name "$identity" --name "$account"; then
        az identity federated-credential create --resource-group "$group" --identity-name "$identity" --name "$account" \
            --issuer "$issuer" --subject "system:serviceaccount:$namespace:$account" \
            --audiences api://AzureADTokenExchange --output none
    fi
done

# The pods may read secrets of this vault, and nothing else anywhere. Making an assignment that exists changes nothing.
say "the identity may read the vault's secrets"
az role assignment create --role "Key Vault Secrets User" \
    --assignee-object-id "$(value identity show --resource-group "$group" --name "$identity" --query principalId)" \
    --assignee-principal-type ServicePrincipal \
    --scope "$(value keyvault show --resource-group "$group" --name "$VAULT" --query id)" --output none

# KEDA asks the managed Prometheus as an identity of its own.
if missing identity show --resource-group "$group" --name "$identity-keda"; then
    say "identity $identity-keda"
    az identity create --resource-group "$group" --name "$identity-keda" --location "$LOCATION" --output none
fi
if missing identity federated-credential show --resource-group "$group" --identity-name "$identity-keda" --name keda; then
    az identity federated-credential create --resource-group "$group" --identity-name "$identity-keda" --name keda \
        --issuer "$issuer" --subject system:serviceaccount:kube-system:keda-operator \
        --audiences api://AzureADTokenExchange --output none
fi
az role assignment create --role "Monitoring Data Reader" \
    --assignee-object-id "$(value identity show --resource-group "$group" --name "$identity-keda" --query principalId)" \
    --assignee-principal-type ServicePrincipal \
    --scope "$(value monitor account show --resource-group "$group" --name "$metrics" --query id)" --output none

say "credentials for kubectl"
az aks get-credentials --resource-group "$group" --name "$NAME" --overwrite-existing
kubelogin convert-kubeconfig -l azurecli

say "cert-manager"
helm upgrade --install cert-manager oci://quay.io/jetstack/charts/cert-manager --version v1.21.1 \
    --namespace cert-manager --create-namespace --set crds.enabled=true --set config.enableGatewayAPI=true \
    --set config.apiVersion=controller.config.cert-manager.io/v1alpha1 --set config.kind=ControllerConfiguration --wait
say "done: next, image.sh"
