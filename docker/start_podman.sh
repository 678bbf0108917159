#!/usr/bin/env bash
# Serve Podman's Docker-compatible API on FOLDER/podman.sock and print its address, for DOCKER_HOST or sandbox.engine_url.
# Does nothing when it is served already. Images, containers, log and configuration all lie in FOLDER.
# For machines without an init system (CI, containers); elsewhere use `systemctl --user start podman.socket`.
# Usage: docker/start_podman.sh FOLDER           start
#        docker/start_podman.sh FOLDER --stop    remove its containers, end the service, release FOLDER's mounts
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
command -v podman >/dev/null || { echo "no podman on this machine; e.g. 'apt-get install podman'" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
socket=$folder/podman.sock
storage=(--root "$folder/storage" --runroot "$folder/run")
export CONTAINERS_CONF=$folder/containers.conf

answers() { timeout 5 podman --remote --url "unix://$socket" version >/dev/null 2>&1; }

if [ "${2:-}" = --stop ]; then
    if [ -f "$folder/driver" ]; then storage+=(--storage-driver "$(cat "$folder/driver")"); fi
    timeout 60 podman "${storage[@]}" rm --all --force --time 0 >/dev/null 2>&1 || true
    if [ -f "$folder/pid" ] && grep -qs podman "/proc/$(cat "$folder/pid")/comm"; then kill "$(cat "$folder/pid")"; fi
    rm -f "$folder/pid" "$socket"
    for mount in $(awk -v top="$folder/" 'index($2, top) == 1 { print $2 }' /proc/mounts | sort -r); do
        umount "$mount" 2>/dev/null || umount --lazy "$mount"
    done
    exit 0
fi
if answers; then
    echo "unix://$socket"
    exit 0
fi

limit() { # NAME HARD_LIMIT: Podman asks for more by default than a root without CAP_SYS_RESOURCE may give
    case $2 in *[!0-9]*) ;; *) printf '"%s=%s:%s", ' "$1" "$2" "$2" ;; esac
}
min() { [ "$1" = unlimited ] && echo "$2" || echo $(($1 < $2 ? $1 : $2)); }
{
    echo '[containers]'
    echo "default_ulimits = [$(limit nofile "$(min "$(ulimit -Hn)" 1048576)")$(limit nproc "$(min "$(ulimit -Hu)" "$(cat /proc/sys/kernel/pid_max)")")]"
    echo '[engine]'
    if [ ! -d /run/systemd/system ]; then
        echo 'cgroup_manager = "cgroupfs"'
        echo 'events_logger = "file"'
    fi
    # crun refuses control groups of version 1 beside a version 2 that has controllers of its own; runc does not mind.
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ] && command -v runc >/dev/null; then echo 'runtime = "runc"'; fi
} >"$CONTAINERS_CONF"

if ! podman "${storage[@]}" info >"$folder/log" 2>&1; then # no overlay here: copy every layer instead
    rm -rf "$folder/storage" "$folder/run"
    storage+=(--storage-driver vfs)
    echo vfs >"$folder/driver"
fi
setsid nohup podman "${storage[@]}" system service --time=0 "unix://$socket" >>"$folder/log" 2>&1 </dev/null &
echo $! >"$folder/pid"
for ((i = 0; i < 60; i++)); do
    if answers; then
        echo "unix://$socket"
        exit 0
    fi
    sleep 0.5
done
echo "podman did not answer within 30 s; the end of $folder/log:" >&2
tail -n 15 "$folder/log" >&2
exit 1
