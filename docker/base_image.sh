#!/usr/bin/env bash
# Make the image swegym-base:bookworm from Debian's mirror, where no image registry can be reached. Does nothing when it
# exists. The same as `swegym images base`, for whoever has not activated the environment (`make setup` makes one).
# Usage: docker/base_image.sh [TAG]      needs root, debootstrap and a running engine (docker/start_engine.sh)
set -euo pipefail

for program in "$(dirname "$0")/../.venv/bin/swegym" "$(command -v swegym || true)"; do
    if [ -x "$program" ]; then exec "$program" images base --quiet ${1:+--tag "$1"}; fi
done
echo "swegym is not installed; run 'make setup' first" >&2
exit 2
