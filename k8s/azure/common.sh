# What the scripts beside this file share; they source it. Reads settings.env, names what follows from it, and speaks.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
settings=${SETTINGS:-$here/settings.env}
[ -f "$settings" ] || { echo "$settings is missing: copy settings.env.example and edit it" >&2; exit 64; }
# shellcheck source-path=SCRIPTDIR source=settings.env.example
. "$settings"

for each in LOCATION NAME REGISTRY VAULT HOST EMAIL ADMINS CPU_SIZE CPU_MAX GPU GPU_SIZE GPU_MAX; do
    [ -n "${!each:-}" ] || { echo "$settings: $each is empty" >&2; exit 64; }
done

group=rg-$NAME
identity=id-$NAME
logs=log-$NAME
metrics=amw-$NAME
namespace=convoy
export here group identity logs metrics namespace

# Names the tools that are missing, all at once.
need() {
    local missing=()
    for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ ${#missing[@]} = 0 ] || { echo "install first: ${missing[*]}" >&2; exit 69; }
}

say() { printf '%s\n' "== $*" >&2; }

# Whether `az SHOW...` finds nothing. What is there is left as it is: every script can be run again.
missing() { ! az "$@" --output none 2>/dev/null; }

# One value of what az shows.
value() { az "$@" --output tsv; }
