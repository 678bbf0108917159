"""Ways out through sockets. With the network off there is nothing but a loopback of one's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes.landlock import closes_abstract_sockets
from tests.envs.sandboxes.attack import answer, attempt

pytestmark = [pytest.mark.attack, pytest.mark.asyncio(loop_scope="module")]
UNREACHABLE = {"ENETUNREACH", "ENETDOWN", "EADDRNOTAVAIL", "EPERM"}


@contextmanager
def greeting_server(address: str) -> Iterator[int]:
    """Answers every connection with a word; yields its port."""
    with socket.create_server((address, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return  # closed: the end of the test
                with connection:
                    connection.sendall(b"greeting")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def host_addresses() -> list[str]:
    """This machine's own addresses, the bridges of container engines among them."""
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return [address for address in found if ":" not in address]


async def test_servers_on_the_hosts_loopback(jail: Sandbox) -> None:
    with greeting_server("127.0.0.1") as port:
        assert await attempt(jail, f"socket.create_connection(('127.0.0.1', {port}), 5)") == "ECONNREFUSED"
        with socket.create_connection(("127.0.0.1", port)) as proof:
            assert proof.recv(8) == b"greeting"


async def test_servers_on_the_hosts_other_addresses(jail: Sandbox) -> None:
    with greeting_server("0.0.0.0") as port:
        for address in host_addresses():
            assert await attempt(jail, f"socket.create_connection(('{address}', {port}), 5)") in UNREACHABLE, address


@pytest.mark.parametrize(
    "target",
    [("169.254.169.254", 80), ("1.1.1.1", 443), ("172.17.0.1", 2375), ("10.0.0.1", 22), ("192.168.0.1", 53)],
    ids=lambda target: target[0],
)
async def test_addresses_elsewhere_are_refused_at_once(jail: Sandbox, target: tuple[str, int]) -> None:
    """By the routing table and not by a packet that nobody answers, which would cost an agent its time limit."""
    assert await attempt(jail, f"socket.create_connection({target}, 20)") in UNREACHABLE


async def test_datagrams_and_other_protocols(jail: Sandbox) -> None:
    assert await attempt(jail, "socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))") in UNREACHABLE
    assert await attempt(jail, "socket.socket(10, 2).sendto(b'x', ('2606:4700:4700::1111', 53))") in UNREACHABLE
    assert await attempt(jail, "socket.socket(2, 2).sendto(b'x', ('255.255.255.255', 9))") in {*UNREACHABLE, "EACCES"}


async def test_names_are_not_resolved(jail: Sandbox) -> None:
    script = """
        for name in ("example.com", "metadata.google.internal", "host.docker.internal", "gateway.docker.internal"):
            try:
                print(socket.getaddrinfo(name, 80))
            except socket.gaierror:
                pass
    """
    assert await answer(jail, script) == ""


async def test_there_is_only_a_loopback(jail: Sandbox) -> None:
    assert (await answer(jail, "print(*(name for _, name in socket.if_nameindex()))")).split()[0] == "lo"
    routes = await jail.run("cat /proc/net/route /proc/net/ipv6_route 2>/dev/null | grep -v ' lo$' | grep -v Iface")
    assert routes.text == ""


async def test_the_sandboxs_own_loopback_works(jail: Sandbox) -> None:
    """Test suites start servers."""
    script = """
        import threading
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "localhost")):
            if family == socket.AF_INET6 and not open("/proc/net/if_inet6").read():
                continue
            server = socket.create_server((address, 0), family=family)
            threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"), daemon=True).start()
            print(socket.create_connection(server.getsockname()[:2], 5).recv(5).decode())
    """
    assert set((await answer(jail, script)).split()) == {"hello"}


async def test_abstract_sockets_of_the_host(jail: Sandbox) -> None:
    name = f"swegym-canary-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        assert await attempt(jail, f"socket.socket(socket.AF_UNIX).connect('\\0{name}')") == "ECONNREFUSED"
        assert name not in (await jail.run("cat /proc/net/unix")).text


async def test_sockets_in_the_hosts_file_system(jail: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("socket") / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert await attempt(jail, f"socket.socket(socket.AF_UNIX).connect('{path}')") == "ENOENT"
    paths = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"]
    paths += [
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/run/crio/crio.sock",
        "/tmp/ray",
        "/tmp/.X11-unix/X0",
    ]
    for path_of_engine in paths:
        assert await attempt(jail, f"os.stat('{path_of_engine}')") == "ENOENT", path_of_engine


async def test_the_connections_of_the_host_are_not_listed(jail: Sandbox) -> None:
    with greeting_server("127.0.0.1") as port:
        assert f":{port:04X} " not in (await jail.run("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null")).text


async def test_neighbours_have_other_loopbacks(jail: Sandbox, neighbour: Sandbox) -> None:
    await neighbour.run("""python3 - <<'END' &
import socket, time
server = socket.create_server(("127.0.0.1", 7777))
other = socket.socket(socket.AF_UNIX)
other.bind("\\0neighbour")
other.listen()
open("/tmp/listening", "w").close()
time.sleep(60)
END""")
    await neighbour.run("until [[ -e /tmp/listening ]]; do sleep 0.02; done", timeout_s=20)
    assert await attempt(neighbour, "socket.create_connection(('127.0.0.1', 7777), 5)") == "done"
    assert await attempt(neighbour, "socket.socket(socket.AF_UNIX).connect('\\0neighbour')") == "done"
    assert await attempt(jail, "socket.create_connection(('127.0.0.1', 7777), 5)") == "ECONNREFUSED"
    assert await attempt(jail, "socket.socket(socket.AF_UNIX).connect('\\0neighbour')") == "ECONNREFUSED"


@pytest.fixture
def gateway(jailer: SandboxProvider) -> str:
    """An address of this machine that a sandbox with a network can reach."""
    if jailer.name == "local":
        return "127.0.0.1"
    inspected = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True, check=True).stdout
    network = json.loads(inspected)[0]
    interface = network["Options"]["com.docker.network.bridge.name"]
    if not Path("/sys/class/net", interface).exists():
        pytest.skip(f"somebody removed the engine's interface {interface}: restart the engine")
    return str(network["IPAM"]["Config"][0]["Gateway"])


async def test_a_network_when_the_spec_asks_for_one(
    jailer: SandboxProvider, jail_spec: SandboxSpec, gateway: str
) -> None:
    """Off is a setting and not a defect: the same connection is made when it is on."""
    sandbox = await jailer.create(jail_spec.model_copy(update={"network": True}))
    with greeting_server(gateway) as port:
        read = f"print(socket.create_connection(('{gateway}', {port}), 10).recv(8).decode())"
        assert await answer(sandbox, read) == "greeting"
    assert await attempt(sandbox, "socket.socket(40, socket.SOCK_STREAM)") in ("EAFNOSUPPORT", "EPERM")
    await sandbox.close()


async def test_on_the_hosts_network_its_abstract_sockets_stay_closed(
    jailer: SandboxProvider, jail_spec: SandboxSpec, gateway: str, tmp_path: Path
) -> None:
    """`local` shares the host's network when it is on, where such sockets have no owner and no mode."""
    if jailer.name == "local" and not closes_abstract_sockets():
        pytest.skip("needs Landlock of Linux 6.12")
    sandbox = await jailer.create(jail_spec.model_copy(update={"network": True}))
    name = f"swegym-canary-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        assert await attempt(sandbox, f"socket.socket(socket.AF_UNIX).connect('\\0{name}')") in (
            "EPERM",
            "ECONNREFUSED",
        )
    await sandbox.close()
