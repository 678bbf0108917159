"""Time of one command: the same commands in the same files, by every way there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from contenders import Contender, DockerExec, ExecRun, Ours, RawPipes, RawSocket
from measure import interleave, same_output
from peer_process import Peer
from setting import Setting
from workload import COMMANDS, EDIT, MIX, MIX_NAME, WORKDIR

from swegym.core.errors import DependencyMissing

__all__ = ["measure_latency"]

RAW_DOCKER = "raw attached shell"
RAW_LOCAL = "raw host shell"
EXEC_RUN = "SDK exec_run"
DOCKER_EXEC = "docker exec"
MINI = "mini-swe-agent"
SWEREX_SESSION = "SWE-ReX session"
SWEREX_EXECUTE = "SWE-ReX execute"
PEERS = (RAW_DOCKER, RAW_LOCAL, EXEC_RUN, DOCKER_EXEC, MINI, SWEREX_SESSION, SWEREX_EXECUTE)
AIMS = {
    ("true", EXEC_RUN): 100.0,
    ("cat", EXEC_RUN): 25.0,
    ("1 MB", EXEC_RUN): 3.0,
    ("true", SWEREX_SESSION): 300.0,
}
_SLOW_OUTPUT = {SWEREX_SESSION: 4}
"""A megabyte takes SWE-ReX's session about a second."""


async def measure_latency(setting: Setting) -> None:
    """Rows latency/... for each back end of ours against each peer."""
    async with AsyncExitStack() as stack:
        contenders = await _contenders(setting, stack)
        missing = _missing(setting, contenders)
        for contender in contenders.values():
            await contender.run(EDIT)
        for name in (*COMMANDS, MIX_NAME):
            measure = f"latency/{name}"
            if not setting.wants(measure):
                continue
            commands = MIX if name == MIX_NAME else (COMMANDS[name],)
            expected: dict[str, bytes] = {}
            actions = {
                key: _action(contender, commands, expected, f"{measure}, {key}")
                for key, contender in contenders.items()
            }
            rounds, burst = (setting.counts.mix, 1) if name == MIX_NAME else setting.counts.latency
            every = _SLOW_OUTPUT if name == "1 MB" else None
            samples = await interleave(actions, rounds, every=every, burst=burst)
            for backend in setting.backends:
                for peer in PEERS:
                    _compare(setting, measure, backend, peer, samples, missing)
            setting.results.write()


async def _contenders(setting: Setting, stack: AsyncExitStack) -> dict[str, Contender]:
    contenders: dict[str, Contender] = {}
    image = ""
    for backend in setting.backends:
        sandbox = await setting.ours(stack, backend).create(setting.spec(setting.repository, "repository"))
        contenders[f"ours, {backend}"] = Ours(sandbox)
        if backend == "docker":
            image = setting.image_of(sandbox)
    if "local" in setting.backends:
        folder = setting.temp / "raw"
        await (pipes := RawPipes(setting.temp)).run(f"cp -r {setting.repository} {folder} && cd {folder}")
        stack.callback(pipes.close)
        contenders[RAW_LOCAL] = pipes
    if not image or setting.engine is None:
        return contenders
    socket = RawSocket(setting.engine, image)
    stack.callback(socket.close)
    contenders[RAW_DOCKER] = socket
    contenders[EXEC_RUN] = ExecRun(setting.engine.start(image))
    contenders[DOCKER_EXEC] = DockerExec(setting.engine.start(image))
    if setting.peers is not None:
        common = {"label": setting.engine.label, "workdir": WORKDIR}
        await setting.peers.ask("open", name="mini", peer="mini", image=image, network="none", **common)
        contenders[MINI] = Peer(setting.peers, "mini")
        try:
            swerex = await setting.swerex_image(image)
        except DependencyMissing as error:
            setting.results.leave_out("latency", "SWE-ReX", str(error))
            return contenders
        network = setting.engine.network
        await setting.peers.ask("open", name="swerex", peer="swerex", image=swerex, network=network, **common)
        contenders[SWEREX_SESSION] = Peer(setting.peers, "swerex", "session")
        contenders[SWEREX_EXECUTE] = Peer(setting.peers, "swerex", "execute")
    return contenders


def _missing(setting: Setting, contenders: dict[str, Contender]) -> dict[str, str]:
    """Why a peer does not take part."""
    reasons = {}
    for peer in PEERS:
        if peer in contenders:
            continue
        by_peers = setting.no_peers if peer in (MINI, SWEREX_SESSION, SWEREX_EXECUTE) else ""
        reasons[peer] = setting.no_engine or by_peers or "its back end is not in --backends"
    return reasons


def _action(
    contender: Contender, commands: tuple[str, ...], expected: dict[str, bytes], what: str
) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        seconds = 0.0
        for command in commands:
            answer = await contender.run(command)
            if answer.exit_code != 0:
                raise RuntimeError(f"{what}: {command!r} ended with {answer.exit_code}: {answer.output[-300:]!r}")
            same_output(expected.setdefault(command, answer.output), answer.output, f"{what}: {command!r}")
            seconds += answer.seconds
        return seconds / len(commands)

    return run


def _compare(
    setting: Setting, measure: str, backend: str, peer: str, samples: dict[str, list[float]], missing: dict[str, str]
) -> None:
    if peer == (RAW_DOCKER if backend == "local" else RAW_LOCAL):
        return  # the bound of the other back end
    if peer in missing:
        setting.results.leave_out(f"{measure} ({backend})", peer, missing[peer])
        return
    ours, against = ([seconds * 1000 for seconds in samples[key]] for key in (f"ours, {backend}", peer))
    aim = None
    if backend == "docker":
        aim = 0.5 if peer == RAW_DOCKER else AIMS.get((measure.removeprefix("latency/"), peer))
    setting.results.compare(f"{measure} ({backend})", ours, against, peer, "ms", aim=aim)
