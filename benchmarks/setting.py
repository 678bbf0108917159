"""What the parts of benchmarks/sandbox.py share: how many samples, where things are, who takes part."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import Engine
from measure import Results
from peer_process import PeerProcess, swerex_image
from workload import WORKDIR

from swegym.core.errors import DependencyMissing
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider

__all__ = ["FULL", "QUICK", "Counts", "Setting"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is measured. Contenders that take seconds only take part in each n-th round."""

    latency: tuple[int, int]
    """Turns of each contender, and samples in a row at each turn."""
    mix: int
    """Passes over the mix; each gives one sample, the mean time of its commands."""
    resets: int
    resets_slow: int
    """Of the resets without a warm pool, and of the peers'."""
    forks: int
    forks_written: int
    environments: tuple[int, ...]
    block_s: float
    blocks: int
    idle: int
    """Environments whose memory is measured."""
    idle_peers: int


FULL = Counts((25, 8), 34, 200, 40, 40, 20, (1, 16, 64), 5.0, 2, 64, 8)
QUICK = Counts((2, 4), 2, 6, 2, 2, 1, (1, 4), 1.5, 1, 8, 2)


@dataclass
class Setting:
    """One run of the benchmark."""

    results: Results
    counts: Counts
    backends: tuple[str, ...]
    folder: Path
    """Where the peers are installed."""
    temp: Path
    repository: Path
    engine: Engine | None
    """None: no Docker in this run."""
    no_engine: str = ""
    only: str = ""
    peers: PeerProcess | None = None
    no_peers: str = ""
    _images: dict[str, str] = field(default_factory=dict)

    def wants(self, measure: str) -> bool:
        """Whether `--only` asks for this measure, or for a part of it."""
        return measure.startswith(self.only) or self.only.startswith(measure)

    def ours(self, stack: AsyncExitStack, backend: str, **options: Any) -> SandboxProvider:
        """A provider that lives as long as the stack."""
        provider = make_provider(backend, **options)
        stack.push_async_callback(provider.close)
        return provider

    def spec(self, workspace: Path, name: str) -> SandboxSpec:
        """Of a folder; the image that Docker makes of it is swegym/benchmark-NAME."""
        return SandboxSpec(image=f"swegym/benchmark-{name}", workspace=str(workspace), workdir=WORKDIR)

    def image_of(self, sandbox: Sandbox) -> str:
        """Name of the image that a Docker sandbox was started from: the peers' containers are started from it too."""
        assert self.engine is not None
        return str(self.engine.client.api.inspect_container(sandbox.sandbox_id)["Config"]["Image"])

    async def swerex_image(self, image: str) -> str:
        """See `peer_process.swerex_image`. Raises DependencyMissing."""
        if self.peers is None or self.engine is None:
            raise DependencyMissing(self.no_peers or self.no_engine)
        if image not in self._images:
            self._images[image] = await asyncio.to_thread(swerex_image, self.engine, image, self.folder)
        return self._images[image]
