#!/usr/bin/env bash
# Make a container engine answer: does nothing when one already does, else starts dockerd by hand and waits for it.
# For machines without an init system (CI, containers); on an ordinary machine use the system's own service.
set -euo pipefail

log_file=${SWEGYM_DOCKERD_LOG:-/tmp/dockerd.log}
wait_s=${SWEGYM_DOCKERD_WAIT_S:-60}

answers() { timeout 5 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

if answers; then
    echo "engine answers: $(docker version --format '{{.Server.Version}}')"
    exit 0
fi
if ! command -v dockerd >/dev/null; then
    echo "no dockerd on this machine; install one, e.g. 'apt-get install docker.io'" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "dockerd must be started by root; run this script with sudo" >&2
    exit 2
fi
# A daemon that was killed leaves its pid file; a new one refuses to start while the file names a live process.
pid_file=/var/run/docker.pid
if [ -f "$pid_file" ] && ! grep -qs dockerd "/proc/$(cat "$pid_file")/comm"; then
    rm -f "$pid_file"
fi
setsid nohup dockerd >"$log_file" 2>&1 </dev/null &
for ((i = 0; i < wait_s * 2; i++)); do
    if answers; then
        echo "engine started: $(docker version --format '{{.Server.Version}}') (log: $log_file)"
        exit 0
    fi
    sleep 0.5
done
echo "dockerd did not answer within ${wait_s} s; the end of $log_file:" >&2
tail -n 15 "$log_file" >&2
exit 1
