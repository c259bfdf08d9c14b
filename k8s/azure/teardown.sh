#!/usr/bin/env bash
# Deletes everything that provision.sh made: teardown.sh NAME, where NAME is that of settings.env, said again on purpose.
# The Key Vault is kept by Azure for 90 days (purge protection); until then its name is taken, and
# `az keyvault recover` brings it back.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
need az
[ "${1:-}" = "$NAME" ] || { echo "say which: teardown.sh $NAME deletes the resource group $group" >&2; exit 64; }

if [ "$(value group exists --name "$group")" = true ]; then
    say "resource group $group"
    az group delete --name "$group" --yes
fi
say "gone"
