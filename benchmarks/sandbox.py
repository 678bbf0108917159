"""How fast the sandboxes are, against what people use instead, side by side in one run.

    python benchmarks/sandbox.py --json sandbox.json [--quick] [--only latency/true] [--backends docker local]

See benchmarks/README.md for what is measured and how. The peers are installed once by --install-peers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from contenders import Engine
from measure import Results, WrongAnswer
from peer_process import PeerProcess
from sandbox_latency import measure_latency
from sandbox_lifecycle import measure_fork, measure_reset
from sandbox_scale import idle_bytes, measure_memory, measure_rate
from setting import FULL, QUICK, Setting
from workload import make_repository

from swegym.core.errors import DependencyMissing, SwegymError
from swegym.envs.sandboxes.reaper import OWNER_LABEL, owner_token

SECTIONS = {
    "latency": measure_latency,
    "reset": measure_reset,
    "fork": measure_fork,
    "rate": measure_rate,
    "memory": measure_memory,
}
ROOT = Path(__file__).resolve().parent.parent


async def run(arguments: argparse.Namespace) -> Results:
    """Every section that is asked for. Cancelling it (Ctrl-C, SIGTERM) removes what it started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = Results(arguments.json)
    with tempfile.TemporaryDirectory(prefix="swegym-benchmark-") as folder:
        async with prepared(arguments, results, Path(folder)) as setting:
            for name, section in SECTIONS.items():
                if not setting.wants(name):
                    continue
                print(f"\n{name}: {'ours':>31} {'peer':>10}", flush=True)
                started = time.perf_counter()
                await section(setting)
                print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)
    results.write()
    return results


@asynccontextmanager
async def prepared(arguments: argparse.Namespace, results: Results, temp: Path) -> AsyncIterator[Setting]:
    """The repository, the engine and the peers; afterwards none of them is left."""
    engine, no_engine = None, "docker is not in --backends"
    if "docker" in arguments.backends:
        try:
            engine, no_engine = await asyncio.to_thread(Engine), ""
        except Exception as error:  # noqa: BLE001  docker is imported lazily, so are its exceptions
            no_engine = f"no container engine answers ({str(error)[:80]})"
            arguments.backends.remove("docker")
    repository = await asyncio.to_thread(make_repository, temp / "repository")
    counts = QUICK if arguments.quick else FULL
    backends = tuple(arguments.backends)
    setting = Setting(
        results, counts, backends, arguments.peers, temp, repository, engine, no_engine, only=arguments.only
    )
    try:
        setting.peers = await PeerProcess.start(arguments.peers)
    except DependencyMissing as error:
        setting.no_peers = str(error)
    try:
        yield setting
    finally:
        if setting.peers is not None:
            await setting.peers.close()
        if engine is not None:
            await asyncio.to_thread(clean_up, engine, results)


def clean_up(engine: Engine, results: Results) -> None:
    """Remove the plain containers; ours must be gone already."""
    own = {"label": f"{OWNER_LABEL}={owner_token()}"}
    ours = engine.client.containers.list(all=True, ignore_removed=True, filters=own)
    for container in ours:
        engine.remove(container.id)
    engine.close()
    if ours:
        results.leaks += [container.name for container in ours]
        print(f"error: sandboxes of ours were left behind (removed now): {results.leaks}", file=sys.stderr)


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--quick", action="store_true", help="a few samples: checks the script, the numbers mean little"
    )
    parser.add_argument("--only", default="", metavar="PREFIX", help="measures whose name begins so, e.g. latency/true")
    parser.add_argument("--backends", nargs="+", choices=["docker", "local"], default=["docker", "local"])
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench", help="folder that the peers are installed in")
    parser.add_argument("--install-peers", action="store_true", help="install them there first (peers/install.sh)")
    parser.add_argument("--idle", nargs=3, metavar=("BACKEND", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.peers = arguments.peers.resolve()
    if arguments.idle:
        backend, count, folder = arguments.idle
        print(json.dumps(asyncio.run(idle_bytes(backend, int(count), Path(folder)))))
        return 0
    if arguments.only and not any(name.startswith(arguments.only.split("/")[0]) for name in SECTIONS):
        parser.error(f"--only {arguments.only}: measures begin with {', '.join(SECTIONS)}")
    if arguments.install_peers:
        subprocess.run([str(ROOT / "benchmarks" / "peers" / "install.sh"), str(arguments.peers)], check=True)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    try:
        results = asyncio.run(run(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; what was started has been removed", file=sys.stderr)
        return 130
    except (SwegymError, WrongAnswer, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    results.print_summary()
    return 1 if results.leaks else 0


if __name__ == "__main__":
    sys.exit(main())
