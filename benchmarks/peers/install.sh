#!/usr/bin/env bash
# Install the peers that the benchmarks compare with, outside this project's environment:
#   FOLDER/venv      SWE-ReX and mini-swe-agent, as they are used on the host
#   FOLDER/server    what SWE-ReX needs inside an image (its server), for the image's own Python
# Usage: benchmarks/peers/install.sh [FOLDER]     (default: .bench)   environment: PYTHON, SWEGYM_BASE_IMAGE
set -euo pipefail

swerex=swe-rex==1.4.0
mini=mini-swe-agent==2.4.6
folder=${1:-.bench}
image=${SWEGYM_BASE_IMAGE:-python:3.11-slim}

mkdir -p "$folder"
if [ ! -f "$folder/venv/.complete" ]; then
    rm -rf "$folder/venv"
    "${PYTHON:-python3}" -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --progress-bar off "$swerex" "$mini"
    touch "$folder/venv/.complete"
fi
echo "peers: $("$folder/venv/bin/python" -m pip freeze 2>/dev/null | grep -E '^(swe-rex|mini-swe-agent)=' | tr '\n' ' ')"

version=$(docker run --rm --network none "$image" \
    python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
    echo "no engine, or $image has no python3: SWE-ReX in containers is left out" >&2
    exit 0
}
if [ ! -f "$folder/server/.python-$version" ]; then
    rm -rf "$folder/server"
    "$folder/venv/bin/python" -m pip install --quiet --progress-bar off --no-compile --only-binary=:all: \
        --python-version "$version" --target "$folder/server" "$swerex"
    touch "$folder/server/.python-$version"
fi
echo "SWE-ReX server for Python $version: $folder/server"
