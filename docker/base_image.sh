#!/usr/bin/env bash
# Make the image swegym-base:bookworm (Debian bookworm, bash, coreutils, git, python3 as `python`, pytest) without any
# image registry: debootstrap from Debian's mirror, then `docker import`. Does nothing when the image exists.
# Usage: docker/base_image.sh [TAG]      needs root, debootstrap and a running engine (docker/start_engine.sh)
set -euo pipefail

tag=${1:-swegym-base:bookworm}

if docker image inspect "$tag" >/dev/null 2>&1; then
    echo "$tag exists"
    exit 0
fi
for program in debootstrap docker tar; do
    if ! command -v "$program" >/dev/null; then
        echo "$program is needed to build $tag; e.g. 'apt-get install $program'" >&2
        exit 2
    fi
done
if [ "$(id -u)" -ne 0 ]; then
    echo "debootstrap needs root; run this script with sudo" >&2
    exit 2
fi

root=$(mktemp -d "${TMPDIR:-/var/tmp}/swegym-base.XXXXXX")
trap 'rm -rf "$root"' EXIT
packages=ca-certificates,git,patch,procps,python3,python3-pytest
debootstrap --variant=minbase --include="$packages" bookworm "$root" >"$root.log" 2>&1 || {
    echo "debootstrap failed; the end of its log:" >&2
    tail -n 15 "$root.log" >&2
    rm -f "$root.log"
    exit 1
}
rm -f "$root.log"
ln -sf python3 "$root/usr/bin/python"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
tar -C "$root" -c . | docker import \
    --change 'CMD ["bash"]' --change 'ENV LANG=C.UTF-8' \
    --message "swegym base image" - "$tag" >/dev/null
echo "built $tag"
